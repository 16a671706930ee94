//! Decimal forms of numbers.

/// The f64 with the same shortest decimal form as the f32.
pub(crate) fn decimal(x: f32) -> f64 {
    format!("{x:e}").parse().unwrap_or(f64::from(x))
}
