//! Late evaluation: functions with a [`Cost`](crate::cost::Cost) are called on as few rows as is sound.
//!
//! DataFusion evaluates a SELECT list below an ORDER BY with a LIMIT and below a join, pushes predicates below joins,
//! and evaluates the terms of an AND on all rows of most batches, all of which suits cheap functions. [`LateRule`]
//! rewrites the physical plan before any other rule except the one that records the order of the result:
//!
//! - `cheap AND costly` becomes nested filters, the cheapest innermost; within an OR or a join's condition it becomes a
//!   CASE, which evaluates the costly term only if the cheap one leaves the result open (see [`predicate`]);
//! - a costly column is computed above a filter, a limit, an ORDER BY with a LIMIT or an equi-join that does not need
//!   it, and a model's predicate above an equi-join (see [`deferred`]);
//! - a costly ORDER BY key becomes a column, computed once (see [`keys`]).
//!
//! A [`Fence`](fence::Fence) below each operator that calls such a function keeps later rules from pushing it down
//! again; [`UnfenceRule`] finally removes the fences.

mod deferred;
mod distinct_on;
mod fence;
mod keys;
mod predicate;
mod pull;
mod pulled;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::cost::Cost;

/// Adds the rules to a session's planner, which must not have them yet.
pub(crate) fn install(state: SessionState) -> SessionStateBuilder {
    let mut logical = state.optimizers().to_vec();
    logical.insert(0, Arc::new(distinct_on::DistinctOnRule));
    let mut physical = state.physical_optimizers().to_vec();
    // After the rule that pins the result's order to the plan's root, so that columns pulled up there are never
    // reordered.
    let pinned = physical.iter().position(|rule| rule.name() == "OutputRequirements").map_or(0, |at| at + 1);
    physical.insert(pinned, Arc::new(LateRule));
    physical.push(Arc::new(fence::UnfenceRule));
    SessionStateBuilder::new_from_existing(state).with_optimizer_rules(logical).with_physical_optimizer_rules(physical)
}

/// Physical optimiser rule of late evaluation; see the module.
#[derive(Debug)]
pub(crate) struct LateRule;

impl PhysicalOptimizerRule for LateRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let mut costly = false;
        plan.apply(|node| {
            costly |= pull::own_cost(node)? > Cost::FREE;
            Ok(if costly { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if costly { Ok(pull::pull(&plan)?.plan) } else { Ok(plan) }
    }

    fn name(&self) -> &str {
        "capfilt_late"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
