//! Kinds of the values of JSON fields. Arrow has no type for a list beside a text, so a field has the kind of most of its
//! values, and the rows of the others fail alone.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use serde_json::{Map, Value};

/// Numbers of the values of each kind, by the path of their field.
#[derive(Debug, Default)]
pub(crate) struct Kinds(HashMap<String, u64>);

/// Separates a field's name from the kind of its values, while types are inferred.
const TAG: char = '\0';

/// Kind of a value: `s` for a single value, `o` for an object, and `l` with the kind of the first item for a list. `None`
/// for values that are of any kind: NULL, and lists of nothing else.
fn kind(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Object(_) => Some("o".to_owned()),
        Value::Array(items) => items.iter().find_map(kind).map(|item| format!("l{item}")),
        _ => Some("s".to_owned()),
    }
}

impl Kinds {
    /// Counts the values of an object, and tags the names of its fields so that each kind has a field of its own.
    pub(crate) fn tag(&mut self, object: Map<String, Value>) -> Value {
        self.object(object, "")
    }

    fn object(&mut self, object: Map<String, Value>, path: &str) -> Value {
        let tagged = object.into_iter().map(|(name, value)| {
            let kind = kind(&value);
            let count = u64::from(kind.is_some());
            // An empty list is a list where no value says more.
            let of_any = if value.is_array() { "l" } else { "" };
            let name = format!("{name}{TAG}{}", kind.as_deref().unwrap_or(of_any));
            let path = format!("{path}{TAG}{name}");
            let value = self.value(value, &path);
            *self.0.entry(path).or_default() += count;
            (name, value)
        });
        Value::Object(tagged.collect())
    }

    /// Tags the names in a value. Items of a list that are of another kind than its first become NULL.
    fn value(&mut self, value: Value, path: &str) -> Value {
        match value {
            Value::Object(object) => self.object(object, path),
            Value::Array(items) => {
                let first = items.iter().find_map(kind);
                let is_alike = |item: &Value| kind(item).is_none_or(|kind| first.as_ref() == Some(&kind));
                let item = |item| if is_alike(&item) { self.value(item, path) } else { Value::Null };
                Value::Array(items.into_iter().map(item).collect())
            }
            other => other,
        }
    }

    /// Schema of the untagged fields: of the kinds of a field the most frequent one.
    pub(crate) fn schema(&self, tagged: &Schema) -> Schema {
        Schema::new(self.fields(tagged.fields(), ""))
    }

    fn fields(&self, tagged: &Fields, path: &str) -> Fields {
        // Positions of the names among `fields`, and the best field and its count for each.
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut chosen: Vec<(&str, &FieldRef, u64)> = Vec::new();
        for field in tagged {
            let name = field.name().rsplit_once(TAG).map_or(field.name().as_str(), |(name, _)| name);
            let count = self.0.get(&format!("{path}{TAG}{}", field.name())).copied().unwrap_or_default();
            let place = *places.entry(name).or_insert(chosen.len());
            match chosen.get_mut(place) {
                None => chosen.push((name, field, count)),
                // Of equally frequent kinds the simplest.
                Some((_, best, most)) if (count, best.name().len()) > (*most, field.name().len()) => {
                    (*best, *most) = (field, count);
                }
                Some(_) => {}
            }
        }
        let untagged = chosen.into_iter().map(|(name, field, _)| {
            Field::new(name, self.data_type(field.data_type(), &format!("{path}{TAG}{}", field.name())), true)
        });
        untagged.collect()
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
