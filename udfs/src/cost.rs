//! What a call of a scalar function costs, so that the planner makes as few calls as it can.
//!
//! DataFusion has no notion of it: to its optimizer a caption is as cheap as an addition. A cost belongs to the type that
//! implements a function, not to its name, so any crate can [`declare`] one for a function of its own.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{ScalarUDF, ScalarUDFImpl};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// The cost of one row, in no unit: only the order of costs counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cost(u64);

impl Cost {
    /// That of every function without a declared cost: arithmetic, comparisons, string functions.
    pub const FREE: Self = Self(0);
    /// An image is decoded; no model runs.
    pub const DECODE: Self = Self(1);
    /// An encoder runs once.
    pub const EMBED: Self = Self(10);
    /// An image is encoded, and a text is read against it.
    pub const MATCH: Self = Self(30);
    /// A text is generated, token by token.
    pub const CAPTION: Self = Self(1_000);
    /// A host elsewhere is asked.
    pub const NETWORK: Self = Self(10_000);

    /// The cost of doing both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

static DECLARED: LazyLock<RwLock<HashMap<TypeId, Cost>>> = LazyLock::new(RwLock::default);

/// Declares what a row costs of every function that `F` implements.
///
/// The planner then evaluates the function on as few rows as it can: after cheaper predicates, above a join, and above an ORDER BY
/// with a LIMIT. It does so even if the function's volatility is `Volatile`; one whose result depends on how often or in what
/// order it is called must not be declared.
pub fn declare<F: ScalarUDFImpl>(cost: Cost) {
    let known = DECLARED.read().unwrap_or_else(|e| e.into_inner()).get(&TypeId::of::<F>()) == Some(&cost);
    if !known {
        DECLARED.write().unwrap_or_else(|e| e.into_inner()).insert(TypeId::of::<F>(), cost);
    }
}

/// The cost of a row of `function`.
pub fn of_function(function: &ScalarUDF) -> Cost {
    let implementation: &dyn Any = function.inner().as_ref();
    let declared = DECLARED.read().unwrap_or_else(|e| e.into_inner());
    declared.get(&implementation.type_id()).copied().unwrap_or_default()
}

/// The cost of a row of `expr`: that of all functions in it.
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

/// Whether `expr` gives the same value of a row wherever it is evaluated: nothing in it is volatile, functions with a cost aside.
pub(crate) fn is_movable(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut movable = true;
    expr.apply(|e| {
        let costly = e.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| of_function(call.fun()) > Cost::FREE);
        movable &= costly || !e.is_volatile_node();
        Ok(if movable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(movable)
}
