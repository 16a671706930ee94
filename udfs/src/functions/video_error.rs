//! `video_error(video)`.

use std::sync::Arc;

use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::{Call, external};
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::error::Error;
use crate::{query, video};

/// Reason why a video cannot be used.
#[derive(Debug)]
pub(crate) struct VideoError;

impl SqlFunction for VideoError {
    const NAME: &'static str = "video_error";
    const DESCRIPTION: &'static str = "The reason why a video cannot be used, or NULL if it can. All of its frames are \
        decoded, within `capfilt.max_video_bytes`, `capfilt.max_image_pixels` and `capfilt.video_timeout`. A NULL video \
        gives 'no video'; without ffmpeg the text says what to install. Needs no model, and never fails, whatever \
        `capfilt.on_error` says.";
    const RETURNS: &'static str = "Utf8";
    const ARGS: &'static [Arg] = &[Arg::Video];
    const EXAMPLE: &'static str = "SELECT video_error(video) AS error, count(*) FROM clips GROUP BY error";
    const RELATED: &'static [&'static str] = &["frames", "video_info"];
    const COST: Cost = Cost::VIDEO;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let videos = call.images(0)?;
        let limits = call.session.video_limits();
        let error = |row: usize| {
            query::check_cancelled()?;
            let Some(bytes) = videos.get(row) else { return Ok(Some(videos.missing(row, "video"))) };
            match video::check(bytes, &limits, &|| query::check_cancelled().is_err()) {
                Ok(()) => Ok(None),
                Err(video::VideoError::Cancelled) => Err(external(call.function, Error::Cancelled)),
                Err(why) => Ok(Some(why.to_string())),
            }
        };
        Ok(ColumnarValue::Array(Arc::new((0..call.rows).map(error).collect::<Result<StringArray>>()?)))
    }
}
