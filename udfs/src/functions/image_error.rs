//! `image_error(image)`.

use std::sync::Arc;

use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::{image, query};

/// Reason why an image cannot be used.
#[derive(Debug)]
pub(crate) struct ImageError;

impl SqlFunction for ImageError {
    const NAME: &'static str = "image_error";
    const DESCRIPTION: &'static str = "The reason why an image cannot be used, or NULL if it can. The image is decoded in \
        full, within `capfilt.max_image_bytes` and `capfilt.max_image_pixels`. A NULL image gives 'no image'. Needs no \
        model, and never fails, whatever `capfilt.on_error` says.";
    const RETURNS: &'static str = "Utf8";
    const ARGS: &'static [Arg] = &[Arg::Image];
    const EXAMPLE: &'static str = "SELECT image_error(image) AS error, count(*) FROM web GROUP BY error";
    const RELATED: &'static [&'static str] = &["image_info"];
    const COST: Cost = Cost::DECODE;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let images = call.images(0)?;
        let limits = call.session.image_limits();
        let error = |row: usize| {
            query::check_cancelled()?;
            Ok(match images.get(row) {
                Some(bytes) => image::check(bytes, &limits).err().map(|why| why.to_string()),
                None => Some(images.missing(row, "image")),
            })
        };
        Ok(ColumnarValue::Array(Arc::new((0..call.rows).map(error).collect::<Result<StringArray>>()?)))
    }
}
