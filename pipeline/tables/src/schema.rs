//! Arrow schemas in memory and in files.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};

use crate::adapt::common;

/// Schema with string and binary columns as views, as DataFusion's own reader has them.
pub(crate) fn as_views(schema: &Schema) -> Schema {
    retyped(schema, |field| view_of(field.data_type()))
}

/// Schema with the types that `to` returns in place of those of its columns.
fn retyped(schema: &Schema, to: impl Fn(&Field) -> Option<DataType>) -> Schema {
    let fields = schema.fields().iter().map(|field| match to(field) {
        Some(other) => Arc::new(field.as_ref().clone().with_data_type(other)),
        None => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<FieldRef>>())
}

/// With columns that are all nullable: a row of a damaged page has no value in any.
pub(crate) fn nullable(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<Field>>())
}

/// Schema without dictionaries, whose key width suffices for one file but not for a table of many, and without list
/// views, which few other readers know.
pub(crate) fn plain(schema: &Schema) -> Schema {
    retyped(schema, |field| Some(map_types(field.data_type(), &plain_type)))
}

/// Schema with texts in place of Float64, at any depth.
pub(crate) fn with_fractions_as_texts(schema: &Schema) -> Schema {
    let text = |of: &DataType| (*of == DataType::Float64).then_some(DataType::Utf8);
    retyped(schema, |field| Some(map_types(field.data_type(), &text)))
}

fn plain_type(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Dictionary(_, value) => Some(map_types(value, &plain_type)),
        DataType::ListView(item) => Some(DataType::List(with_types(item, &plain_type))),
        DataType::LargeListView(item) => Some(DataType::LargeList(with_types(item, &plain_type))),
        _ => None,
    }
}

/// Schema with binary in place of string types, at any depth.
pub(crate) fn as_bytes(schema: &Schema) -> Schema {
    let bytes = |of: &DataType| match of {
        DataType::Utf8 => Some(DataType::Binary),
        DataType::LargeUtf8 => Some(DataType::LargeBinary),
        DataType::Utf8View => Some(DataType::BinaryView),
        _ => None,
    };
    retyped(schema, |field| Some(map_types(field.data_type(), &bytes)))
}

/// Replaces the type, or types nested in it, by what `to` returns.
fn map_types(of: &DataType, to: &dyn Fn(&DataType) -> Option<DataType>) -> DataType {
    if let Some(other) = to(of) {
        return other;
    }
    match of {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| with_types(field, to)).collect()),
        DataType::List(item) => DataType::List(with_types(item, to)),
        DataType::LargeList(item) => DataType::LargeList(with_types(item, to)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(with_types(item, to), *length),
        DataType::ListView(item) => DataType::ListView(with_types(item, to)),
        DataType::LargeListView(item) => DataType::LargeListView(with_types(item, to)),
        DataType::Map(entries, sorted) => DataType::Map(with_types(entries, to), *sorted),
        other => other.clone(),
    }
}

fn with_types(field: &FieldRef, to: &dyn Fn(&DataType) -> Option<DataType>) -> FieldRef {
    let mapped = map_types(field.data_type(), to);
    if mapped == *field.data_type() {
        Arc::clone(field)
    } else {
        Arc::new(field.as_ref().clone().with_data_type(mapped))
    }
}

/// First column name that occurs twice.
pub(crate) fn twice(schema: &Schema) -> Option<&str> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    names().enumerate().find(|(at, name)| names().take(*at).any(|other| other == *name)).map(|(_, name)| name)
}

/// Schema with Utf8 for those of the columns `texts` that have no value in any file.
pub(crate) fn with_texts(schema: &Schema, texts: &[&str]) -> Schema {
    let is_text = |field: &Field| field.data_type().is_null() && texts.contains(&field.name().as_str());
    retyped(schema, |field| is_text(field).then_some(DataType::Utf8))
}

/// Schema with a file's partition columns.
pub(crate) fn with_partitions(schema: &Schema, partitions: &[(String, Option<String>)]) -> Result<Schema, String> {
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for (name, _) in partitions {
        if fields.iter().any(|field| field.name() == name) {
            return Err(format!("its folder {name}=.. gives it a column {name}, and it has one of its own"));
        }
        fields.push(Field::new(name, DataType::Utf8, true));
    }
    Ok(Schema::new(fields))
}

/// Union of the columns of all files added, matched by name.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    fields: Vec<Field>,
    /// Per column, the number of the file that determined its type, and how many files have it.
    from: Vec<(usize, usize)>,
    files: usize,
}

/// Column of two files without a common type.
#[derive(Debug, PartialEq)]
pub(crate) struct Conflict {
    /// Number of the file that determined the type so far.
    pub(crate) file: usize,
    /// Text "its column .. is .., and .. in", to which the caller appends that file's name.
    pub(crate) reason: String,
}

impl Merged {
    /// Adds the columns of another file.
    pub(crate) fn add(&mut self, these: &Schema) -> Result<(), Conflict> {
        let number = self.files;
        self.files += 1;
        for this in these.fields() {
            let Some(at) = self.fields.iter().position(|field| field.name() == this.name()) else {
                self.fields.push(this.as_ref().clone());
                self.from.push((number, 1));
                continue;
            };
            let (field, (file, count)) = (&mut self.fields[at], &mut self.from[at]);
            let Some(both) = common(field.data_type(), this.data_type()) else {
                let reason = format!(
                    "its column {} is {}, and {} in",
                    field.name(),
                    type_name(this.data_type()),
                    type_name(field.data_type())
                );
                return Err(Conflict { file: *file, reason });
            };
            if field.data_type() != &both {
                *file = number;
            }
            *count += 1;
            let nullable = field.is_nullable() || this.is_nullable();
            *field = field.clone().with_data_type(both).with_nullable(nullable);
        }
        Ok(())
    }

