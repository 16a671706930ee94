//! Options of a call: a struct whose fields override the session's settings.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, StructArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

use crate::config::settings::{Kind, SettingKey as _, Value, hint};
use crate::config::{CapfiltOptions, Key};

/// A field of a function's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum OptionField {
    /// A setting, with its name, values and meaning.
    Setting(Key),
    /// Checkpoint that replaces `capfilt.captioner`, `capfilt.filter` or `capfilt.answerer`.
    Model,
    /// Answers to choose from.
    Answers,
    /// Number of the answers that are scored.
    K,
    /// Rule by which answers are scored.
    AnswerScore,
}

impl OptionField {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Setting(key) => key.setting().name,
            Self::Model => "model",
            Self::Answers => "answers",
            Self::K => "k",
            Self::AnswerScore => "answer_score",
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Setting(key) => key.setting().kind,
            Self::Model => Kind::Text,
            Self::Answers => Kind::Texts,
            Self::K => Kind::Integer { min: 1, max: 1 << 20 },
            Self::AnswerScore => Kind::Choice(&["blip", "likelihood"]),
        }
    }

    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Setting(key) => key.setting().description,
            Self::Model => "Checkpoint of this call: a folder in Hugging Face layout, or a registered name",
            Self::Answers => {
                "Answers to choose from, as BLIP's rank mode does: the result is the best of them. Among equals the first is taken"
            }
            Self::K => {
                "How many of the answers, those with the likeliest first tokens, are scored in full. Not given: 128"
            }
            Self::AnswerScore => {
                "Score by which the best of the answers is chosen: blip, its label-smoothed log-likelihood, or likelihood. \
                 Not given: blip"
            }
        }
    }
}

/// Returns a plan error unless `given` is NULL or a struct of known fields with suitable types.
pub(crate) fn check_type(function: &str, known: &[OptionField], given: &DataType) -> Result<()> {
    let fields = match given {
        DataType::Null => return Ok(()),
        DataType::Struct(fields) => fields,
        _ => {
            return plan_err!(
                "{function}: argument options must be a struct such as named_struct('{}', ..), not {given}",
                known.first().map_or("model", |f| f.name())
            );
        }
    };
    for field in fields {
        let Some(option) = known.iter().find(|o| o.name() == field.name()) else {
            let names: Vec<&str> = known.iter().map(|o| o.name()).collect();
            return plan_err!("{function} has no option {:?}.{}", field.name(), hint(field.name(), &names));
        };
        if !option.kind().accepts(field.data_type()) {
            let (name, allowed) = (option.name(), option.kind().allowed());
            return plan_err!("{function}: option {name} must be {allowed}, not a value of type {}", field.data_type());
        }
    }
    Ok(())
}

/// Whether options of this type may name a model.
pub(crate) fn has_model(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(fields) if fields.find(OptionField::Model.name()).is_some())
}

/// Most characters of a value that an error shows.
const MOST_SHOWN: usize = 200;

/// Options of one call, or of one row of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct CallOptions(Vec<(OptionField, Value)>);

impl CallOptions {
    pub(crate) fn of_scalar(function: &str, known: &[OptionField], scalar: &ScalarValue) -> Result<Self> {
        match scalar {
            ScalarValue::Struct(array) => Self::of_row(function, known, array, 0),
            _ => Ok(Self::default()),
        }
    }

    fn of_row(function: &str, known: &[OptionField], array: &StructArray, row: usize) -> Result<Self> {
        let mut given = vec![];
        for option in known {
            let Some(column) = array.column_by_name(option.name()) else { continue };
            if array.is_null(row) || column.is_null(row) {
                continue;
            }
            let scalar = ScalarValue::try_from_array(column, row)?;
            if scalar.is_null() {
                continue;
            }
            match option.kind().read(&scalar) {
                Some(value) => given.push((*option, value)),
                None => {
                    let allowed = option.kind().allowed();
                    // A list may be long.
                    let given: String = scalar.to_string().chars().take(MOST_SHOWN).collect();
                    return exec_err!("{function}: option {} must be {allowed}, not {given}", option.name());
                }
            }
        }
        Ok(Self(given))
    }

    fn get(&self, field: OptionField) -> Option<&Value> {
        self.0.iter().find(|(f, _)| *f == field).map(|(_, v)| v)
    }

    /// The option that the call gives, if any, of those for which `is_it` holds.
    pub(crate) fn find(&self, is_it: impl Fn(OptionField) -> bool) -> Option<OptionField> {
        self.0.iter().map(|(field, _)| *field).find(|field| is_it(*field))
    }

    /// Whether the call itself sets a setting.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.get(OptionField::Setting(key)).is_some()
    }

    /// Answers that the call lets the model choose from.
    pub(crate) fn answers(&self) -> Option<&Arc<[String]>> {
        self.get(OptionField::Answers).and_then(Value::texts)
    }

    /// Number of the answers that are scored.
    pub(crate) fn k(&self) -> Option<u64> {
        self.get(OptionField::K).and_then(Value::integer)
    }

    /// Rule by which answers are scored.
    pub(crate) fn answer_score(&self) -> Option<&str> {
        self.get(OptionField::AnswerScore).and_then(Value::text)
    }

    /// Checkpoint that the call names.
    pub(crate) fn model(&self) -> Option<&str> {
        self.get(OptionField::Model).and_then(Value::text)
    }
}

