//! Common type for a column that files store in different types, and exact conversion of arrays to it.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryViewArray, FixedSizeListArray, GenericListArray, MapArray,
    OffsetSizeTrait, StringViewArray, StructArray, new_null_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Fields};
use datafusion::arrow::error::ArrowError;

/// Converts `array` to `to` exactly: no number is rounded, no text cut, and a value that does not fit does not become
/// NULL.
///
/// Struct fields are matched by name at any depth; missing ones become NULL and extra ones are dropped. Arrow's own
/// `cast` does not do that in lists and maps, as Delta tables and files of several writers need.
///
/// # Errors
/// Names the value that does not fit, or the two types if no value would.
pub(crate) fn adapt(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    nested(array, to, &exact_cast)
}

/// Bytes of an image column, which are its values or the field `bytes` of them.
///
/// # Errors
/// Names the column's type if it has no bytes.
pub fn image_bytes(column: &ArrayRef) -> Result<BinaryViewArray, ArrowError> {
    let bytes = column.as_struct_opt().and_then(|parts| parts.column_by_name("bytes")).unwrap_or(column);
    Ok(adapt(bytes, &DataType::BinaryView)?.as_binary_view().clone())
}

/// Variant of [`adapt`] for an `array` with bytes in place of texts; U+FFFD replaces invalid UTF-8.
pub(crate) fn with_lossy_texts(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    nested(array, to, &|array, to| {
        if !is_binary(array.data_type()) || !to.is_string() {
            return exact_cast(array, to);
        }
        let bytes = plain_cast(array, &DataType::BinaryView)?;
        let texts = bytes.as_binary_view().iter().map(|bytes| bytes.map(String::from_utf8_lossy));
        plain_cast(&(Arc::new(texts.collect::<StringViewArray>()) as ArrayRef), to)
    })
}

/// Cast of an array that is not nested.
type Leaf<'a> = &'a dyn Fn(&ArrayRef, &DataType) -> Result<ArrayRef, ArrowError>;

fn nested(array: &ArrayRef, to: &DataType, leaf: Leaf<'_>) -> Result<ArrayRef, ArrowError> {
    use DataType::{Dictionary, FixedSizeList, LargeList, List, Map, Null, Struct};
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), to) {
        (Null, _) => Ok(new_null_array(to, array.len())),
        (Dictionary(_, value), _) if !matches!(to, Dictionary(..)) => nested(&plain_cast(array, value)?, to, leaf),
        (Struct(_), Struct(fields)) => {
            let parts = array.as_struct();
            let columns = fields.iter().map(|field| match parts.column_by_name(field.name()) {
                Some(part) => nested(part, field.data_type(), leaf),
                None => Ok(new_null_array(field.data_type(), parts.len())),
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let nulls = parts.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, parts.len())?))
        }
        (Map(..), Map(entries, ordered)) => {
            let map = array.as_map();
            // Writers name the two fields of a map entry differently.
            let Struct(fields) = entries.data_type() else { return plain_cast(array, to) };
            let (offsets, from, length) = from_zero(map.offsets());
            let own = map.entries().slice(from, length);
            let parts = fields.iter().zip(own.columns()).map(|(field, part)| nested(part, field.data_type(), leaf));
            let parts = StructArray::try_new(fields.clone(), parts.collect::<Result<_, _>>()?, None)?;
            let (entries, nulls) = (Arc::clone(entries), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entries, offsets, parts, nulls, *ordered)?))
        }
        (FixedSizeList(_, length), FixedSizeList(item, wanted)) if length == wanted => {
            let list = array.as_fixed_size_list();
            let values = nested(list.values(), item.data_type(), leaf)?;
            Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *length, values, list.nulls().cloned())?))
        }
        (from, List(item)) if from.is_list() => items::<i32>(array, item, leaf),
        (from, LargeList(item)) if from.is_list() => items::<i64>(array, item, leaf),
        _ => leaf(array, to),
    }
}

