//! `rouge_l(candidate, refs)`.

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Float64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue};

use super::aggregate::{AggregateArg, CAPTION_ARGS, SqlAggregate, each_caption};
use crate::metrics::RougeStats;

/// Mean ROUGE-L.
#[derive(Debug)]
pub(crate) struct RougeL;

impl SqlAggregate for RougeL {
    const NAME: &'static str = "rouge_l";
    const DESCRIPTION: &'static str = "ROUGE-L of captions against reference captions, averaged over rows, from 0 to 1: how \
        much of a caption and of its references is their longest common subsequence of words. Equal to pycocoevalcap's. Rows \
        with a NULL are left out, as avg does.";
    const ARGS: &'static [AggregateArg] = CAPTION_ARGS;
    const EXAMPLE: &'static str = "SELECT rouge_l(caption, refs) FROM captioned";
    const RELATED: &'static [&'static str] = &["bleu4", "cider"];
    type Stats = RougeStats;

    fn state_types() -> Vec<DataType> {
        vec![DataType::Float64, DataType::UInt64]
    }

    fn add(stats: &mut RougeStats, columns: &[ArrayRef]) -> Result<()> {
        each_caption(columns, |candidate, references| stats.add(candidate, references))
    }

    fn state(stats: &RougeStats) -> Vec<ScalarValue> {
        let (sum, items) = stats.state();
        vec![sum.into(), items.into()]
    }

    fn merge(stats: &mut RougeStats, states: &[ArrayRef]) -> Result<()> {
        let (sums, items) = (states[0].as_primitive::<Float64Type>(), states[1].as_primitive::<UInt64Type>());
        for (sum, items) in sums.values().iter().zip(items.values()) {
            stats.merge(&RougeStats::from_state(*sum, *items));
        }
        Ok(())
    }

    fn score(stats: &RougeStats) -> Option<f64> {
        stats.score()
    }
}
