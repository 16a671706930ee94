//! Plans with deferred columns: columns that are yet to be computed.
//!
//! Such a plan keeps the columns of the complete plan at their indices, so that expressions of operators above remain
//! valid; a deferred column is a constant placeholder. Extra columns follow, the inputs of deferred expressions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use super::fence::Fence;
use super::predicate::lazy;
use crate::cost::{self, Cost};

/// A deferred column.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) slot: usize,
    pub(super) name: String,
    /// Expression over columns of the plan, including deferred ones that precede it.
    pub(super) expr: Arc<dyn PhysicalExpr>,
}

/// A deferred predicate.
#[derive(Debug, Clone)]
pub(super) struct Predicate {
    pub(super) expr: Arc<dyn PhysicalExpr>,
    /// Original filter, for its settings.
    pub(super) of: Arc<FilterExec>,
}

/// A plan with deferred columns and predicates; see the module.
#[derive(Debug, Clone)]
pub(super) struct Deferred {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// Schema of the complete plan.
    pub(super) schema: SchemaRef,
    pub(super) pending: Vec<Pending>,
    pub(super) predicates: Vec<Predicate>,
}

/// Column indices in an expression.
pub(super) fn columns(expr: &Arc<dyn PhysicalExpr>) -> HashSet<usize> {
    collect_columns(expr).iter().map(Column::index).collect()
}

/// Reference to a column of `schema`.
pub(super) fn column(schema: &SchemaRef, slot: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(slot).name(), slot))
}

/// `expr` with its columns at other indices of another schema.
pub(super) fn moved(
    expr: &Arc<dyn PhysicalExpr>,
    to: &HashMap<usize, usize>,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    Arc::clone(expr)
        .transform(|e| match e.downcast_ref::<Column>().map(|c| to.get(&c.index())) {
            Some(Some(slot)) => Ok(Transformed::yes(column(schema, *slot))),
            Some(None) => datafusion::common::internal_err!("column {e} of a costly expression was dropped"),
            None => Ok(Transformed::no(e)),
        })
        .data()
}

/// `expr` with column names from `schema`: a placeholder's name differs from that of its column.
pub(super) fn named(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let same = columns(expr).into_iter().map(|slot| (slot, slot)).collect();
    moved(expr, &same, schema)
}

/// Placeholder of a deferred column.
pub(super) fn placeholder(field: &Field) -> Result<Arc<dyn PhysicalExpr>> {
    let value = if field.is_nullable() {
        ScalarValue::try_new_null(field.data_type())?
    } else {
        ScalarValue::new_default(field.data_type())?
    };
    Ok(Arc::new(Literal::new(value)))
}

impl Deferred {
    /// A plan with nothing deferred.
    pub(super) fn none(plan: &Arc<dyn ExecutionPlan>) -> Self {
        Self { plan: Arc::clone(plan), schema: plan.schema(), pending: vec![], predicates: vec![] }
    }

    pub(super) fn is_none(&self) -> bool {
        self.pending.is_empty() && self.predicates.is_empty()
    }

    pub(super) fn is_pending(&self, slot: usize) -> bool {
        self.pending.iter().any(|p| p.slot == slot)
    }

    /// `slots` and, transitively, the inputs of those that are deferred.
    fn closure(&self, slots: impl IntoIterator<Item = usize>) -> HashSet<usize> {
        let mut all: HashSet<usize> = slots.into_iter().collect();
        for pending in self.pending.iter().rev() {
            if all.contains(&pending.slot) {
                all.extend(columns(&pending.expr));
            }
        }
        all
    }

    /// Cost per row of `expr`, including the deferred columns that it needs.
    pub(super) fn cost(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Cost> {
        let needed = self.closure(columns(expr));
        let mut cost = cost::of(expr)?;
        for pending in self.pending.iter().filter(|p| needed.contains(&p.slot)) {
            cost = cost.plus(cost::of(&pending.expr)?);
        }
        Ok(cost)
    }

    /// Computes the deferred columns among `slots`.
    pub(super) fn settle(mut self, slots: impl IntoIterator<Item = usize>) -> Result<Self> {
        let wanted = self.closure(slots);
        while self.pending.iter().any(|p| wanted.contains(&p.slot)) {
            self = self.settle_level(&wanted, false)?;
        }
        Ok(self)
    }

    /// Computes the columns of `wanted` that need no deferred column; as the `last` step, drops the extra columns.
    fn settle_level(mut self, wanted: &HashSet<usize>, last: bool) -> Result<Self> {
        let open: HashSet<usize> = self.pending.iter().map(|p| p.slot).collect();
        let ready = |p: &Pending| wanted.contains(&p.slot) && columns(&p.expr).is_disjoint(&open);
        let (ready, pending): (Vec<_>, Vec<_>) = self.pending.into_iter().partition(ready);
        let schema = self.plan.schema();
        let mut exprs = all_columns(&schema);
        for Pending { slot, name, expr } in ready {
            exprs[slot] = ProjectionExpr { expr: named(&expr, &schema)?, alias: name };
        }
        self.pending = pending;
        self.plan = if last {
            exprs.truncate(self.schema.fields().len());
            Arc::new(ProjectionExec::try_new_with_schema_metadata(exprs, Fence::over(self.plan), &self.schema)?)
        } else {
            Arc::new(ProjectionExec::try_new(exprs, Fence::over(self.plan))?)
        };
        Ok(self)
    }

    /// Applies the predicates, the cheapest first.
    pub(super) fn apply_predicates(mut self) -> Result<Self> {
        let mut predicates = vec![];
        for predicate in std::mem::take(&mut self.predicates) {
            predicates.push((self.cost(&predicate.expr)?, predicate));
        }
        predicates.sort_by_key(|(cost, _)| *cost);
        for (_, predicate) in predicates {
            self = self.apply(&predicate)?;
        }
        Ok(self)
    }

    /// Applies one predicate.
    pub(super) fn apply(self, predicate: &Predicate) -> Result<Self> {
        let mut settled = self.settle(columns(&predicate.expr))?;
        let costly = cost::of(&predicate.expr)? > Cost::FREE;
        let expr = named(&predicate.expr, &settled.plan.schema())?;
        let input = if costly { Fence::over(settled.plan) } else { settled.plan };
        let filter =
            FilterExecBuilder::from(predicate.of.as_ref()).with_predicate(lazy(&expr)?).with_input(input).build()?;
        settled.plan = Arc::new(filter);
        Ok(settled)
    }

    /// Completes the plan.
    pub(super) fn close(self) -> Result<Arc<dyn ExecutionPlan>> {
        let mut open = self.apply_predicates()?;
        while !open.pending.is_empty() {
            let all: HashSet<usize> = open.pending.iter().map(|p| p.slot).collect();
            let last = open.pending.iter().all(|p| columns(&p.expr).is_disjoint(&all));
            open = open.settle_level(&all, last)?;
        }
        let schema = open.plan.schema();
        if schema == open.schema {
            return Ok(open.plan);
        }
        let mut visible = all_columns(&schema);
        visible.truncate(open.schema.fields().len());
        Ok(Arc::new(ProjectionExec::try_new_with_schema_metadata(visible, open.plan, &open.schema)?))
    }
}

/// The columns of `schema`, unchanged.
pub(super) fn all_columns(schema: &SchemaRef) -> Vec<ProjectionExpr> {
    let column = |slot| ProjectionExpr { expr: column(schema, slot), alias: schema.field(slot).name().clone() };
    (0..schema.fields().len()).map(column).collect()
}

/// A column name that is unique in this process.
pub(super) fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("__capfilt_{what}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
