//! Refusal of SQL that DataFusion parses but ignores, since the result would answer another question.

use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::planner::{RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::sqlparser::ast::TableFactor;

/// Refuses clauses of a table in FROM that the planner would drop.
#[derive(Debug)]
pub(crate) struct RefuseIgnored;

impl RelationPlanner for RefuseIgnored {
    fn plan_relation(&self, relation: TableFactor, _: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let (sample, version, ordinality, partitions, path) = match &relation {
            TableFactor::Table { sample, version, with_ordinality, partitions, json_path, .. } => {
                (sample.is_some(), version.is_some(), *with_ordinality, !partitions.is_empty(), json_path.is_some())
            }
            TableFactor::Derived { sample, .. } => (sample.is_some(), false, false, false, false),
            _ => Default::default(),
        };
        if sample {
            return not_impl_err!(
                "TABLESAMPLE: write WHERE random() < 0.05 for about 5 percent of the rows, ORDER BY random() LIMIT n for n of them"
            );
        }
        if version {
            return not_impl_err!("a table's version (AS OF) in FROM: only the current one is read");
        }
        if ordinality {
            return not_impl_err!("WITH ORDINALITY: row_number() OVER () numbers rows");
        }
        if partitions {
            return not_impl_err!("PARTITION (..) after a table's name: write a predicate on the partition's column");
        }
        if path {
            return not_impl_err!("a path into a table's JSON in FROM");
        }
        Ok(RelationPlanning::Original(Box::new(relation)))
    }
}
