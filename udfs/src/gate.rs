//! The ITC gate: with `SET capfilt.itc_gate = 'low,high'`, a threshold on `itm_score` asks `itc_score` first.
//!
//! ITC reads image and text apart, so that its embeddings are shared by all pairs of an image; ITM runs the text encoder
//! over both. `itm_score(image, text) >= x` becomes
//!
//! ```sql
//! CASE WHEN itc_score(image, text) < low THEN false
//!      WHEN itc_score(image, text) >= high THEN true
//!      ELSE itm_score(image, text) >= x END
//! ```
//!
//! which EXPLAIN shows. A NULL score decides nothing, and goes on to ITM.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit, when};

use crate::config::{CapfiltOptions, ItcGate};
use crate::functions::{ITC_SCORE, ITM_SCORE, with_options};

/// Rewrites thresholds on `itm_score` if the session has a gate.
#[derive(Debug)]
pub(crate) struct ItcGateRewrite;

impl FunctionRewrite for ItcGateRewrite {
    fn name(&self) -> &str {
        "capfilt_itc_gate"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, config: &ConfigOptions) -> Result<Transformed<Expr>> {
        let Some(options) = config.extensions.get::<CapfiltOptions>() else { return Ok(Transformed::no(expr)) };
        match (options.itc_gate(), threshold(&expr)) {
            (Some(gate), Some((args, keeps))) => Ok(Transformed::yes(gated(expr, args, keeps, gate, options)?)),
            _ => Ok(Transformed::no(expr)),
        }
    }
}

/// Arguments of `itm_score` in a comparison with a constant, and whether the comparison holds for high scores.
fn threshold(expr: &Expr) -> Option<(Vec<Expr>, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let (call, constant, op) = match (&**left, &**right) {
        (Expr::ScalarFunction(call), constant) => (call, constant, *op),
        (constant, Expr::ScalarFunction(call)) => (call, constant, op.swap()?),
        _ => return None,
    };
    let is_number = matches!(constant, Expr::Literal(value, _) if !value.is_null());
    let keeps = match op {
        Operator::GtEq | Operator::Gt => true,
        Operator::LtEq | Operator::Lt => false,
        _ => return None,
    };
    (is_number && call.name() == ITM_SCORE).then(|| (call.args.clone(), keeps))
}

fn gated(expr: Expr, args: Vec<Expr>, keeps: bool, gate: ItcGate, options: &CapfiltOptions) -> Result<Expr> {
    let functions = with_options(&Arc::new(options.clone()));
    let itc = functions.into_iter().find(|function| function.name() == ITC_SCORE);
    let Some(itc) = itc else { return datafusion::common::internal_err!("{ITC_SCORE} is not among the functions") };
    let itc = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(itc), args));
    when(itc.clone().lt(lit(gate.low)), lit(!keeps)).when(itc.gt_eq(lit(gate.high)), lit(keeps)).otherwise(expr)
}
