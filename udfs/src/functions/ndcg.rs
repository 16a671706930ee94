//! `ndcg(score, relevance [, k])`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, LargeListBuilder, PrimitiveBuilder};
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue};

use super::aggregate::{AggregateArg, SqlAggregate, refused};
use crate::metrics::NdcgStats;

/// NDCG of one query's candidates.
#[derive(Debug)]
pub(crate) struct Ndcg;

impl SqlAggregate for Ndcg {
    const NAME: &'static str = "ndcg";
    const DESCRIPTION: &'static str = "NDCG of one query's candidates, from 0 to 1: how much relevance stands at the top when they are \
        ordered by their scores, best first, where the first place counts 1 and place p counts 1 / log2(p + 1), over the same of the \
        best order. Group by the query and take `avg` of the groups. Without `k` as many places count as there are candidates with \
        relevance, as in the Visual Dialog challenge; candidates of equal scores share their places evenly. Rows with a NULL are left \
        out, as avg does; a query without a relevant candidate gives NULL.";
    const ARGS: &'static [AggregateArg] = &[
        AggregateArg::Float("score", "What the candidates are ordered by, the best highest"),
        AggregateArg::Float("relevance", "How relevant the candidate is, 0 if not at all"),
        AggregateArg::Number("k", "How many places count; one number for all rows of a query"),
    ];
    const OPTIONAL: usize = 1;
    const EXAMPLE: &'static str =
        "SELECT avg(n) FROM (SELECT ndcg(score, relevance) AS n FROM candidates GROUP BY query)";
    const RELATED: &'static [&'static str] = &["recall_at"];
    type Stats = NdcgStats;

    fn state_types() -> Vec<DataType> {
        let numbers = DataType::new_large_list(DataType::Float64, true);
        vec![DataType::Int64, numbers.clone(), numbers]
    }

    fn add(stats: &mut NdcgStats, columns: &[ArrayRef]) -> Result<()> {
        let (scores, relevances) = (columns[0].as_primitive::<Float64Type>(), columns[1].as_primitive::<Float64Type>());
        let k = columns.get(2).map(|k| k.as_primitive::<Int64Type>());
        for (row, (score, relevance)) in scores.iter().zip(relevances).enumerate() {
            let (Some(score), Some(relevance)) = (score, relevance) else { continue };
            if k.is_some_and(|k| k.is_null(row)) {
                continue;
            }
            stats.add(score, relevance, k.map(|k| k.value(row))).map_err(refused)?;
        }
        Ok(())
    }

    fn state(stats: &NdcgStats) -> Vec<ScalarValue> {
        let (k, scores, relevances) = stats.state();
        let list = |numbers: &[f64]| {
            let mut list = LargeListBuilder::new(PrimitiveBuilder::<Float64Type>::new());
            list.append_value(numbers.iter().copied().map(Some));
            ScalarValue::LargeList(Arc::new(list.finish()))
        };
        vec![k.into(), list(scores), list(relevances)]
    }

    fn merge(stats: &mut NdcgStats, states: &[ArrayRef]) -> Result<()> {
        let k = states[0].as_primitive::<Int64Type>();
        let numbers = |list: ArrayRef| list.as_primitive::<Float64Type>().values().to_vec();
        let (scores, relevances) = (states[1].as_list::<i64>(), states[2].as_list::<i64>());
        for row in 0..k.len() {
            let (scores, relevances) = (numbers(scores.value(row)), numbers(relevances.value(row)));
            let part = NdcgStats::from_state(k.value(row), scores, relevances).map_err(refused)?;
            stats.merge(part).map_err(refused)?;
        }
        Ok(())
    }

    fn score(stats: &NdcgStats) -> Option<f64> {
        stats.score()
    }

    fn heap_size(stats: &NdcgStats) -> usize {
        stats.size()
    }
}
