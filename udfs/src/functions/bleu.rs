//! `bleu1(candidate, refs)` to `bleu4(candidate, refs)`.

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::{Result, ScalarValue};

use super::aggregate::{AggregateArg, CAPTION_ARGS, SqlAggregate, each_caption, refused};
use crate::metrics::BleuStats;

/// Corpus BLEU of n-grams up to `N`.
#[derive(Debug)]
pub(crate) struct Bleu<const N: usize>;

impl<const N: usize> SqlAggregate for Bleu<N> {
    const NAME: &'static str = ["bleu1", "bleu2", "bleu3", "bleu4"][N - 1];
    const DESCRIPTION: &'static str = [
        "BLEU-1 of captions against reference captions over all rows, from 0 to 1: the share of words that a reference \
         has too, times the penalty for captions shorter than their references. Equal to pycocoevalcap's. Rows with a NULL \
         are left out, as avg does; `coalesce(candidate, '')` makes them count.",
        "BLEU-2 of captions against reference captions over all rows, from 0 to 1; as `bleu1`, of word pairs too.",
        "BLEU-3 of captions against reference captions over all rows, from 0 to 1; as `bleu1`, of two and three words too.",
        "BLEU-4 of captions against reference captions over all rows, from 0 to 1; as `bleu1`, of two to four words too. \
         The B@4 of the paper's tables is this, times 100.",
    ][N - 1];
    const ARGS: &'static [AggregateArg] = CAPTION_ARGS;
    const EXAMPLE: &'static str = [
        "SELECT bleu1(caption, refs) FROM captioned",
        "SELECT bleu2(caption, refs) FROM captioned",
        "SELECT bleu3(caption, refs) FROM captioned",
        "SELECT model, bleu4(caption, refs) FROM captioned GROUP BY model",
    ][N - 1];
    const RELATED: &'static [&'static str] = &["cider", "rouge_l"];
    type Stats = BleuStats;

    fn state_types() -> Vec<DataType> {
        vec![DataType::UInt64; BleuStats::default().state().len()]
    }

    fn add(stats: &mut BleuStats, columns: &[ArrayRef]) -> Result<()> {
        each_caption(columns, |candidate, references| stats.add(candidate, references))
    }

    fn state(stats: &BleuStats) -> Vec<ScalarValue> {
        stats.state().into_iter().map(ScalarValue::from).collect()
    }

    fn merge(stats: &mut BleuStats, states: &[ArrayRef]) -> Result<()> {
        for row in 0..states[0].len() {
            let state: Vec<u64> = states.iter().map(|s| s.as_primitive::<UInt64Type>().value(row)).collect();
            stats.merge(&BleuStats::from_state(&state).map_err(refused)?);
        }
        Ok(())
    }

    fn score(stats: &BleuStats) -> Option<f64> {
        stats.score(N)
    }
}
