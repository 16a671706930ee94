//! `video_info(video)`.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, StringArray, StructArray, UInt16Array, UInt32Array, UInt64Array,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::{query, video};

/// Facts of a video.
#[derive(Debug)]
pub(crate) struct VideoInfo;

fn fields() -> Fields {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    Fields::from(vec![
        field("format", DataType::Utf8),
        field("codec", DataType::Utf8),
        field("width", DataType::UInt32),
        field("height", DataType::UInt32),
        field("frames", DataType::UInt64),
        field("fps", DataType::Float64),
        field("seconds", DataType::Float64),
        field("rotation", DataType::UInt16),
    ])
}

impl SqlFunction for VideoInfo {
    const NAME: &'static str = "video_info";
    const DESCRIPTION: &'static str = "What a video's container says: its format, the codec by ffmpeg's name, the width and height in \
        pixels of its upright frames, the number of frames by its packets, frames a second on average, the length in seconds, and by \
        how many degrees clockwise stored frames are turned. No frame is decoded, so a video that is damaged further on passes: \
        `video_error` finds that. NULL, and a video that cannot be read, give NULL; so do fps and seconds where the length is unknown. \
        Needs ffmpeg as `frames` does, and no model.";
    const RETURNS: &'static str = "Struct(format Utf8, codec Utf8, width UInt32, height UInt32, frames UInt64, fps Float64, \
        seconds Float64, rotation UInt16)";
    const ARGS: &'static [Arg] = &[Arg::Video];
    const EXAMPLE: &'static str = "SELECT id FROM clips WHERE video_info(video)['seconds'] BETWEEN 2 AND 60";
    const RELATED: &'static [&'static str] = &["frames", "video_error"];
    const COST: Cost = Cost::VIDEO;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Struct(fields()))
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let videos = call.images(0)?;
        let limits = call.session.video_limits();
        let mut rows: Vec<Option<video::VideoInfo>> = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            query::check_cancelled()?;
            let Some(bytes) = videos.get(row) else {
                rows.push(None);
                continue;
            };
            rows.push(match video::info(bytes, &limits, &|| query::check_cancelled().is_err()) {
                Ok(info) => Some(info),
                Err(why) => {
                    call.bad_video(row, &videos, bytes, &why)?;
                    None
                }
            });
        }
        let of = || rows.iter().map(Option::as_ref);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(of().map(|info| info.map(|info| info.format)).collect::<StringArray>()),
            Arc::new(of().map(|info| info.map(|info| info.codec.as_str())).collect::<StringArray>()),
            Arc::new(of().map(|info| info.map(|info| info.width)).collect::<UInt32Array>()),
            Arc::new(of().map(|info| info.map(|info| info.height)).collect::<UInt32Array>()),
            Arc::new(of().map(|info| info.map(|info| info.frames)).collect::<UInt64Array>()),
            Arc::new(of().map(|info| info.and_then(|info| info.fps)).collect::<Float64Array>()),
            Arc::new(of().map(|info| info.and_then(|info| info.seconds)).collect::<Float64Array>()),
            Arc::new(of().map(|info| info.map(|info| info.rotation)).collect::<UInt16Array>()),
        ];
        let nulls: NullBuffer = rows.iter().map(Option::is_some).collect();
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(fields(), columns, Some(nulls))?)))
    }
}