/// Variant of [`adapt`] for an array that is not nested.
fn exact_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), to) {
        (from, DataType::Float64) if from.is_integer() => {
            exact(array)?;
            plain_cast(array, to)
        }
        (from, DataType::Float64) if from.is_string() => {
            let texts = plain_cast(array, &DataType::Utf8View)?;
            match texts.as_string_view().iter().flatten().find(|text| !is_exact(text)) {
                Some(number) => Err(would_be_rounded(number)),
                None => plain_cast(array, to),
            }
        }
        // Views are validated value by value. Other casts validate the whole buffer, including the neighbours of a
        // slice.
        (from, to) if is_binary(from) && to.is_string() => {
            let texts = plain_cast(&plain_cast(array, &DataType::BinaryView)?, &DataType::Utf8View)?;
            plain_cast(&texts, to)
        }
        // Arrow casts FixedSizeBinary to a view only via Binary.
        (DataType::FixedSizeBinary(_), to) if is_binary(to) => plain_cast(&plain_cast(array, &DataType::Binary)?, to),
        _ => plain_cast(array, to),
    }
}

/// Arrow's cast, which here fails on a value that does not fit.
fn plain_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

/// Item field of any kind of list.
fn item_of(of: &DataType) -> Option<&FieldRef> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
    match of {
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => Some(item),
        _ => None,
    }
}

/// Converts a list of any kind to one with the item field `item`.
fn items<O: OffsetSizeTrait>(array: &ArrayRef, item: &FieldRef, leaf: Leaf<'_>) -> Result<ArrayRef, ArrowError> {
    let own = Arc::clone(item_of(array.data_type()).unwrap_or(item));
    let lists = plain_cast(array, &GenericListArray::<O>::DATA_TYPE_CONSTRUCTOR(own))?;
    let lists = lists.as_list::<O>();
    let (offsets, from, length) = from_zero(lists.offsets());
    let values = nested(&lists.values().slice(from, length), item.data_type(), leaf)?;
    Ok(Arc::new(GenericListArray::try_new(Arc::clone(item), offsets, values, lists.nulls().cloned())?))
}

/// Offsets rebased to zero, and start and length of the values they cover: a sliced list array still has all values,
/// and errors in values outside the slice must not count.
fn from_zero<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (OffsetBuffer<O>, usize, usize) {
    let (from, to) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    if from == 0 {
        return (offsets.clone(), 0, to);
    }
    (OffsetBuffer::from_lengths(offsets.lengths()), from, to - from)
}

/// Refuses integers that a Float64 would round.
fn exact(numbers: &ArrayRef) -> Result<(), ArrowError> {
    let wide = plain_cast(numbers, &DataType::Decimal128(20, 0))?;
    // Converted back to i128, a rounded number never equals the original.
    let mut rounded = wide.as_primitive::<Decimal128Type>().iter().flatten().filter(|n| (*n as f64) as i128 != *n);
    rounded.next().map_or(Ok(()), |number| Err(would_be_rounded(number)))
}

/// Whether a written number converts to Float64 without loss: it is not an integer, or it has an exact Float64.
fn is_exact(text: &str) -> bool {
    let text = text.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    // Every integer up to 2^53 has an exact f64.
    if digits.len() < 16 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return true;
    }
    match (text.parse::<i128>(), text.parse::<f64>()) {
        (Ok(whole), Ok(fraction)) => fraction as i128 == whole,
        _ => false,
    }
}

/// Error for an integer beside fractions: rounded, an id might become another one.
fn would_be_rounded(number: impl std::fmt::Display) -> ArrowError {
    ArrowError::CastError(format!(
        "the whole number {number} would be rounded as a fraction: write the column as text (JSON lines in quotes, or Parquet), and \
         give --overwrite where the job has begun"
    ))
}

