//! `vqa_accuracy(answer, answers [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, Float64Array};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::options_arg::OptionField;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::metrics::vqa_accuracy;

/// Accuracy of an answer given those of people.
#[derive(Debug)]
pub(crate) struct VqaAccuracy;

const OPTIONS: &[OptionField] = &[OptionField::Script];

impl SqlFunction for VqaAccuracy {
    const NAME: &'static str = "vqa_accuracy";
    const DESCRIPTION: &'static str = "VQA accuracy of an answer given those of people, from 0 to 1: with ten given answers 0.3 for \
        each that equals it, 1 from four on. Before they are compared, both sides lose punctuation and articles, numbers to ten become \
        digits and contractions get their apostrophe, all exactly as in the official script, which compares answers as they are if the \
        given ones are all equal. `avg` of it is the metric. NULL, and an empty list, give NULL; a NULL in the list is left out. \
        Needs no model.";
    const RETURNS: &'static str = "Float64";
    const ARGS: &'static [Arg] = &[Arg::Answer, Arg::Answers, Arg::Options(OPTIONS)];
    const EXAMPLE: &'static str = "SELECT avg(vqa_accuracy(answer, answers)) FROM answered";
    const RELATED: &'static [&'static str] = &["ndcg", "recall_at"];
    const COST: Cost = Cost::FREE;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (answers, given) = (call.texts(0)?, call.text_lists(1)?);
        let options = call.options(2, OPTIONS)?;
        let accuracy = |row: usize| {
            let answer = answers.get(row).filter(|_| given.is_valid(row))?;
            let given = given.value(row);
            let given: Vec<&str> = given.as_string::<i32>().iter().flatten().collect();
            let script = options.distinct[options.of(row)].text(OptionField::Script).unwrap_or_default();
            vqa_accuracy(answer, &given, script.parse().unwrap_or_default())
        };
        Ok(ColumnarValue::Array(Arc::new((0..call.rows).map(accuracy).collect::<Float64Array>())))
    }
}
