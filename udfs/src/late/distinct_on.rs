//! `SELECT DISTINCT ON`: computes costly columns only for the rows that it keeps.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Distinct, DistinctOn, Expr, LogicalPlan, Projection};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::cost::{self, Cost};

/// Replaces costly columns by their arguments and computes them above. DataFusion turns DISTINCT ON into an aggregate,
/// which hides them from [`LateRule`](super::LateRule), so this rule runs first.
#[derive(Debug)]
pub(super) struct DistinctOnRule;

/// Whether a column should be computed above.
fn is_late(expr: &Expr) -> Result<bool> {
    let (mut costly, mut movable) = (false, true);
    expr.apply(|e| {
        match e {
            Expr::ScalarFunction(call) if cost::of_function(&call.func) > Cost::FREE => costly = true,
            e => movable &= !e.is_volatile_node(),
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(costly && movable && !expr.contains_outer())
}

impl OptimizerRule for DistinctOnRule {
    fn name(&self) -> &str {
        "capfilt_distinct_on"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Distinct(Distinct::On(on)) = &plan else { return Ok(Transformed::no(plan)) };
        let late = on.select_expr.iter().map(is_late).collect::<Result<Vec<_>>>()?;
        if !late.contains(&true) {
            return Ok(Transformed::no(plan));
        }
        let mut select: Vec<Expr> =
            on.select_expr.iter().zip(&late).filter(|(_, late)| !**late).map(|(expr, _)| expr.clone()).collect();
        let kept = select.len();
        for (expr, _) in on.select_expr.iter().zip(&late).filter(|(_, late)| **late) {
            let mut columns: Vec<_> = expr.column_refs().into_iter().collect();
            columns.sort();
            for column in columns {
                let column = Expr::Column(column.clone());
                if !select.contains(&column) {
                    select.push(column);
                }
            }
        }
        let (on_expr, sort_expr, input) = (on.on_expr.clone(), on.sort_expr.clone(), Arc::clone(&on.input));
        // Two columns of the same name, one of them an alias, make an invalid plan; keep the original.
        let Ok(rows) = DistinctOn::try_new(on_expr, select, sort_expr, input) else { return Ok(Transformed::no(plan)) };
        let mut early = (0..kept).map(|i| Expr::Column(Column::from(rows.schema.qualified_field(i))));
        let columns = on.select_expr.iter().zip(&late);
        let columns =
            columns.filter_map(|(expr, late)| if *late { Some(expr.clone()) } else { early.next() }).collect();
        let rows = Arc::new(LogicalPlan::Distinct(Distinct::On(rows)));
        Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, rows)?)))
    }
}