/// Type that holds every value of both types unchanged; `None` if there is no such type, as for texts and numbers.
///
/// Between equivalent encodings, such as short and long texts, that of `a` is kept.
pub(crate) fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{
        Binary, Date32, Date64, Decimal128, Dictionary, Duration, FixedSizeBinary, FixedSizeList, Float64, LargeList,
        LargeListView, List, Map, Null, Struct, Time32, Time64, Timestamp,
    };
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        (Dictionary(_, value), other) | (other, Dictionary(_, value)) => common(value, other),
        (a, b) if a.is_integer() && b.is_integer() => integer(a, b),
        (a, b) if a.is_floating() && b.is_floating() => {
            Some(if a.primitive_width() >= b.primitive_width() { a.clone() } else { b.clone() })
        }
        (a, b) if (a.is_integer() && b.is_floating()) || (a.is_floating() && b.is_integer()) => Some(Float64),
        (a, b) if a.is_string() && b.is_string() => Some(a.clone()),
        (FixedSizeBinary(_), FixedSizeBinary(_)) => Some(Binary),
        (FixedSizeBinary(_), other) | (other, FixedSizeBinary(_)) if is_binary(other) => Some(other.clone()),
        (a, b) if is_binary(a) && is_binary(b) => Some(a.clone()),
        (Decimal128(digits, scale), Decimal128(others, other)) => {
            let whole = (i16::from(*digits) - i16::from(*scale)).max(i16::from(*others) - i16::from(*other));
            let scale = *scale.max(other);
            let digits = u8::try_from(whole + i16::from(scale)).ok()?;
            (digits <= 38).then_some(Decimal128(digits, scale))
        }
        // A time zone affects only how an instant is shown.
        (Timestamp(unit, zone), Timestamp(other, beside)) if zone.is_some() == beside.is_some() => {
            Some(Timestamp(*unit.max(other), zone.clone()))
        }
        (Duration(unit), Duration(other)) => Some(Duration(*unit.max(other))),
        (Time32(unit) | Time64(unit), Time32(other) | Time64(other)) => Some(time(*unit.max(other))),
        (Date32, Date64) | (Date64, Date32) => Some(Date64),
        (Struct(a), Struct(b)) => fields(a, b).map(Struct),
        (Map(a, a_sorted), Map(b, b_sorted)) => {
            let (Struct(theirs), Struct(others)) = (a.data_type(), b.data_type()) else { return None };
            let [key, value] = [0, 1].map(|at| Some((theirs.get(at)?, others.get(at)?)));
            let parts: Fields = [field(key?.0, key?.1)?, field(value?.0, value?.1)?].into_iter().collect();
            let entries = a.as_ref().clone().with_data_type(Struct(parts));
            Some(Map(Arc::new(entries), *a_sorted && *b_sorted))
        }
        (FixedSizeList(a, length), FixedSizeList(b, other)) if length == other => {
            Some(FixedSizeList(Arc::new(field(a, b)?), *length))
        }
        (a, b) => {
            let item = Arc::new(field(item_of(a)?, item_of(b)?)?);
            let is_long = [a, b].into_iter().any(|of| matches!(of, LargeList(_) | LargeListView(_)));
            Some(if is_long { LargeList(item) } else { List(item) })
        }
    }
}

/// Smallest integer type that holds both.
fn integer(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Int8, Int16, Int32, Int64};
    let (long, short) = if a.primitive_width() >= b.primitive_width() { (a, b) } else { (b, a) };
    if long.is_signed_integer() == short.is_signed_integer() {
        return Some(long.clone());
    }
    if long.is_signed_integer() && long.primitive_width() > short.primitive_width() {
        return Some(long.clone());
    }
    // A signed type must be wider than the unsigned one.
    [Int8, Int16, Int32, Int64].into_iter().find(|signed| signed.primitive_width() > long.primitive_width())
}

fn time(unit: datafusion::arrow::datatypes::TimeUnit) -> DataType {
    use datafusion::arrow::datatypes::TimeUnit::{Millisecond, Second};
    match unit {
        Second | Millisecond => DataType::Time32(unit),
        _ => DataType::Time64(unit),
    }
}

