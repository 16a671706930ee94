//! A clip's frames, facts and faults, whatever it is read by.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::container::Container;
use super::contract::{Limits, VideoError, VideoInfo, Watch};
use super::ffmpeg::{Decoded, Ffmpeg, Timeline};
use super::sampling::Frames;
use crate::image::{Animation, Player, Rgb8};

/// Frames of a video as PNG, upright and at their own size. Where the video has fewer than are asked for, some occur
/// several times. `cancelled` says whether the query was.
///
/// # Errors
/// All of [`VideoError`].
pub fn frames(
    bytes: &[u8],
    wanted: &Frames,
    limits: &Limits,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<u8>>, VideoError> {
    limits.check_bytes(bytes)?;
    let watch = Watch::new(limits, cancelled);
    let (indices, pngs) = match Animation::read(bytes, &limits.frame)? {
        Some(animation) => of_animation(&animation, wanted, &watch)?,
        None => of_video(bytes, wanted, &watch)?,
    };
    // Distinct frames were encoded once.
    let mut result: Vec<Vec<u8>> = Vec::with_capacity(indices.len());
    let mut pngs = pngs.into_iter();
    for (i, index) in indices.iter().enumerate() {
        let png = match i.checked_sub(1).filter(|before| indices[*before] == *index) {
            Some(before) => Some(result[before].clone()),
            None => pngs.next(),
        };
        result.extend(png);
    }
    Ok(result)
}

/// Facts of a video, without decoding a frame.
///
/// # Errors
/// All of [`VideoError`], but none of what is damaged beyond the container.
pub fn info(bytes: &[u8], limits: &Limits, cancelled: &dyn Fn() -> bool) -> Result<VideoInfo, VideoError> {
    limits.check_bytes(bytes)?;
    let watch = Watch::new(limits, cancelled);
    if let Some(animation) = Animation::read(bytes, &limits.frame)? {
        let (width, height) = animation.size();
        let frames = animation.seconds().len();
        let seconds = Some(animation.seconds().sum::<f64>()).filter(|seconds| *seconds > 0.0);
        let fps = seconds.map(|seconds| frames as f64 / seconds);
        let format = animation.format();
        return Ok(VideoInfo {
            format,
            codec: format.into(),
            width,
            height,
            frames: frames as u64,
            fps,
            seconds,
            rotation: 0,
        });
    }
    let container = Container::sniff(bytes)?;
    let Timeline { times, seconds, codec, width, height, rotation } =
        Ffmpeg::open(bytes, container)?.timeline(&watch)?;
    let (width, height) = if rotation % 180 == 90 { (height, width) } else { (width, height) };
    let frames = times.len() as u64;
    let fps = seconds.map(|seconds| frames as f64 / seconds);
    Ok(VideoInfo { format: container.name, codec, width, height, frames, fps, seconds, rotation })
}

/// Checks that all frames of a video can be decoded, and discards them.
///
/// # Errors
/// All of [`VideoError`].
pub fn check(bytes: &[u8], limits: &Limits, cancelled: &dyn Fn() -> bool) -> Result<(), VideoError> {
    limits.check_bytes(bytes)?;
    let watch = Watch::new(limits, cancelled);
    if let Some(animation) = Animation::read(bytes, &limits.frame)? {
        let mut player = Player::new(&animation, &limits.frame);
        while player.advance()? {
            watch.left()?;
        }
        return Ok(());
    }
    let ffmpeg = Ffmpeg::open(bytes, Container::sniff(bytes)?)?;
    let Timeline { width, height, .. } = ffmpeg.timeline(&watch)?;
    limits.frame.check_size(width, height)?;
    ffmpeg.decoded_timeline(&watch).map(drop)
}

/// Indices of the frames that are asked for, and the distinct ones as PNG.
type Taken = (Vec<usize>, Vec<Vec<u8>>);

fn of_animation(animation: &Animation<'_>, wanted: &Frames, watch: &Watch<'_>) -> Result<Taken, VideoError> {
    let mut times = vec![];
    let mut seconds = 0.0;
    for shown in animation.seconds() {
        times.push(seconds);
        seconds += shown;
    }
    let indices = indices(wanted, &times, Some(seconds))?;
    let mut player = Player::new(animation, &watch.limits.frame);
    let mut pngs = vec![];
    let mut drawn = 0;
    for index in distinct(&indices) {
        while drawn <= index {
            watch.left()?;
            player.advance()?;
            drawn += 1;
        }
        pngs.push(encode(&player.picture())?);
    }
    Ok((indices, pngs))
}

fn of_video(bytes: &[u8], wanted: &Frames, watch: &Watch<'_>) -> Result<Taken, VideoError> {
    let ffmpeg = Ffmpeg::open(bytes, Container::sniff(bytes)?)?;
    let Timeline { times, seconds, width, height, .. } = ffmpeg.timeline(watch)?;
    watch.limits.frame.check_size(width, height)?;
    let first = indices(wanted, &times, seconds)?;
    if let Decoded::All(pngs) = ffmpeg.decode(&distinct(&first), watch, encode)? {
        return Ok((first, pngs));
    }
    // Some packets are no frames, such as the invisible ones of VP8: what can be decoded counts.
    let Timeline { times, seconds, .. } = ffmpeg.decoded_timeline(watch)?;
    let second = indices(wanted, &times, seconds)?;
    match ffmpeg.decode(&distinct(&second), watch, encode)? {
        Decoded::All(pngs) => Ok((second, pngs)),
        Decoded::Fewer => Err(ffmpeg.refused("it decodes to fewer frames the second time")),
    }
}

fn indices(wanted: &Frames, times: &[f64], seconds: Option<f64>) -> Result<Vec<usize>, VideoError> {
    let indices = wanted.indices(times);
    if !indices.is_empty() {
        return Ok(indices);
    }
    let seconds = seconds.or(times.last().copied()).unwrap_or_default();
    let text = |seconds: f64| ((seconds * 1000.0).round() / 1000.0).to_string();
    let end = wanted.end.map(|end| format!(" and before {} s", text(end))).unwrap_or_default();
    let window = format!("from {} s on{end}", text(wanted.start));
    Err(VideoError::NoFrames { window, seconds: text(seconds) })
}

fn distinct(indices: &[usize]) -> Vec<usize> {
    let mut distinct = indices.to_vec();
    distinct.dedup();
    distinct
}

/// A picture as PNG.
fn encode(picture: &Rgb8) -> Result<Vec<u8>, VideoError> {
    let mut png = vec![];
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    let written = encoder.write_image(&picture.data, picture.width, picture.height, ExtendedColorType::Rgb8);
    written.map_err(|e| VideoError::NoDecoder(format!("a frame cannot be encoded as PNG: {e}")))?;
    Ok(png)
}
