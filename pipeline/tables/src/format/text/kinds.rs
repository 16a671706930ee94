//! Kinds of the values of JSON fields. Arrow has no type for a list beside a text, so a field has the kind of most of its
//! values, and the rows of the others fail alone.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::{Map, Value};

/// Numbers of the values of each kind, by the path of their field.
#[derive(Debug, Default)]
pub(crate) struct Kinds(HashMap<String, u64>);

/// Tags that end the names of fields while types are inferred: a single value, a list, an object.
const TAGS: [char; 3] = ['s', 'l', 'o'];

impl Kinds {
    /// Counts the values of an object, and tags the names of its fields so that each kind has a field of its own.
    pub(crate) fn tag(&mut self, object: Map<String, Value>) -> Value {
        self.object(object, "")
    }

    fn object(&mut self, object: Map<String, Value>, path: &str) -> Value {
        let tagged = object.into_iter().map(|(mut name, value)| {
            name.push(match value {
                Value::Array(_) => 'l',
                Value::Object(_) => 'o',
                _ => 's',
            });
            let path = format!("{path}\0{name}");
            let is_null = value.is_null();
            let value = self.value(value, &path);
            *self.0.entry(path).or_default() += u64::from(!is_null);
            (name, value)
        });
        Value::Object(tagged.collect())
    }

    fn value(&mut self, value: Value, path: &str) -> Value {
        match value {
            Value::Object(object) => self.object(object, path),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.value(item, path)).collect()),
            other => other,
        }
    }

    /// Schema of the untagged fields: of the kinds of a field the most frequent one.
    pub(crate) fn schema(&self, tagged: &Schema) -> Schema {
        Schema::new(self.fields(tagged.fields(), ""))
    }

    fn fields(&self, tagged: &Fields, path: &str) -> Fields {
        let mut fields: Vec<Field> = Vec::new();
        for field in tagged {
            let name = field.name().strip_suffix(TAGS).unwrap_or(field.name());
            if fields.iter().any(|known| known.name() == name) {
                continue;
            }
            let count = |tag: &char| self.0.get(&format!("{path}\0{name}{tag}")).copied().unwrap_or_default();
            let kinds = TAGS.iter().filter_map(|tag| Some((count(tag), tagged.find(&format!("{name}{tag}"))?.1)));
            // Of equally frequent kinds the first tag's, that of single values, which NULL is too.
            let most = kinds.reduce(|best, next| if next.0 > best.0 { next } else { best });
            let Some((_, chosen)) = most else { continue };
            let data_type = self.data_type(chosen.data_type(), &format!("{path}\0{}", chosen.name()));
            fields.push(Field::new(name, data_type, true));
        }
        fields.into()
    }

    fn data_type(&self, tagged: &DataType, path: &str) -> DataType {
        match tagged {
            DataType::Struct(fields) => DataType::Struct(self.fields(fields, path)),
            DataType::List(item) => {
                let data_type = self.data_type(item.data_type(), path);
                DataType::List(Arc::new(item.as_ref().clone().with_data_type(data_type)))
            }
            other => other.clone(),
        }
    }
}
