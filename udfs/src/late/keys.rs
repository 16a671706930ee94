//! Costly ORDER BY keys as columns.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_expr_common::sort_expr::OrderingRequirements;
use datafusion::physical_optimizer::output_requirements::OutputRequirementExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;

use super::deferred::{Deferred, all_columns, columns, named, unique};
use super::fence::Fence;
use super::pulled::Pulled;
use crate::cost::{self, Cost};

/// Rewrites a sort so that its costly keys are columns computed below it; `None` for any other operator.
///
/// DataFusion evaluates keys in the sort, again when merging sorted partitions, and again in the filter that a sort
/// with a limit pushes into the scan. `node` may also be the operator that pins the result's order, which repeats the
/// keys. `pull` rewrites the sort's input.
pub(super) fn sort(
    node: &Arc<dyn ExecutionPlan>,
    pull: impl Fn(&Arc<dyn ExecutionPlan>) -> Result<Pulled>,
) -> Result<Option<Pulled>> {
    let pin = node.downcast_ref::<OutputRequirementExec>();
    let child = pin.map(OutputRequirementExec::input);
    let Some(sort) = child.as_ref().unwrap_or(node).downcast_ref::<SortExec>() else { return Ok(None) };
    let mut costly = false;
    for key in sort.expr() {
        costly |= cost::of(&key.expr)? > Cost::FREE;
    }
    if !costly {
        return Ok(None);
    }

    let mut open = pull(sort.input())?.deferred().apply_predicates()?;
    open = match sort.fetch() {
        Some(_) => open.settle(sort.expr().iter().flat_map(|key| columns(&key.expr)))?,
        // Without a limit all rows survive, and computed columns are usually smaller than their inputs.
        None => Deferred::none(&open.close()?),
    };
    let schema = open.plan.schema();
    let mut exprs = all_columns(&schema);
    let mut keys = vec![];
    for PhysicalSortExpr { expr, options } in sort.expr() {
        let expr = named(expr, &schema)?;
        if cost::of(&expr)? == Cost::FREE {
            keys.push(PhysicalSortExpr { expr, options: *options });
            continue;
        }
        let alias = unique("key");
        keys.push(PhysicalSortExpr { expr: Arc::new(Column::new(&alias, exprs.len())), options: *options });
        exprs.push(ProjectionExpr { expr, alias });
    }
    let Some(keys) = LexOrdering::new(keys) else { return Ok(None) };
    let keyed = Arc::new(ProjectionExec::try_new(exprs, Fence::over(open.plan))?);
    let sorted = SortExec::new(keys.clone(), keyed)
        .with_fetch(sort.fetch())
        .with_preserve_partitioning(sort.preserve_partitioning());
    open.plan = Arc::new(sorted);
    let Some(pin) = pin else { return Pulled::reduced(open).map(Some) };

    // Columns computed above the pin could lose the order.
    let all: Vec<usize> = open.pending.iter().map(|pending| pending.slot).collect();
    open = open.settle(all)?;
    let Some(distribution) = pin.input_distribution_requirements().into_per_child().pop() else { return Ok(None) };
    let order = Some(OrderingRequirements::from(keys));
    open.plan = Arc::new(OutputRequirementExec::new(open.plan, order, distribution, pin.fetch()));
    Ok(Some(Pulled::complete(open.close()?)))
}
