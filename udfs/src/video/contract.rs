//! The limits on a video, the reasons for refusing one, and what is known of one.

use std::time::{Duration, Instant};

use crate::image::{self, ImageError};

/// Reason why a video cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VideoError {
    /// No bytes at all.
    #[error("empty")]
    Empty,
    /// More encoded bytes than `capfilt.max_video_bytes`.
    #[error("{bytes} bytes, above capfilt.max_video_bytes = {limit}")]
    TooManyBytes {
        /// Bytes of the encoded video.
        bytes: u64,
        /// The setting.
        limit: u64,
    },
    /// The bytes are not a video; the text says what they look like.
    #[error("not a video: {0}")]
    NotAVideo(String),
    /// An animated picture that cannot be used, or a frame that is too large.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no ffmpeg, or it does not start; the text says what to do.
    #[error("{0}")]
    NoDecoder(String),
    /// ffmpeg refuses the video.
    #[error("{format}: {reason}")]
    Refused {
        /// `mp4`, `webm`, ..
        format: &'static str,
        /// ffmpeg's message.
        reason: String,
    },
    /// More packets than a video may have.
    #[error("{format}: more than {limit} frames")]
    TooManyFrames {
        /// `mp4`, `webm`, ..
        format: &'static str,
        /// Most frames.
        limit: usize,
    },
    /// Decoding takes longer than `capfilt.video_timeout` allows.
    #[error("decoding takes longer than capfilt.video_timeout = {} allows", .0.as_secs_f64())]
    TooSlow(Duration),
    /// No frame lies between `start` and `end`.
    #[error("no frame {window}; the video ends at {seconds} s")]
    NoFrames {
        /// The seconds that were asked for, in words.
        window: String,
        /// Length of the video in seconds.
        seconds: String,
    },
    /// The query was cancelled.
    #[error("query cancelled")]
    Cancelled,
}

/// Facts of a video.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// `mp4`, `mov`, `webm`, `matroska`, `avi`, `mpegts`, `mpeg`, `flv`, `asf`, `ogg`, `gif`, `webp` or `png`.
    pub format: &'static str,
    /// ffmpeg's name of the codec, such as `h264`; the format of an animated picture.
    pub codec: String,
    /// Width in pixels of the upright frames.
    pub width: u32,
    /// Height in pixels of the upright frames.
    pub height: u32,
    /// Number of frames by the container's packets.
    pub frames: u64,
    /// Frames a second on average; `None` if the length is unknown.
    pub fps: Option<f64>,
    /// Length in seconds, if known.
    pub seconds: Option<f64>,
    /// Degrees clockwise by which stored frames are turned to be upright: 0, 90, 180 or 270.
    pub rotation: u16,
}

/// Limits on reading one video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes (`capfilt.max_video_bytes`).
    pub max_bytes: u64,
    /// Limits of a frame (`capfilt.max_image_pixels`).
    pub frame: image::Limits,
    /// Processor time (`capfilt.video_timeout`); four times as much may pass.
    pub time: Duration,
}

impl Limits {
    pub(super) fn check_bytes(&self, bytes: &[u8]) -> Result<(), VideoError> {
        let length = bytes.len() as u64;
        match length {
            0 => Err(VideoError::Empty),
            _ if length > self.max_bytes => Err(VideoError::TooManyBytes { bytes: length, limit: self.max_bytes }),
            _ => Ok(()),
        }
    }
}

/// The time left for one call on a video, and whether its query still runs.
pub(super) struct Watch<'a> {
    pub(super) limits: &'a Limits,
    until: Instant,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(limits: &'a Limits, cancelled: &'a dyn Fn() -> bool) -> Self {
        // At most a day, by the setting.
        Self { limits, until: Instant::now() + limits.time * 4, cancelled }
    }

    pub(super) fn too_slow(&self) -> VideoError {
        VideoError::TooSlow(self.limits.time)
    }

    /// The time left.
    ///
    /// # Errors
    /// [`VideoError::TooSlow`] if there is none, [`VideoError::Cancelled`].
    pub(super) fn left(&self) -> Result<Duration, VideoError> {
        if (self.cancelled)() {
            return Err(VideoError::Cancelled);
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.too_slow()) } else { Ok(left) }
    }
}
