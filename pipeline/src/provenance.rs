//! Where each pair comes from: a struct column that tells it beside the pair.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, StringViewArray, StringViewBuilder, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, visit_expressions};

use crate::manifest::{Identity, PROGRAM};

/// Settings that decide how captions are decoded, where a call has none of its own.
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

/// What is the same for all pairs of a job.
#[derive(Debug, Clone)]
pub(crate) struct Provenance {
    job: String,
    captioner: Option<String>,
    filter: Option<String>,
    decoding: Option<String>,
    /// As its bits are: SQL and Delta have signed numbers only.
    seed: Option<i64>,
    engine: String,
    round: i32,
}

impl Provenance {
    /// Of a job whose recipe calls the captioner with `decoding`.
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

    /// The struct's type: the source's file and row (from 0), the round, the job's digest, the models' sha256, the call that
    /// made the synthetic text and the settings that it was made with, the seed, the program.
    pub(crate) fn data_type() -> DataType {
        DataType::Struct(fields())
    }

    /// Of the rows of `file` with these numbers.
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

/// The settings of [`DECODING`] that are set.
fn set(settings: &BTreeMap<String, String>) -> String {
    let set = DECODING.iter().filter_map(|name| Some(format!("; SET capfilt.{name} = {}", settings.get(*name)?)));
    set.collect()
}

/// All digests, in the order of the models.
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

/// One copy of the text for all rows.
fn repeat(value: Option<&str>, rows: usize) -> StringViewArray {
    let mut builder = StringViewBuilder::with_capacity(rows).with_deduplicate_strings();
    for _ in 0..rows {
        builder.append_option(value);
    }
    builder.finish()
}

/// The calls of caption and captions in a statement, as SQL.
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
