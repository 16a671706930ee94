//! `cider(candidate, refs)` and `cider_plain(candidate, refs)`.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, LargeListBuilder, LargeStringBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};

use super::aggregate::{AggregateArg, CAPTION_ARGS, SqlAggregate, each_caption, refused};
use crate::metrics::{CiderCorpus, CiderVariant};

/// CIDEr as reported in papers: CIDEr-D.
#[derive(Debug)]
pub(crate) struct Cider;

/// CIDEr without CIDEr-D's clipping and penalty.
#[derive(Debug)]
pub(crate) struct CiderPlain;

macro_rules! cider {
    ($function:ty, $variant:ident, $name:literal, $alias:expr, $example:literal, $related:expr, $description:literal) => {
        impl SqlAggregate for $function {
            const NAME: &'static str = $name;
            const ALIAS: Option<&'static str> = $alias;
            const DESCRIPTION: &'static str = $description;
            const ARGS: &'static [AggregateArg] = CAPTION_ARGS;
            const EXAMPLE: &'static str = $example;
            const RELATED: &'static [&'static str] = $related;
            type Stats = CiderCorpus;

            fn state_types() -> Vec<DataType> {
                state_types()
            }

            fn add(stats: &mut CiderCorpus, columns: &[ArrayRef]) -> Result<()> {
                each_caption(columns, |candidate, references| stats.add(candidate, references))
            }

            fn state(stats: &CiderCorpus) -> Vec<ScalarValue> {
                state(stats)
            }

            fn merge(stats: &mut CiderCorpus, states: &[ArrayRef]) -> Result<()> {
                merge(stats, states)
            }

            fn score(stats: &CiderCorpus) -> Option<f64> {
                stats.score(CiderVariant::$variant)
            }

            fn heap_size(stats: &CiderCorpus) -> usize {
                stats.size()
            }
        }
    };
}

cider!(
    Cider,
    CiderD,
    "cider",
    Some("cider_d"),
    "SELECT cider(caption, refs) FROM captioned",
    &["bleu4", "cider_plain", "rouge_l"],
    "CIDEr of captions against reference captions, from 0 to 10: how many of the telling n-grams, those that few rows' \
     references have, a caption shares with its references. It is CIDEr-D, which pycocoevalcap and papers call CIDEr \
     (tables print it times 100), so it also goes by the name `cider_d`. All rows are held until the end, since they weigh the \
     n-grams; a single row scores 0. Rows with a NULL are left out, as avg does."
);

cider!(
    CiderPlain,
    Cider,
    "cider_plain",
    None,
    "SELECT cider_plain(caption, refs) FROM captioned",
    &["cider"],
    "CIDEr as first defined, from 0 to 10: as `cider`, but repeated n-grams are not clipped and lengths that differ cost nothing."
);

fn state_types() -> Vec<DataType> {
    let texts = DataType::new_large_list(DataType::LargeUtf8, true);
    vec![texts.clone(), DataType::new_large_list(texts, true)]
}

/// The candidates, and the list of each one's references.
fn state(corpus: &CiderCorpus) -> Vec<ScalarValue> {
    let (candidates, references) = corpus.state();
    let mut texts = LargeListBuilder::new(LargeStringBuilder::new());
    texts.append_value(candidates.iter().map(Some));
    let mut lists = LargeListBuilder::new(LargeListBuilder::new(LargeStringBuilder::new()));
    for references in references {
        lists.values().append_value(references.iter().map(Some));
    }
    lists.append(true);
    vec![ScalarValue::LargeList(Arc::new(texts.finish())), ScalarValue::LargeList(Arc::new(lists.finish()))]
}

fn merge(corpus: &mut CiderCorpus, states: &[ArrayRef]) -> Result<()> {
    let strings =
        |texts: &ArrayRef| -> Vec<String> { texts.as_string::<i64>().iter().flatten().map(Into::into).collect() };
    let (candidates, references) = (states[0].as_list::<i64>(), states[1].as_list::<i64>());
    for (candidates, references) in candidates.iter().zip(references.iter()) {
        let (Some(candidates), Some(references)) = (candidates, references) else { continue };
        let references = references.as_list::<i64>().iter().flatten().map(|texts| strings(&texts)).collect();
        corpus.merge(CiderCorpus::from_state(strings(&candidates), references).map_err(refused)?);
    }
    Ok(())
}
