//! Predicates: cheap terms first, costly ones only where the result is still open.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, case, lit};

use crate::cost::{self, Cost};

/// Joins `terms` by `operator`; `None` if empty.
fn join(terms: Vec<Arc<dyn PhysicalExpr>>, operator: Operator) -> Option<Arc<dyn PhysicalExpr>> {
    terms.into_iter().reduce(|left, right| Arc::new(BinaryExpr::new(left, operator, right)))
}

/// The conjunction of `terms`; `None` if empty.
pub(super) fn all_of(terms: Vec<Arc<dyn PhysicalExpr>>) -> Option<Arc<dyn PhysicalExpr>> {
    join(terms, Operator::And)
}

fn flatten(expr: &Arc<dyn PhysicalExpr>, operator: Operator, terms: &mut Vec<Arc<dyn PhysicalExpr>>) {
    match expr.downcast_ref::<BinaryExpr>() {
        Some(binary) if *binary.op() == operator => {
            flatten(binary.left(), operator, terms);
            flatten(binary.right(), operator, terms);
        }
        _ => terms.push(Arc::clone(expr)),
    }
}

/// A predicate that is TRUE for the same rows as `expr` and evaluates costly terms only where cheaper ones leave it
/// open.
///
/// It may be FALSE where `expr` is NULL, so use it only for filters and join conditions.
pub(super) fn lazy(expr: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let operator = match expr.downcast_ref::<BinaryExpr>() {
        Some(binary) if matches!(binary.op(), Operator::And | Operator::Or) => *binary.op(),
        _ => return Ok(Arc::clone(expr)),
    };
    let mut terms = vec![];
    flatten(expr, operator, &mut terms);
    let (mut cheap, mut costly) = (vec![], vec![]);
    for term in terms {
        match cost::of(&term)? {
            Cost::FREE => cheap.push(term),
            cost => costly.push((cost, lazy(&term)?)),
        }
    }
    if costly.is_empty() {
        return Ok(Arc::clone(expr));
    }
    costly.sort_by_key(|(cost, _)| *cost);
    let mut steps: Vec<_> = join(cheap, operator).into_iter().chain(costly.into_iter().map(|(_, term)| term)).collect();
    let Some(mut rest) = steps.pop() else { return Ok(Arc::clone(expr)) };
    while let Some(first) = steps.pop() {
        let (then, otherwise) = if operator == Operator::And { (rest, lit(false)) } else { (lit(true), rest) };
        rest = case(None, vec![(first, then)], Some(otherwise))?;
    }
    Ok(rest)
}
