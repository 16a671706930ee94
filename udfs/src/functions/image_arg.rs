//! An image argument: encoded bytes of any binary type, or a struct that contains them, as a column or a constant. The
//! bytes are never copied.

use datafusion::arrow::array::{
    AnyDictionaryArray, Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray,
    StructArray,
};
use datafusion::arrow::datatypes::{DataType, Fields};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::ColumnarValue;
use sha2::{Digest, Sha256};

use super::text_arg::{self, TextArg};

const ALLOWED: &str =
    "Binary, LargeBinary, BinaryView, FixedSizeBinary, a dictionary of them, or a struct with a field bytes of them";

/// Returns a plan error unless `given` can hold images.
pub(crate) fn check_type(function: &str, given: &DataType) -> Result<()> {
    match given {
        DataType::Struct(fields) => match fields.find("bytes") {
            Some((_, bytes)) if is_bytes(bytes.data_type()) => Ok(()),
            Some((_, bytes)) => {
                plan_err!(
                    "{function}: argument image is a struct whose field bytes is {}: it must be {ALLOWED}",
                    bytes.data_type()
                )
            }
            None => plan_err!(
                "{function}: argument image is a struct without a field bytes, it has: {}",
                fields.iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
            ),
        },
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => plan_err!(
            "{function}: argument image must be the encoded bytes ({ALLOWED}), not {given}: a path or URL \
             is not read here"
        ),
        _ if is_bytes(given) => Ok(()),
        _ => plan_err!("{function}: argument image must be {ALLOWED}, not {given}"),
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => !matches!(values.as_ref(), DataType::Dictionary(..)) && is_bytes(values),
        t => matches!(
            t,
            DataType::Null
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        ),
    }
}

/// Index of the field `path` next to `bytes`, if it is a string.
fn path_column(fields: &Fields) -> Option<usize> {
    fields.find("path").filter(|(_, f)| text_arg::check_type("", "path", f.data_type()).is_ok()).map(|(i, _)| i)
}

