//! A text argument: any string type, as a column or a constant.

use datafusion::arrow::array::{
    AnyDictionaryArray, Array, ArrayRef, AsArray, LargeStringArray, StringArray, StringViewArray,
};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

/// Returns a plan error unless `given` is a string type, a dictionary of one, or NULL.
pub(crate) fn check_type(function: &str, name: &str, given: &DataType) -> Result<()> {
    match given {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(()),
        DataType::Dictionary(_, values) if !matches!(values.as_ref(), DataType::Dictionary(..)) => {
            check_type(function, name, values)
        }
        _ => plan_err!(
            "{function}: argument {name} must be a string (Utf8, LargeUtf8, Utf8View or a dictionary of them), \
             not {given}"
        ),
    }
}

/// Rows of a text argument.
#[derive(Debug)]
pub(crate) enum TextArg<'a> {
    Constant(Option<&'a str>),
    Utf8(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
    Dictionary { array: &'a ArrayRef, keys: Vec<usize>, values: Box<TextArg<'a>> },
}

impl<'a> TextArg<'a> {
    /// Reads an argument whose type [`check_type`] accepted.
    pub(crate) fn new(value: &'a ColumnarValue) -> Result<Self> {
        match value {
            ColumnarValue::Scalar(ScalarValue::Null) => Ok(Self::Constant(None)),
            ColumnarValue::Scalar(scalar) => match scalar.try_as_str() {
                Some(text) => Ok(Self::Constant(text)),
                None => internal_err!("a text argument of type {}", scalar.data_type()),
            },
            ColumnarValue::Array(array) => Self::of_array(array),
        }
    }

    /// Reads a column.
    pub(crate) fn of_array(array: &'a ArrayRef) -> Result<Self> {
        match array.data_type() {
            DataType::Null => Ok(Self::Constant(None)),
            DataType::Utf8 => Ok(Self::Utf8(array.as_string())),
            DataType::LargeUtf8 => Ok(Self::Large(array.as_string())),
            DataType::Utf8View => Ok(Self::View(array.as_string_view())),
            DataType::Dictionary(..) => {
                let dictionary: &'a dyn AnyDictionaryArray = array.as_any_dictionary();
                // Arrow cannot normalise keys of a dictionary without values.
                if dictionary.values().is_empty() {
                    return Ok(Self::Constant(None));
                }
                let values = Box::new(Self::of_array(dictionary.values())?);
                Ok(Self::Dictionary { array, keys: dictionary.normalized_keys(), values })
            }
            other => internal_err!("a text column of type {other}"),
        }
    }

    /// Text of `row`, if not NULL.
    pub(crate) fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Constant(text) => *text,
            Self::Utf8(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Dictionary { array, keys, values } => array.is_valid(row).then(|| values.get(keys[row])).flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::new_null_array;
    use datafusion::arrow::compute::cast;

    use super::*;

    #[test]
    fn every_string_type_reads_alike() -> Result<()> {
        let plain: ArrayRef =
            Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("a longer text than a view holds")]));
        let dictionary = |values| DataType::Dictionary(Box::new(DataType::Int16), Box::new(values));
        for data_type in [
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Utf8View,
            dictionary(DataType::Utf8),
            dictionary(DataType::LargeUtf8),
        ] {
            check_type("f", "text", &data_type)?;
            let array = cast(&plain, &data_type)?;
            let column = ColumnarValue::Array(Arc::clone(&array));
            let arg = TextArg::new(&column)?;
            for (row, expected) in plain.as_string::<i32>().iter().enumerate() {
                assert_eq!(arg.get(row), expected, "{data_type} row {row}");
                let scalar = ColumnarValue::Scalar(ScalarValue::try_from_array(&array, row)?);
                assert_eq!(TextArg::new(&scalar)?.get(7), expected, "{data_type} constant {row}");
            }
            let sliced = ColumnarValue::Array(array.slice(2, 2));
            assert_eq!(TextArg::new(&sliced)?.get(0), Some(""));
        }
        let nulls = ColumnarValue::Array(new_null_array(&DataType::Null, 3));
        assert_eq!(TextArg::new(&nulls)?.get(2), None);
        // A dictionary without values, all keys NULL.
        let empty = ColumnarValue::Array(new_null_array(&dictionary(DataType::Utf8), 2));
        assert_eq!(TextArg::new(&empty)?.get(1), None);
        let error = check_type("itm_score", "text", &DataType::Int64).unwrap_err().to_string();
        assert!(error.contains("itm_score: argument text must be a string"), "{error}");
        Ok(())
    }
}
