//! Video loading: from the encoded bytes of a clip to some of its frames.
//!
//! Animated GIF, WebP and PNG are decoded in this process (`crate::image`), everything else by ffmpeg in one of its own,
//! whose crash or hang is the clip's error. Which frames are taken follows BLIP's `VideoDataset` and LAVIS; frames at their
//! own size equal decord's.
//!
//! Clips are untrusted web data: none panics here, runs for longer than its time, reaches the network or changes a file.

mod clip;
mod container;
mod contract;
mod ffmpeg;
mod sampling;
#[cfg(test)]
mod tests;

pub use clip::{check, frames, info};
pub use contract::{Limits, VideoError, VideoInfo};
pub use sampling::{Frames, Sampling};
