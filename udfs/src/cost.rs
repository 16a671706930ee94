//! Costs of scalar functions, so that the planner makes as few costly calls as possible.
//!
//! DataFusion has no such notion: its optimiser treats a caption like an addition. A cost belongs to the type that
//! implements a function, not to its name, so any crate can [`declare`] one for its own functions.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{ScalarUDF, ScalarUDFImpl};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// Cost of one row, without a unit: only the order of costs matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cost(u64);

impl Cost {
    /// Cost of functions without a declared cost: arithmetic, comparisons, string functions.
    pub const FREE: Self = Self(0);
    /// Decodes an image; no model runs.
    pub const DECODE: Self = Self(1);
    /// Runs an encoder once.
    pub const EMBED: Self = Self(10);
    /// Encodes an image and matches a text with it.
    pub const MATCH: Self = Self(30);
    /// Reads a video in a process of its own.
    pub const VIDEO: Self = Self(100);
    /// Generates a text token by token.
    pub const CAPTION: Self = Self(1_000);
    /// Sends a request to a remote host.
    pub const NETWORK: Self = Self(10_000);

    /// Cost of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

static DECLARED: LazyLock<RwLock<HashMap<TypeId, Cost>>> = LazyLock::new(RwLock::default);

/// Declares the cost per row of every function that `F` implements.
///
/// The planner then evaluates the function on as few rows as it can: after cheaper predicates, above a join, and above
/// an ORDER BY with a LIMIT, even if its volatility is `Volatile`. A function whose result depends on the number or
/// order of its calls must not be declared.
pub fn declare<F: ScalarUDFImpl>(cost: Cost) {
    let known = DECLARED.read().unwrap_or_else(|e| e.into_inner()).get(&TypeId::of::<F>()) == Some(&cost);
    if !known {
        DECLARED.write().unwrap_or_else(|e| e.into_inner()).insert(TypeId::of::<F>(), cost);
    }
}

/// Cost per row of `function`.
pub fn of_function(function: &ScalarUDF) -> Cost {
    let implementation: &dyn Any = function.inner().as_ref();
    let declared = DECLARED.read().unwrap_or_else(|e| e.into_inner());
    declared.get(&implementation.type_id()).copied().unwrap_or_default()
}

/// Cost per row of `expr`: the sum over its functions.
pub(crate) fn of(expr: &Arc<dyn PhysicalExpr>) -> Result<Cost> {
    let mut cost = Cost::FREE;
    expr.apply(|e| {
        if let Some(call) = e.downcast_ref::<ScalarFunctionExpr>() {
            cost = cost.plus(of_function(call.fun()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(cost)
}

/// Whether `expr` has the same value for a row wherever it is evaluated: nothing in it is volatile except functions
/// with a cost.
pub(crate) fn is_movable(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut movable = true;
    expr.apply(|e| {
        let costly = e.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| of_function(call.fun()) > Cost::FREE);
        movable &= costly || !e.is_volatile_node();
        Ok(if movable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(movable)
}
