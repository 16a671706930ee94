//! `captions(image, n [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ListBuilder, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::captioning;
use super::plan::Plan;
use super::udf::{Arg, MAX_COUNT, SqlFunction};
use crate::blip::generate::Strategy;
use crate::cost::Cost;

/// Several captions of an image.
#[derive(Debug)]
pub(crate) struct Captions;

/// Checks `n`; the error states the allowed range.
fn check_count(n: i64) -> Result<u32, String> {
    match u32::try_from(n) {
        Ok(count) if (1..=MAX_COUNT).contains(&n) => Ok(count),
        _ => Err(format!("captions: n must be from 1 to {MAX_COUNT}, not {n}")),
    }
}

impl SqlFunction for Captions {
    const NAME: &'static str = "captions";
    const DESCRIPTION: &'static str = "Writes `n` captions of an image with the model of `capfilt.captioner`. They are samples, \
        drawn by nucleus sampling, unless the call has `num_beams` or the call or SET names the strategy `beam`: then they are the \
        `n` best beams of one search, best first, and `n` is at most `num_beams`. They share the work on the image. NULL, and an \
        image that cannot be used, give NULL.";
    const RETURNS: &'static str = "List(Utf8)";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Count, Arg::Options(captioning::OPTIONS)];
    const EXAMPLE: &'static str = "SELECT id, unnest(captions(image, 3, named_struct('seed', 7))) AS text FROM web";
    const RELATED: &'static [&'static str] = &["caption", "itm_score"];
    const COST: Cost = Cost::CAPTION;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        let count = match plan.scalars.get(1).copied().flatten().map(|n| n.cast_to(&DataType::Int64)) {
            Some(Ok(ScalarValue::Int64(Some(n)))) => match check_count(n) {
                Ok(count) => count,
                Err(message) => return plan_err!("{message}"),
            },
            _ => 1,
        };
        captioning::check(plan, Some(Strategy::Nucleus), count)?;
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))))
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let counts = call.integers(1)?;
        let count = |row: usize| {
            if counts.is_null(row) {
                return Ok(None);
            }
            match check_count(counts.value(row)) {
                Ok(count) => Ok(Some(count)),
                Err(message) => exec_err!("{message}"),
            }
        };
        let mut lists = ListBuilder::new(StringBuilder::new());
        for captions in captioning::run(call, 2, Some(Strategy::Nucleus), count)? {
            lists.append_option(captions.map(|texts| texts.into_iter().map(Some)));
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
}

#[cfg(test)]
mod tests {
    use super::check_count;

    #[test]
    fn counts_have_bounds() {
        assert_eq!(check_count(1), Ok(1));
        assert_eq!(check_count(64), Ok(64));
        for n in [0, -1, 65, i64::MAX] {
            assert!(check_count(n).is_err(), "{n}");
        }
    }
}
