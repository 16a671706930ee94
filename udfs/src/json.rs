//! Helpers for reading JSON.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;

/// A whole number, including one written as a float: `384.0`.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    let float = |x: f64| (x.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&x)).then_some(x as u64);
    value.as_u64().or_else(|| float(value.as_f64()?))
}

/// Deserialises a field with [`whole`].
pub(crate) fn whole_field<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<T, D::Error> {
    let value = Value::deserialize(d)?;
    let number = whole(&value).and_then(|n| T::try_from(n).ok());
    number.ok_or_else(|| D::Error::custom(format!("{value} is not a whole number of this field's range")))
}
