//! `recall_at(k, rank)`.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, ScalarValue};

use super::aggregate::{AggregateArg, SqlAggregate, refused};
use crate::metrics::RecallStats;

/// Recall@k.
#[derive(Debug)]
pub(crate) struct RecallAt;

impl SqlAggregate for RecallAt {
    const NAME: &'static str = "recall_at";
    const DESCRIPTION: &'static str = "R@k of a retrieval, from 0 to 1: the share of queries whose match is among the first k \
        results. Rows with a NULL are left out, as avg does; give a query without a match a rank beyond k.";
    const ARGS: &'static [AggregateArg] = &[
        AggregateArg::Number("k", "How many results count; one number for all rows"),
        AggregateArg::Number("rank", "Place of the query's match among its results, from 1"),
    ];
    const EXAMPLE: &'static str = "SELECT recall_at(1, rank), recall_at(5, rank), recall_at(10, rank) FROM ranks";
    const RELATED: &'static [&'static str] = &["itc_score"];
    type Stats = RecallStats;

    fn state_types() -> Vec<DataType> {
        vec![DataType::Int64; 3]
    }

    fn add(stats: &mut RecallStats, columns: &[ArrayRef]) -> Result<()> {
        let (k, rank) = (columns[0].as_primitive::<Int64Type>(), columns[1].as_primitive::<Int64Type>());
        for (k, rank) in k.iter().zip(rank) {
            if let (Some(k), Some(rank)) = (k, rank) {
                stats.add(k, rank).map_err(refused)?;
            }
        }
        Ok(())
    }

    fn state(stats: &RecallStats) -> Vec<ScalarValue> {
        stats.state().map(ScalarValue::from).to_vec()
    }

    fn merge(stats: &mut RecallStats, states: &[ArrayRef]) -> Result<()> {
        for row in 0..states[0].len() {
            let value = |i: usize| states[i].as_primitive::<Int64Type>().value(row);
            stats.merge(&RecallStats::from_state([value(0), value(1), value(2)])).map_err(refused)?;
        }
        Ok(())
    }

    fn score(stats: &RecallStats) -> Option<f64> {
        stats.score()
    }
}
