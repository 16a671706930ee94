//! `frames(video, n [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, BinaryBuilder, ListBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::options_arg::{CallOptions, OptionField};
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::config::CapfiltOptions;
use crate::cost::Cost;
use crate::{query, video};

/// Frames of a video.
#[derive(Debug)]
pub(crate) struct Frames;

const OPTIONS: &[OptionField] = &[OptionField::Sampling, OptionField::Start, OptionField::End];

/// Checks `n`; the error states the allowed range.
fn check_count(n: i64, session: &CapfiltOptions) -> Result<usize, String> {
    let most = session.max_frames();
    match u64::try_from(n) {
        Ok(count) if (1..=most).contains(&count) => Ok(count as usize),
        _ => Err(format!("frames: n must be from 1 to {most} (capfilt.max_frames), not {n}")),
    }
}

/// What a call asks for, with `n` frames; the error names the option.
fn wanted(n: usize, options: &CallOptions) -> Result<video::Frames, String> {
    let start = options.float(OptionField::Start).unwrap_or(0.0);
    let end = options.float(OptionField::End);
    if start < 0.0 {
        return Err(format!("frames: option start must be at least 0, not {start}"));
    }
    if let Some(end) = end.filter(|end| *end <= start) {
        return Err(format!("frames: option end must be above start, which is {start}, not {end}"));
    }
    let sampling = options.text(OptionField::Sampling).and_then(|name| name.parse().ok()).unwrap_or_default();
    Ok(video::Frames { n, sampling, start: f64::from(start), end: end.map(f64::from) })
}

/// Most bytes that a `Binary` array can hold.
const MOST_BYTES: usize = i32::MAX as usize;

impl SqlFunction for Frames {
    const NAME: &'static str = "frames";
    const DESCRIPTION: &'static str = "Frames of a video as PNG images, in their order, upright and at their own size. A video with fewer than `n` \
        frames gives some of them several times. Animated GIF, WebP and PNG are decoded here; MP4, MOV, WebM, Matroska, \
        AVI, MPEG, FLV, ASF and Ogg by the program ffmpeg, 5.1 or later, which CAPFILT_FFMPEG names or PATH has, in a \
        process that can neither open a connection nor write a file. NULL, a video that cannot be used, for which \
        `video_error` has the reason, and one without a frame between `start` and `end` give NULL. Needs no model.";
    const RETURNS: &'static str = "List(Binary)";
    const ARGS: &'static [Arg] = &[Arg::Video, Arg::Frames, Arg::Options(OPTIONS)];
    const EXAMPLE: &'static str = "SELECT id, caption(f[5]) FROM (SELECT id, frames(video, 8) AS f FROM clips)";
    const RELATED: &'static [&'static str] = &["video_info", "video_error", "caption"];
    const COST: Cost = Cost::VIDEO;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        let count = plan.scalars.get(1).copied().flatten().map(|n| n.cast_to(&DataType::Int64));
        let checked = match count {
            Some(Ok(ScalarValue::Int64(Some(n)))) => check_count(n, plan.session).map(drop),
            _ => Ok(()),
        };
        let checked =
            checked.and_then(|()| plan.options.as_ref().map_or(Ok(()), |options| wanted(1, options).map(drop)));
        match checked {
            Ok(()) => Ok(DataType::new_list(DataType::Binary, true)),
            Err(message) => plan_err!("{message}"),
        }
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (videos, counts, options) = (call.images(0)?, call.integers(1)?, call.options(2, OPTIONS)?);
        let limits = call.session.video_limits();
        let mut lists = ListBuilder::new(BinaryBuilder::new());
        let mut size = 0;
        for row in 0..call.rows {
            query::check_cancelled()?;
            let Some(bytes) = videos.get(row).filter(|_| counts.is_valid(row)) else {
                lists.append_null();
                continue;
            };
            let count = check_count(counts.value(row), call.session);
            let wanted = match count.and_then(|n| wanted(n, &options.distinct[options.of(row)])) {
                Ok(wanted) => wanted,
                Err(message) => return exec_err!("{message}"),
            };
            match video::frames(bytes, &wanted, &limits, &|| query::check_cancelled().is_err()) {
                Ok(frames) => {
                    size += frames.iter().map(Vec::len).sum::<usize>();
                    if size > MOST_BYTES {
                        return exec_err!(
                            "frames: those of {} rows take more than 2 GiB; SET datafusion.execution.batch_size = {}, or ask for fewer",
                            row + 1,
                            (row / 2).max(1)
                        );
                    }
                    lists.append_value(frames.iter().map(Some));
                }
                Err(why) => {
                    call.bad_video(row, &videos, bytes, &why)?;
                    lists.append_null();
                }
            }
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_have_bounds() {
        let session = CapfiltOptions::new();
        assert_eq!(check_count(64, &session), Ok(64));
        for n in [0, -1, 65, i64::MAX] {
            assert!(check_count(n, &session).unwrap_err().contains("from 1 to 64 (capfilt.max_frames)"), "{n}");
        }
        assert_eq!(check_count(65, &session.with("max_frames", "65").unwrap()), Ok(65));
    }
}
