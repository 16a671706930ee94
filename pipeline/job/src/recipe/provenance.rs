//! The provenance of each pair, as a struct column.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, StringViewArray, StringViewBuilder, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, visit_expressions};

use crate::checkpoint::manifest::{Identity, PROGRAM};

/// Settings that determine how captions are decoded, unless the call has its own.
const DECODING: [&str; 11] = [
    "early_stopping",
    "length_penalty",
    "max_length",
    "min_length",
    "num_beams",
    "prompt",
    "repetition_penalty",
    "strategy",
    "temperature",
    "top_k",
    "top_p",
];

/// The part of the provenance that is the same for all pairs of a job.
#[derive(Debug, Clone)]
pub(crate) struct Provenance {
    job: String,
    captioner: Option<String>,
    filter: Option<String>,
    decoding: Option<String>,
    /// The u64 seed's bits as i64, since SQL and Delta have signed integers only.
    seed: Option<i64>,
    engine: String,
    round: i32,
}

impl Provenance {
    /// Provenance of a job whose recipe makes the captioner calls `decoding`.
    pub(crate) fn new(job: &Identity, decoding: Option<String>) -> Self {
        let models = &job.models;
        Self {
            job: job.digest(),
            captioner: together(models.captioner.as_ref(), &job.captioners),
            filter: together(models.filter.as_ref(), &job.filters),
            decoding: decoding.map(|calls| calls + &set(&models.settings)),
            seed: models.settings.get("seed").and_then(|seed| seed.parse::<u64>().ok()).map(u64::cast_signed),
            engine: PROGRAM.to_owned(),
            round: i32::try_from(job.round).unwrap_or(i32::MAX),
        }
    }

    /// The struct's type: the source's file and row (from 0), the round, the job's digest, the models' SHA-256, the
    /// captioner calls and their settings, the seed, and the program.
    pub(crate) fn data_type() -> DataType {
        DataType::Struct(fields())
    }

    /// Provenance column for the given rows of `file`.
    pub(crate) fn of(&self, file: &str, numbers: &[u64]) -> ArrayRef {
        let rows = numbers.len();
        let text = |value: Option<&str>| -> ArrayRef { Arc::new(repeat(value, rows)) };
        let number = |n: &u64| i64::try_from(*n).unwrap_or(i64::MAX);
        let columns: Vec<ArrayRef> = vec![
            text(Some(file)),
            Arc::new(numbers.iter().map(number).collect::<Int64Array>()),
            Arc::new(Int32Array::from_value(self.round, rows)),
            text(Some(&self.job)),
            text(self.captioner.as_deref()),
            text(self.filter.as_deref()),
            text(self.decoding.as_deref()),
            Arc::new(std::iter::repeat_n(self.seed, rows).collect::<Int64Array>()),
            text(Some(&self.engine)),
        ];
        Arc::new(StructArray::new(fields(), columns, None))
    }
}

/// The [`DECODING`] settings that are set, as SQL.
fn set(settings: &BTreeMap<String, String>) -> String {
    let set = DECODING.iter().filter_map(|name| Some(format!("; SET capfilt.{name} = {}", settings.get(*name)?)));
    set.collect()
}

/// All digests, in the order of the models, separated by semicolons.
pub(crate) fn together(first: Option<&String>, others: &[String]) -> Option<String> {
    let all: Vec<&str> = first.into_iter().chain(others).map(String::as_str).collect();
    (!all.is_empty()).then(|| all.join(";"))
}

fn fields() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    vec![
        text("file"),
        Field::new("row", DataType::Int64, true),
        Field::new("round", DataType::Int32, true),
        text("job"),
        text("captioner"),
        text("filter"),
        text("decoding"),
        Field::new("seed", DataType::Int64, true),
        text("engine"),
    ]
    .into()
}

/// A column of `rows` copies of a text, which is stored once.
fn repeat(value: Option<&str>, rows: usize) -> StringViewArray {
    let mut builder = StringViewBuilder::with_capacity(rows).with_deduplicate_strings();
    for _ in 0..rows {
        builder.append_option(value);
    }
    builder.finish()
}

/// The distinct calls of caption and captions in a statement, as SQL.
pub(crate) fn decoding(statement: &Statement) -> Option<String> {
    let Statement::Statement(statement) = statement else { return None };
    let mut calls: Vec<String> = Vec::new();
    let _ = visit_expressions(statement.as_ref(), |expr| {
        if let Expr::Function(function) = expr
            && is_captioner(&function.name)
        {
            let call = function.to_string();
            if !calls.contains(&call) {
                calls.push(call);
            }
        }
        ControlFlow::<()>::Continue(())
    });
    (!calls.is_empty()).then(|| calls.join("; "))
}

fn is_captioner(name: &ast::ObjectName) -> bool {
    ["caption", "captions"].iter().any(|known| name.to_string().eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    #[test]
    fn calls_of_the_captioner_are_found() {
        let of = |sql: &str| decoding(&DFParser::parse_sql(sql).unwrap()[0]);
        let call = "caption(image, named_struct('strategy', 'nucleus', 'top_p', 0.9))";
        let sql = format!("WITH c AS (SELECT unnest([{call}, 'x']) AS text FROM web) SELECT *, {call} FROM c");
        assert_eq!(of(&sql).as_deref(), Some(call));
        assert_eq!(of("SELECT itm_score(image, text) FROM web"), None);
    }

    #[test]
    fn what_was_set_for_decoding_is_told_too() {
        let known = capfilt_udfs::CapfiltOptions::new();
        let all = DECODING.iter().map(|name| (name.to_string(), "1".to_owned())).collect();
        assert_eq!(set(&all).matches("; SET capfilt.").count(), DECODING.len());
        for name in DECODING {
            let value = match name {
                "strategy" => "beam",
                "early_stopping" => "on",
                _ => "1",
            };
            let with = known.clone().with(name, value).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(set(&with.provenance().unwrap().settings), format!("; SET capfilt.{name} = {value}"));
        }
        assert_eq!(set(&known.with("seed", "7").unwrap().provenance().unwrap().settings), "", "it has its own place");
    }
}