    /// Merged columns in order of first appearance; a column that some file lacks is nullable.
    pub(crate) fn schema(self) -> Schema {
        let fields = self.fields.into_iter().zip(self.from).map(|(field, (_, count))| {
            let nullable = field.is_nullable() || count < self.files;
            field.with_nullable(nullable)
        });
        Schema::new(fields.collect::<Vec<Field>>())
    }
}

/// Name of a type in errors, without `View`, which only concerns how it is read.
pub fn type_name(of: &DataType) -> String {
    of.to_string().replace("View", "")
}

fn view_of(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary => Some(DataType::BinaryView),
        _ => None,
    }
}

/// Schema recorded in an output file: source columns keep the types in which the source wrote them, and views, which
/// few other readers know, are replaced.
pub fn recorded(output: &Schema, source: &Schema) -> Schema {
    retyped(output, |field| {
        let before = source.field_with_name(field.name()).ok().map(Field::data_type);
        Some(match (before, field.data_type()) {
            (Some(before), now) if view_of(before).as_ref() == Some(now) => before.clone(),
            (_, now) => map_types(now, &without_view),
        })
    })
}

fn without_view(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Utf8View => Some(DataType::Utf8),
        DataType::BinaryView => Some(DataType::Binary),
        // A key width that suffices for one batch may not suffice for a table.
        DataType::Dictionary(_, value) => Some(map_types(value, &without_view)),
        _ => None,
    }
}

/// `schema` with a nullable image column; of a struct, its bytes become nullable.
pub fn with_nulls(schema: &Schema, image_column: &str) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let field = field.as_ref().clone();
        if field.name() != image_column {
            return field;
        }
        let DataType::Struct(parts) = field.data_type() else { return field.with_nullable(true) };
        let parts: Fields = parts
            .iter()
            .map(|part| part.as_ref().clone().with_nullable(part.is_nullable() || part.name() == "bytes"))
            .collect();
        field.with_data_type(DataType::Struct(parts))
    });
    Schema::new_with_metadata(fields.collect::<Vec<Field>>(), schema.metadata.clone())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Fields;

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
    fn files_agree_on_columns_by_their_names() {
        use DataType::{Float64, Int32, Int64, LargeUtf8, Null, Utf8};
        let file = |columns: &[(&str, DataType)]| schema(columns);
        let mut merged = Merged::default();
        merged.add(&file(&[("image", DataType::Binary), ("n", Int32), ("lic", Null)])).unwrap();
        merged.add(&file(&[("n", Int64), ("lic", Utf8), ("image", DataType::Binary)])).unwrap();
        merged.add(&file(&[("more", Utf8), ("n", Float64), ("lic", LargeUtf8)])).unwrap();
        // The type is that of the second file, whatever the first and the third have.
        let conflict = merged.add(&file(&[("lic", Int64)])).unwrap_err();
        let reason = "its column lic is Int64, and Utf8 in".to_owned();
        assert_eq!(conflict, Conflict { file: 1, reason });
        let all = merged.schema();
        let types: Vec<_> = all.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
        assert_eq!(types, [("image", DataType::Binary), ("n", Float64), ("lic", Utf8), ("more", Utf8)]);
    }

    #[test]
    fn what_a_file_lacks_may_be_null() {
        let column = |name: &str| Schema::new(vec![Field::new(name, DataType::Int64, false)]);
        let mut merged = Merged::default();
        for names in [["a", "b"], ["a", "c"]] {
            let both = Schema::try_merge(names.map(column)).unwrap();
            merged.add(&both).unwrap();
        }
        let nullable: Vec<bool> = merged.schema().fields().iter().map(|field| field.is_nullable()).collect();
        assert_eq!(nullable, [false, true, true]);
    }

    #[test]
    fn dictionaries_are_their_values_at_any_depth() {
        let texts = || DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let nested = |of: DataType| {
            let inner: Fields = vec![Field::new("x", DataType::new_list(of.clone(), true), true)].into();
            let entry: Fields = vec![Field::new("key", of.clone(), false), Field::new("value", of, true)].into();
            let entries = Field::new("entries", DataType::Struct(entry), false);
            [DataType::Struct(inner), DataType::Map(Arc::new(entries), false)]
        };
        let [a, b] = nested(texts());
        let got = plain(&schema(&[("top", texts()), ("struct", a), ("map", b)]));
        let [a, b] = nested(DataType::Utf8);
        assert_eq!(got, schema(&[("top", DataType::Utf8), ("struct", a.clone()), ("map", b)]));
        let bytes = as_bytes(&got);
        assert_eq!(bytes.field(1).data_type(), &nested(DataType::Binary)[0]);
        let view = schema(&[("s", nested(DataType::Utf8View)[0].clone())]);
        assert_eq!(recorded(&view, &Schema::empty()).field(0).data_type(), &a);
    }

    #[test]
    fn a_partition_is_no_second_column() {
        let file = schema(&[("a", DataType::Int64)]);
        let partition = |name: &str| with_partitions(&file, &[(name.to_owned(), None)]);
        assert!(partition("a").unwrap_err().contains("one of its own"));
        assert_eq!(partition("b").unwrap().fields().len(), 2);
    }
}
