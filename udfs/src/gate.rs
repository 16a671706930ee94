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

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
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
            (Some(gate), Some(args)) => Ok(Transformed::yes(gated(expr, args, gate, options)?)),
            _ => Ok(Transformed::no(expr)),
        }
    }
}

/// Arguments of `itm_score` in `itm_score(..) >= x`, with x from 0 to 1. What asks for low scores is left to ITM, and so
/// is a range's upper end.
fn threshold(expr: &Expr) -> Option<Vec<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let (call, constant, op) = match (&**left, &**right) {
        (Expr::ScalarFunction(call), constant) => (call, constant, *op),
        (constant, Expr::ScalarFunction(call)) => (call, constant, op.swap()?),
        _ => return None,
    };
    let Expr::Literal(value, _) = constant else { return None };
    let Ok(ScalarValue::Float64(Some(value))) = value.cast_to(&DataType::Float64) else { return None };
    let is_threshold = matches!(op, Operator::GtEq | Operator::Gt) && (0.0..=1.0).contains(&value);
    (is_threshold && call.name() == ITM_SCORE).then(|| call.args.clone())
}

fn gated(expr: Expr, args: Vec<Expr>, gate: ItcGate, options: &CapfiltOptions) -> Result<Expr> {
    let functions = with_options(&Arc::new(options.clone()));
    let itc = functions.into_iter().find(|function| function.name() == ITC_SCORE);
    let Some(itc) = itc else { return datafusion::common::internal_err!("{ITC_SCORE} is not among the functions") };
    let itc = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(itc), args));
    when(itc.clone().lt(lit(gate.low)), lit(false)).when(itc.gt_eq(lit(gate.high)), lit(true)).otherwise(expr)
}