/// Options of each row: the distinct ones, and their index by row.
#[derive(Debug)]
pub(crate) struct RowOptions {
    pub(crate) distinct: Vec<CallOptions>,
    rows: Option<Vec<usize>>,
}

impl RowOptions {
    /// Reads the options argument of a call on `rows` rows; `None` is a call without options.
    pub(crate) fn new(function: &str, known: &[OptionField], arg: Option<&ColumnarValue>, rows: usize) -> Result<Self> {
        let array = match arg {
            None => return Ok(Self { distinct: vec![CallOptions::default()], rows: None }),
            Some(ColumnarValue::Scalar(scalar)) => {
                return Ok(Self { distinct: vec![CallOptions::of_scalar(function, known, scalar)?], rows: None });
            }
            Some(ColumnarValue::Array(array)) => array,
        };
        if *array.data_type() == DataType::Null {
            return Ok(Self { distinct: vec![CallOptions::default()], rows: None });
        }
        let Some(array) = array.as_struct_opt() else {
            return internal_err!("{function}: options of type {}", array.data_type());
        };
        let mut seen: HashMap<CallOptions, usize> = HashMap::new();
        let mut distinct = vec![];
        let mut places = Vec::with_capacity(rows);
        for row in 0..rows {
            let options = CallOptions::of_row(function, known, array, row)?;
            places.push(*seen.entry(options).or_insert_with_key(|options| {
                distinct.push(options.clone());
                distinct.len() - 1
            }));
        }
        Ok(Self { distinct, rows: Some(places) })
    }

    /// Index in `distinct` of the options of `row`.
    pub(crate) fn of(&self, row: usize) -> usize {
        self.rows.as_ref().map_or(0, |rows| rows[row])
    }
}

/// A call's options, falling back to the session's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layered<'a> {
    pub(crate) call: &'a CallOptions,
    pub(crate) session: &'a CapfiltOptions,
}

impl<'a> Layered<'a> {
    fn get(&self, key: Key) -> Option<&'a Value> {
        self.call.get(OptionField::Setting(key)).or_else(|| self.session.value(key))
    }

    pub(crate) fn text(&self, key: Key) -> Option<&'a str> {
        self.get(key).and_then(Value::text)
    }

    pub(crate) fn integer(&self, key: Key) -> Option<u64> {
        self.get(key).and_then(Value::integer)
    }

    pub(crate) fn float(&self, key: Key) -> Option<f32> {
        self.get(key).and_then(Value::float)
    }

    pub(crate) fn flag(&self, key: Key) -> Option<bool> {
        self.get(key).and_then(Value::flag)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use datafusion::arrow::datatypes::Field;

    use super::*;

    const KNOWN: &[OptionField] = &[
        OptionField::Setting(Key::Strategy),
        OptionField::Setting(Key::TopP),
        OptionField::Setting(Key::Seed),
        OptionField::Model,
    ];

    fn options(columns: Vec<(&str, ArrayRef)>) -> StructArray {
        let fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        StructArray::new(fields.into(), columns.into_iter().map(|(_, c)| c).collect(), None)
    }

    #[test]
    fn types_and_names_are_checked() {
        let error = |name: &str, t: DataType| {
            let t = DataType::Struct(vec![Field::new(name, t, true)].into());
            check_type("caption", KNOWN, &t).unwrap_err().to_string()
        };
        let message = error("strateg", DataType::Utf8);
        assert!(message.contains("caption has no option \"strateg\". Did you mean strategy?"), "{message}");
        assert!(error("top_p", DataType::Utf8).contains("option top_p must be a number above 0"));
        let message = check_type("caption", KNOWN, &DataType::Int64).unwrap_err().to_string();
        assert!(message.contains("named_struct('strategy', ..), not Int64"), "{message}");
    }

    #[test]
    fn rows_are_read_and_shared() -> Result<()> {
        let array = options(vec![
            ("strategy", Arc::new(StringArray::from(vec![Some("nucleus"), None, Some("nucleus")]))),
            ("top_p", Arc::new(Int64Array::from(vec![1, 1, 1]))),
            ("seed", Arc::new(Float64Array::from(vec![3.0, 4.0, 3.0]))),
        ]);
        let column = ColumnarValue::Array(Arc::new(array));
        let read = RowOptions::new("caption", KNOWN, Some(&column), 3)?;
        assert_eq!(read.distinct.len(), 2);
        assert_eq!((read.of(0), read.of(1), read.of(2)), (0, 1, 0));
        let session = CapfiltOptions::new().with("strategy", "greedy")?.with("seed", "9")?;
        let layered = |i: usize| Layered { call: &read.distinct[i], session: &session };
        assert_eq!(layered(0).text(Key::Strategy), Some("nucleus"));
        assert_eq!(layered(1).text(Key::Strategy), Some("greedy"));
        assert_eq!(layered(1).integer(Key::Seed), Some(4));
        assert_eq!(layered(1).float(Key::TopP), Some(1.0));
        assert_eq!(layered(1).float(Key::Temperature), None);
        Ok(())
    }

    #[test]
    fn values_are_checked() {
        let array = options(vec![("strategy", Arc::new(StringArray::from(vec!["best"])))]);
        let scalar = ScalarValue::Struct(Arc::new(array));
        let message = CallOptions::of_scalar("caption", KNOWN, &scalar).unwrap_err().to_string();
        assert!(message.contains("caption: option strategy must be beam or greedy or nucleus, not best"), "{message}");
    }
}
