//! `caption(image [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::captioning;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;

/// One caption of an image.
#[derive(Debug)]
pub(crate) struct Caption;

impl SqlFunction for Caption {
    const NAME: &'static str = "caption";
    const DESCRIPTION: &'static str = "Writes a caption of an image with the model of `capfilt.captioner`. NULL, \
        and an image that cannot be used, give NULL. The caption leaves out its prompt; it may be the empty string.";
    const RETURNS: &'static str = "Utf8";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Options(captioning::OPTIONS)];
    const EXAMPLE: &'static str =
        "SELECT id, caption(image, named_struct('strategy', 'nucleus', 'top_p', 0.9)) AS text FROM web";
    const RELATED: &'static [&'static str] = &["captions", "image_error"];
    const COST: Cost = Cost::CAPTION;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        captioning::check(plan, None, 1)?;
        Ok(DataType::Utf8)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let captions = captioning::run(call, 1, None, |_| Ok(Some(1)))?;
        let one = captions.into_iter().map(|c| c.and_then(|texts| texts.into_iter().next()));
        Ok(ColumnarValue::Array(Arc::new(one.collect::<StringArray>())))
    }
}
