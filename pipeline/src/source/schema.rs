//! Types in memory, and in files.

use datafusion::arrow::datatypes::{DataType, Field, Schema};

/// Texts and images as views, as DataFusion's own reader has them.
pub(super) fn as_views(schema: &Schema) -> Schema {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match view_of(field.data_type()) {
            Some(view) => field.as_ref().clone().with_data_type(view),
            None => field.as_ref().clone(),
        })
        .collect();
    Schema::new(fields)
}

/// With the columns that a file's path tells.
pub(super) fn with_partitions(schema: &Schema, partitions: &[(String, Option<String>)]) -> Result<Schema, String> {
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for (name, _) in partitions {
        if fields.iter().any(|field| field.name() == name) {
            return Err(format!("its folder {name}=.. gives it a column {name}, and it has one of its own"));
        }
        fields.push(Field::new(name, DataType::Utf8View, true));
    }
    Ok(Schema::new(fields))
}

/// Makes `fields` take what a further file has, whose columns must be the same but for NULLs.
pub(super) fn merge(fields: &mut [Field], these: &Schema) -> Result<(), String> {
    let alike = |(a, b): (&Field, &Field)| a.name() == b.name() && a.data_type() == b.data_type();
    let others = these.fields();
    if others.len() != fields.len() || !others.iter().map(AsRef::as_ref).zip(&*fields).all(alike) {
        return Err("its columns differ from those of".to_owned());
    }
    for (field, this) in fields.iter_mut().zip(others) {
        field.set_nullable(field.is_nullable() || this.is_nullable());
    }
    Ok(())
}

fn view_of(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary => Some(DataType::BinaryView),
        _ => None,
    }
}

/// The schema that an output file records: its columns as the source wrote them, and no views, which few other readers know.
pub(crate) fn recorded(output: &Schema, source: &Schema) -> Schema {
    let fields: Vec<Field> = output
        .fields()
        .iter()
        .map(|field| {
            let before = source.field_with_name(field.name()).ok().map(Field::data_type);
            let plain = match (before, field.data_type()) {
                (Some(before), now) if view_of(before).as_ref() == Some(now) => before.clone(),
                (_, now) => without_views(now),
            };
            field.as_ref().clone().with_data_type(plain)
        })
        .collect();
    Schema::new(fields)
}

fn without_views(of: &DataType) -> DataType {
    match of {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|f| f.as_ref().clone().with_data_type(without_views(f.data_type()))).collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(types: &[(&str, DataType)]) -> Schema {
        Schema::new(types.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn recorded_types_are_the_sources() {
        let source = schema(&[("a", DataType::LargeUtf8), ("b", DataType::Binary), ("c", DataType::Int64)]);
        let inner = |text: DataType| DataType::Struct(vec![Field::new("x", text, true)].into());
        let output = schema(&[
            ("a", DataType::Utf8View),
            ("b", DataType::BinaryView),
            ("c", DataType::Int64),
            ("new", DataType::Utf8View),
            ("s", inner(DataType::Utf8View)),
        ]);
        let got = recorded(&output, &source);
        let types: Vec<_> = got.fields().iter().map(|f| f.data_type().clone()).collect();
        let plain = inner(DataType::Utf8);
        assert_eq!(types, [DataType::LargeUtf8, DataType::Binary, DataType::Int64, DataType::Utf8, plain]);
    }

    #[test]
    fn a_partition_is_no_second_column() {
        let file = schema(&[("a", DataType::Int64)]);
        let partition = |name: &str| with_partitions(&file, &[(name.to_owned(), None)]);
        assert!(partition("a").unwrap_err().contains("one of its own"));
        assert_eq!(partition("b").unwrap().fields().len(), 2);
    }
}
