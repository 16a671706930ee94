//! Columns of files that are older than a part of the table's schema.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray,
    new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields};
use datafusion::arrow::error::ArrowError;

/// A column as `wanted`. Structs, in lists and maps too, go by the names of their fields: one that the column lacks is NULL in all its
/// rows.
pub(super) fn adapt(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct};
    match (column.data_type(), wanted) {
        (found, wanted) if found == wanted => Ok(Arc::clone(column)),
        (Struct(_), Struct(fields)) => Ok(Arc::new(of_struct(column.as_struct(), fields)?)),
        (List(_), List(item)) => of_list::<i32>(column, item),
        (LargeList(_), LargeList(item)) => of_list::<i64>(column, item),
        (FixedSizeList(_, found), FixedSizeList(item, size)) if found == size => {
            let list = column.as_fixed_size_list();
            let values = adapt(list.values(), item.data_type())?;
            let (item, nulls) = (Arc::clone(item), list.nulls().cloned());
            Ok(Arc::new(FixedSizeListArray::try_new_with_length(item, *size, values, nulls, list.len())?))
        }
        (Map(..), Map(entries, sorted)) => {
            let (map, Struct(fields)) = (column.as_map(), entries.data_type()) else {
                return Err(ArrowError::SchemaError("a map whose entries are no struct".to_owned()));
            };
            // What its two parts are called differs from writer to writer.
            let parts = fields.iter().zip(map.entries().columns()).map(|(field, part)| adapt(part, field.data_type()));
            let parts = StructArray::try_new(fields.clone(), parts.collect::<Result<_, _>>()?, None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, parts, nulls, *sorted)?))
        }
        _ => cast_with_options(column, wanted, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

fn of_struct(found: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let part = |field: &FieldRef| match found.column_by_name(field.name()) {
        Some(part) => adapt(part, field.data_type()),
        None => Ok(new_null_array(field.data_type(), found.len())),
    };
    let parts = fields.iter().map(part).collect::<Result<_, _>>()?;
    StructArray::try_new_with_length(fields.clone(), parts, found.nulls().cloned(), found.len())
}

fn of_list<O: OffsetSizeTrait>(column: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = column.as_list::<O>();
    let values = adapt(list.values(), item.data_type())?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), offsets, values, nulls)?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, StringArray};
    use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
    use datafusion::arrow::datatypes::Field;
    use datafusion::arrow::util::display::array_value_to_string;

    use super::*;

    fn shown(array: &ArrayRef) -> Vec<String> {
        (0..array.len()).map(|row| array_value_to_string(array, row).unwrap()).collect()
    }

    fn fields(of: &[(&str, DataType)]) -> Fields {
        of.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
    }

    #[test]
    fn fields_that_came_later_are_null() {
        let old = StructArray::try_new(
            fields(&[("w", DataType::Int32), ("t", DataType::Utf8)]),
            vec![Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["a", "b", "c"]))],
            Some(NullBuffer::from(vec![true, false, true])),
        );
        let old: ArrayRef = Arc::new(old.unwrap());
        // In another order, one wider, and one that was not there.
        let inner =
            DataType::Struct(fields(&[("t", DataType::Utf8), ("h", DataType::Float32), ("w", DataType::Int64)]));
        assert_eq!(shown(&adapt(&old, &inner).unwrap()), ["{t: a, h: , w: 1}", "", "{t: c, h: , w: 3}"]);

        let item = |of: &DataType| Arc::new(Field::new("item", of.clone(), true));
        let offsets = OffsetBuffer::from_lengths([1, 0, 2]);
        let nulls = Some(NullBuffer::from(vec![true, false, true]));
        let list = GenericListArray::<i32>::try_new(item(old.data_type()), offsets.clone(), Arc::clone(&old), nulls);
        let list: ArrayRef = Arc::new(list.unwrap());
        let wanted = DataType::List(item(&inner));
        let adapted = adapt(&list, &wanted).unwrap();
        assert_eq!((adapted.data_type(), adapted.null_count()), (&wanted, 1));
        assert_eq!(shown(&adapted), ["[{t: a, h: , w: 1}]", "", "[, {t: c, h: , w: 3}]"]);

        let entries = |key: &str, value: &DataType| {
            Field::new(
                "entries",
                DataType::Struct(
                    vec![Field::new(key, DataType::Int32, false), Field::new("v", value.clone(), true)].into(),
                ),
                false,
            )
        };
        let parts: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![7, 8, 9])), Arc::clone(&old)];
        let from = entries("key", old.data_type());
        let DataType::Struct(of) = from.data_type() else { unreachable!() };
        let parts = StructArray::try_new(of.clone(), parts, None).unwrap();
        let map: ArrayRef = Arc::new(MapArray::try_new(Arc::new(from), offsets, parts, None, false).unwrap());
        let adapted = adapt(&map, &DataType::Map(Arc::new(entries("keys", &inner)), false)).unwrap();
        assert_eq!(shown(&adapted), ["{7: {t: a, h: , w: 1}}", "{}", "{8: , 9: {t: c, h: , w: 3}}"]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let old: ArrayRef = Arc::new(StructArray::try_new(fields(&[("n", DataType::Utf8)]), vec![text], None).unwrap());
        assert!(adapt(&old, &DataType::Struct(fields(&[("n", DataType::Int32)]))).is_err());
        let must = DataType::Struct(vec![Field::new("new", DataType::Int32, false)].into());
        assert!(adapt(&old, &must).is_err());
    }
}