#[derive(Debug)]
enum Bytes<'a> {
    Constant(Option<&'a [u8]>),
    Binary(&'a BinaryArray),
    Large(&'a LargeBinaryArray),
    View(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
    Dictionary { array: &'a ArrayRef, keys: Vec<usize>, values: Box<Bytes<'a>> },
}

impl<'a> Bytes<'a> {
    fn of_array(array: &'a ArrayRef) -> Result<Self> {
        match array.data_type() {
            DataType::Null => Ok(Self::Constant(None)),
            DataType::Binary => Ok(Self::Binary(array.as_binary())),
            DataType::LargeBinary => Ok(Self::Large(array.as_binary())),
            DataType::BinaryView => Ok(Self::View(array.as_binary_view())),
            DataType::FixedSizeBinary(_) => Ok(Self::Fixed(array.as_fixed_size_binary())),
            DataType::Dictionary(..) => {
                let dictionary: &'a dyn AnyDictionaryArray = array.as_any_dictionary();
                // Arrow cannot normalise keys of a dictionary without values.
                if dictionary.values().is_empty() {
                    return Ok(Self::Constant(None));
                }
                let values = Box::new(Self::of_array(dictionary.values())?);
                Ok(Self::Dictionary { array, keys: dictionary.normalized_keys(), values })
            }
            other => internal_err!("an image column of type {other}"),
        }
    }

    fn of_scalar(scalar: &'a ScalarValue) -> Result<Self> {
        match scalar {
            ScalarValue::Null => Ok(Self::Constant(None)),
            ScalarValue::Binary(b)
            | ScalarValue::LargeBinary(b)
            | ScalarValue::BinaryView(b)
            | ScalarValue::FixedSizeBinary(_, b) => Ok(Self::Constant(b.as_deref())),
            ScalarValue::Dictionary(_, value) => Self::of_scalar(value),
            other => internal_err!("an image argument of type {}", other.data_type()),
        }
    }

    fn get(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Self::Constant(bytes) => *bytes,
            Self::Binary(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Fixed(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Dictionary { array, keys, values } => array.is_valid(row).then(|| values.get(keys[row])).flatten(),
        }
    }
}

/// Rows of an image argument.
#[derive(Debug)]
pub(crate) struct ImageArg<'a> {
    bytes: Bytes<'a>,
    path: Option<TextArg<'a>>,
    /// Struct that contains the bytes.
    outer: Option<&'a StructArray>,
    /// Whether every row equals the first.
    constant: bool,
}

impl<'a> ImageArg<'a> {
    /// Reads an argument whose type [`check_type`] accepted.
    pub(crate) fn new(value: &'a ColumnarValue) -> Result<Self> {
        match value {
            ColumnarValue::Scalar(ScalarValue::Struct(array)) => Self::of_struct(array, true),
            ColumnarValue::Scalar(scalar) => {
                Ok(Self { bytes: Bytes::of_scalar(scalar)?, path: None, outer: None, constant: true })
            }
            ColumnarValue::Array(array) => match array.as_struct_opt() {
                Some(array) => Self::of_struct(array, false),
                None => Ok(Self { bytes: Bytes::of_array(array)?, path: None, outer: None, constant: false }),
            },
        }
    }

    fn of_struct(array: &'a StructArray, constant: bool) -> Result<Self> {
        let Some(bytes) = array.column_by_name("bytes") else {
            return internal_err!("an image struct without bytes");
        };
        let path = match path_column(array.fields()) {
            Some(i) => Some(TextArg::of_array(array.column(i))?),
            None => None,
        };
        Ok(Self { bytes: Bytes::of_array(bytes)?, path, outer: Some(array), constant })
    }

    fn place(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }

    /// Whether `row` is a non-NULL struct, even without bytes.
    pub(crate) fn is_struct(&self, row: usize) -> bool {
        self.outer.is_some_and(|s| s.is_valid(self.place(row)))
    }

    /// Encoded bytes of `row`, if not NULL.
    pub(crate) fn get(&self, row: usize) -> Option<&'a [u8]> {
        let place = self.place(row);
        let there = self.outer.is_none_or(|s| s.is_valid(place));
        if there { self.bytes.get(place) } else { None }
    }

    /// Path of `row`, if it is a struct with one.
    pub(crate) fn path(&self, row: usize) -> Option<&'a str> {
        if self.is_struct(row) { self.path.as_ref()?.get(self.place(row)) } else { None }
    }
}

/// SHA-256 of encoded images. Adjacent rows that share their bytes in memory, as after UNNEST, are hashed once.
#[derive(Debug, Default)]
pub(crate) struct Digests<'a> {
    last: Option<(&'a [u8], [u8; 32])>,
}

impl<'a> Digests<'a> {
    pub(crate) fn of(&mut self, bytes: &'a [u8]) -> [u8; 32] {
        match self.last {
            Some((last, digest)) if std::ptr::eq(last, bytes) => digest,
            _ => {
                let digest = Sha256::digest(bytes).into();
                self.last = Some((bytes, digest));
                digest
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{StringArray, new_null_array};
    use datafusion::arrow::buffer::NullBuffer;
    use datafusion::arrow::compute::cast;
    use datafusion::arrow::datatypes::Field;

    use super::*;

    const ROWS: [Option<&[u8]>; 3] = [Some(b"one"), None, Some(b"two")];

    fn check(array: &ArrayRef, expected: &[Option<&[u8]>]) -> Result<()> {
        check_type("f", array.data_type())?;
        let column = ColumnarValue::Array(Arc::clone(array));
        let arg = ImageArg::new(&column)?;
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(arg.get(row), *expected, "{} row {row}", array.data_type());
            let scalar = ColumnarValue::Scalar(ScalarValue::try_from_array(array, row)?);
            assert_eq!(ImageArg::new(&scalar)?.get(5), *expected, "{} constant {row}", array.data_type());
        }
        Ok(())
    }

    #[test]
    fn every_binary_type_reads_alike() -> Result<()> {
        let plain: ArrayRef = Arc::new(BinaryArray::from(ROWS.to_vec()));
        for data_type in [
            DataType::Binary,
            DataType::LargeBinary,
            DataType::BinaryView,
            DataType::FixedSizeBinary(3),
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Binary)),
        ] {
            let array = cast(&plain, &data_type)?;
            check(&array, &ROWS)?;
            check(&array.slice(1, 2), &ROWS[1..])?;
            check(&array.slice(0, 0), &[])?;
            let fields = vec![Field::new("bytes", data_type, true), Field::new("path", DataType::Utf8, true)];
            let paths: ArrayRef = Arc::new(StringArray::from(vec![Some("a.jpg"), None, Some("c.jpg")]));
            let nulls = NullBuffer::from(vec![true, true, false]);
            let outer: ArrayRef = Arc::new(StructArray::try_new(fields.into(), vec![array, paths], Some(nulls))?);
            check(&outer, &[ROWS[0], None, None])?;
            let column = ColumnarValue::Array(outer);
            let arg = ImageArg::new(&column)?;
            assert_eq!((arg.path(0), arg.path(1), arg.path(2)), (Some("a.jpg"), None, None));
            assert!(arg.is_struct(1) && !arg.is_struct(2));
        }
        check(&new_null_array(&DataType::Null, 2), &[None, None])
    }

    #[test]
    fn other_types_are_refused() {
        let error = |t: DataType| check_type("caption", &t).unwrap_err().to_string();
        assert!(error(DataType::Utf8).contains("a path or URL is not read here"));
        assert!(error(DataType::Int64).contains("caption: argument image must be Binary"));
        let url = Field::new("url", DataType::Utf8, true);
        assert!(error(DataType::Struct(vec![url].into())).contains("without a field bytes, it has: url"));
        let text = Field::new("bytes", DataType::Utf8, true);
        assert!(error(DataType::Struct(vec![text].into())).contains("whose field bytes is Utf8"));
    }

    #[test]
    fn shared_bytes_are_hashed_once() {
        let (a, b) = (b"abc".to_vec(), b"abc".to_vec());
        let mut digests = Digests::default();
        let first = digests.of(&a);
        assert_eq!(hex::encode(first), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digests.of(&a), first);
        assert_eq!(digests.of(&b), first);
        assert_ne!(digests.of(&a[1..]), first);
    }
}