pub(crate) fn is_binary(of: &DataType) -> bool {
    matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Field `a` with the common type of both.
fn field(a: &Field, b: &Field) -> Option<Field> {
    let of = common(a.data_type(), b.data_type())?;
    Some(a.clone().with_data_type(of).with_nullable(a.is_nullable() || b.is_nullable()))
}

/// Union of the fields by name, those of `a` first. A field that only one side has is nullable.
fn fields(a: &Fields, b: &Fields) -> Option<Fields> {
    let mut all = Vec::with_capacity(a.len());
    for one in a {
        all.push(match b.find(one.name()) {
            Some((_, other)) => field(one, other)?,
            None => one.as_ref().clone().with_nullable(true),
        });
    }
    let more = b.iter().filter(|other| a.find(other.name()).is_none());
    all.extend(more.map(|other| other.as_ref().clone().with_nullable(true)));
    Some(all.into())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        BinaryArray, DictionaryArray, Float64Array, Int8Array, Int32Array, Int64Array, ListArray, MapBuilder,
        StringArray, StringBuilder, UInt64Array,
    };
    use datafusion::arrow::datatypes::TimeUnit::{Microsecond, Nanosecond, Second};
    use datafusion::arrow::datatypes::{Int8Type, Int64Type, UInt8Type};

    use super::*;

    fn structs(parts: Vec<(&str, ArrayRef)>) -> ArrayRef {
        let parts =
            parts.into_iter().map(|(name, part)| (Arc::new(Field::new(name, part.data_type().clone(), true)), part));
        Arc::new(StructArray::from(parts.collect::<Vec<_>>()))
    }

    fn list(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
        let item = Arc::new(Field::new("item", values.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Arc::new(ListArray::new(item, offsets, values, None))
    }

    #[test]
    fn types_that_hold_both() {
        use DataType::{
            Binary, Boolean, Date32, Date64, Decimal128, FixedSizeBinary, Float32, Float64, Int8, Int16, Int32, Int64,
            LargeUtf8, Null, Time32, Time64, Timestamp, UInt8, UInt32, UInt64, Utf8,
        };
        let dictionary = |value| DataType::Dictionary(Box::new(Int8), Box::new(value));
        let utc = || Some(Arc::from("UTC"));
        for (a, b, both) in [
            (Null, Int32, Some(Int32)),
            (Int8, Int64, Some(Int64)),
            (UInt8, Int8, Some(Int16)),
            (UInt8, Int32, Some(Int32)),
            (UInt32, Int32, Some(Int64)),
            (UInt64, Int64, None),
            (Int64, Float32, Some(Float64)),
            (Float32, Float64, Some(Float64)),
            (Utf8, LargeUtf8, Some(Utf8)),
            (LargeUtf8, dictionary(Utf8), Some(Utf8)),
            (FixedSizeBinary(4), FixedSizeBinary(8), Some(Binary)),
            (Decimal128(10, 2), Decimal128(9, 4), Some(Decimal128(12, 4))),
            (Decimal128(38, 0), Decimal128(38, 4), None),
            (Timestamp(Microsecond, utc()), Timestamp(Nanosecond, utc()), Some(Timestamp(Nanosecond, utc()))),
            (Timestamp(Microsecond, None), Timestamp(Nanosecond, utc()), None),
            (Time32(Second), Time64(Microsecond), Some(Time64(Microsecond))),
            (Date32, Date64, Some(Date64)),
            (Utf8, Int64, None),
            (Boolean, Int8, None),
            (Utf8, Binary, None),
        ] {
            assert_eq!(common(&a, &b), both, "{a}, {b}");
            if !a.is_string() && !b.is_string() {
                assert_eq!(common(&b, &a), both, "{b}, {a}");
            }
        }
    }

    #[test]
    fn nested_types_are_adapted_by_name() {
        let ids: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let nothing = new_null_array(&DataType::Null, 3);
        let old = structs(vec![("id", Arc::clone(&ids)), ("path", nothing)]);
        let long: ArrayRef = Arc::new(Int64Array::from(vec![4, 5, 6]));
        let new = structs(vec![("path", Arc::clone(&names)), ("id", Arc::clone(&long)), ("more", names)]);
        let both = common(old.data_type(), new.data_type()).unwrap();
        let DataType::Struct(parts) = &both else { panic!("{both}") };
        let fields: Vec<_> = parts.iter().map(|part| (part.name().as_str(), part.data_type().clone())).collect();
        let text = DataType::Utf8;
        assert_eq!(fields, [("id", DataType::Int64), ("path", text.clone()), ("more", text)]);
        let adapted = adapt(&old, &both).unwrap();
        assert_eq!(adapted.data_type(), &both);
        assert_eq!(adapted.as_struct().column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
        assert_eq!((1..3).map(|at| adapted.as_struct().column(at).null_count()).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(adapt(&new, &both).unwrap().as_struct().column(0), &long);

        // The same in lists, and in maps, whose entry fields each writer names differently.
        let lists = [list(old, &[1, 0, 2]), list(new, &[3, 0, 0])];
        let both = common(lists[0].data_type(), lists[1].data_type()).unwrap();
        for one in &lists {
            let adapted = adapt(one, &both).unwrap();
            assert_eq!((adapted.data_type(), adapted.len()), (&both, 3));
            assert_eq!(adapted.as_list::<i32>().offsets(), one.as_list::<i32>().offsets());
        }
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("k");
        map.values().append_value("v");
        map.append(true).unwrap();
        let map: ArrayRef = Arc::new(map.finish());
        let entry = Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::LargeUtf8, true),
        ]);
        let entries = Field::new("key_value", DataType::Struct(entry), false);
        let other = DataType::Map(Arc::new(entries), false);
        let adapted = adapt(&map, &other).unwrap();
        assert_eq!(adapted.as_map().value(0).column(1).as_string::<i64>().value(0), "v");
        assert_eq!(common(&other, map.data_type()), Some(other));
    }

    #[test]
    fn no_value_becomes_another() {
        let well: ArrayRef = Arc::new(Int64Array::from(vec![Some(1 << 53), None, Some(i64::MIN)]));
        let floats = adapt(&well, &DataType::Float64).unwrap();
        assert_eq!(floats.as_ref(), &Float64Array::from(vec![Some(9007199254740992.0), None, Some(i64::MIN as f64)]));
        let odd: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(vec![0, (1 << 53) + 1])),
            Arc::new(Int64Array::from(vec![i64::MAX])),
            Arc::new(UInt64Array::from(vec![u64::MAX])),
        ];
        for odd in odd {
            let said = adapt(&odd, &DataType::Float64).unwrap_err().to_string();
            assert!(said.contains("would be rounded"), "{said}");
            let nested = list(Arc::clone(&odd), &[odd.len()]);
            assert!(adapt(&nested, &DataType::new_list(DataType::Float64, true)).is_err());
        }
        assert!(adapt(&well, &DataType::Int32).is_err());
    }

    #[test]
    fn dictionaries_become_their_values() {
        let keys = Int8Array::from(vec![Some(1), None, Some(0)]);
        let texts = DictionaryArray::<Int8Type>::new(keys.clone(), Arc::new(StringArray::from(vec!["a", "b"])));
        let texts: ArrayRef = Arc::new(texts);
        let adapted = adapt(&texts, &DataType::Utf8View).unwrap();
        assert_eq!(adapted.as_string_view().iter().collect::<Vec<_>>(), [Some("b"), None, Some("a")]);
        let nested = adapt(&list(texts, &[2, 1]), &DataType::new_list(DataType::Utf8, true)).unwrap();
        assert_eq!(nested.as_list::<i32>().value(1).as_string::<i32>().value(0), "a");
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(["x", "y"]));
        let bytes = DictionaryArray::<UInt8Type>::new(
            vec![1, 0].into(),
            plain_cast(&bytes, &DataType::FixedSizeBinary(1)).unwrap(),
        );
        let bytes: ArrayRef = Arc::new(bytes);
        assert_eq!(adapt(&bytes, &DataType::BinaryView).unwrap().as_binary_view().value(0), b"y");
    }

    #[test]
    fn texts_that_are_none_are_replaced_where_they_are() {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values([&b"a cat"[..], b"caf\xe9", b"a dog"]));
        let nested = list(structs(vec![("path", Arc::clone(&bytes))]), &[1, 1, 1]);
        let text = |of: DataType| DataType::new_list(DataType::Struct(vec![Field::new("path", of, true)].into()), true);
        for (array, to) in [(bytes, DataType::Utf8View), (nested, text(DataType::Utf8))] {
            assert!(adapt(&array, &to).is_err());
            let rows: Vec<bool> = (0..3).map(|row| adapt(&array.slice(row, 1), &to).is_ok()).collect();
            assert_eq!(rows, [true, false, true], "{to}");
            let lossy = with_lossy_texts(&array, &to).unwrap();
            assert_eq!(lossy.data_type(), &to);
            let shown = datafusion::arrow::util::display::array_value_to_string(&lossy, 1).unwrap();
            assert!(shown.contains("caf\u{fffd}"), "{shown}");
        }
    }
}
