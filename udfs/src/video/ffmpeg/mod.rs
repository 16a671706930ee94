//! Videos by ffmpeg, a process for each question to a clip.
//!
//! The guards: only the container's own demuxer and the protocol `file` are allowed, so that no playlist and no reference
//! leads elsewhere; the clip is an anonymous file in memory, ffmpeg's standard input; memory, processor time, open files and
//! written bytes are limited; system calls that reach the network, other processes or change files are refused
//! ([`confine`]); the environment is empty; output is read no further than it is needed, and the process group is killed
//! when the call ends, whatever way.

#[cfg(target_os = "linux")]
mod confine;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod confine;
mod packets;
mod pictures;
mod pipes;
mod process;
mod program;
#[cfg(target_os = "linux")]
mod syscalls;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::container::Container;
use super::contract::{VideoError, Watch};
use crate::image::Rgb8;
use process::Ended;

pub(super) use packets::Timeline;
#[cfg(test)]
pub(super) use program::find as program;

/// A clip that ffmpeg can be asked about.
pub(super) struct Ffmpeg {
    program: PathBuf,
    input: File,
    container: Container,
}

/// Outcome of decoding.
pub(super) enum Decoded<T> {
    /// The frames that were asked for.
    All(Vec<T>),
    /// The video ended before the last of them, without an error.
    Fewer,
}

/// What keeps every frame as it is: timestamps neither repeat nor drop one. Since ffmpeg 5.1.
const EVERY_FRAME: [&str; 2] = ["-fps_mode", "passthrough"];

/// Options of the input where frames are decoded.
fn decoding(watch: &Watch<'_>) -> String {
    format!("-v level+error -max_pixels {}", watch.limits.frame.max_pixels.min(i32::MAX as u64))
}

impl Ffmpeg {
    /// Copies the clip into a file in memory.
    pub(super) fn open(bytes: &[u8], container: Container) -> Result<Self, VideoError> {
        let program = program::find()?;
        let input = confine::in_memory(bytes);
        let input = input.map_err(|e| VideoError::NoDecoder(format!("the video cannot be handed to ffmpeg: {e}")))?;
        Ok(Self { program, input, container })
    }

    /// Packets of the video stream, codec and size, without decoding.
    pub(super) fn timeline(&self, watch: &Watch<'_>) -> Result<Timeline, VideoError> {
        let output = ["-c", "copy", "-copyinkf", "-copyts", "-f", "framecrc"];
        let (mut timeline, ended) = self.packets("-v level+info", &output, watch)?;
        timeline.rotation = packets::rotation(&ended.messages);
        if timeline.width == 0 || timeline.height == 0 {
            return Err(self.refused("the size of its frames is unknown"));
        }
        Ok(timeline)
    }

    /// The frames that can be decoded, all of which are; of its fields only the times are of the video.
    pub(super) fn decoded_timeline(&self, watch: &Watch<'_>) -> Result<Timeline, VideoError> {
        let output = ["-copyts", "-vf", "scale=1:1", "-pix_fmt", "gray", "-f", "framecrc"];
        let output = [&EVERY_FRAME[..], &output].concat();
        Ok(self.packets(&decoding(watch), &output, watch)?.0)
    }

    fn packets(&self, options: &str, output: &[&str], watch: &Watch<'_>) -> Result<(Timeline, Ended), VideoError> {
        let mut reader = packets::Reader::default();
        let limit = crate::image::MOST_FRAMES;
        let too_many = || VideoError::TooManyFrames { format: self.container.name, limit };
        let take =
            |bytes: &[u8]| if reader.take(bytes, limit) { Ok(ControlFlow::Continue(())) } else { Err(too_many()) };
        let ended = self.run(options, output, watch, take)?;
        self.check(&ended, watch)?;
        match reader.timeline() {
            Some(timeline) => Ok((timeline, ended)),
            None => Err(self.refused(ended.complaint().as_deref().unwrap_or("it has no frames"))),
        }
    }

    /// Decodes the frames of these indices, which ascend, and converts each.
    pub(super) fn decode<T>(
        &self,
        indices: &[usize],
        watch: &Watch<'_>,
        convert: impl Fn(&Rgb8) -> Result<T, VideoError>,
    ) -> Result<Decoded<T>, VideoError> {
        let wanted: Vec<String> = indices.iter().map(|index| format!("eq(n\\,{index})")).collect();
        let (select, count) = (format!("select={}", wanted.join("+")), indices.len().to_string());
        let output = ["-vf", &select, "-frames:v", &count, "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe"];
        let output = [&EVERY_FRAME[..], &output].concat();
        let mut reader = pictures::Reader::new(watch.limits.frame);
        let mut done = vec![];
        let take = |bytes: &[u8]| {
            reader.take(bytes, |picture| {
                done.push(convert(picture)?);
                Ok(if done.len() == indices.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
        };
        let ended = self.run(&decoding(watch), &output, watch, take)?;
        if done.len() == indices.len() {
            return Ok(Decoded::All(done));
        }
        self.check(&ended, watch)?;
        Ok(Decoded::Fewer)
    }

    /// Runs ffmpeg with these options of the input on the first video stream that is no cover picture.
    fn run(
        &self,
        options: &str,
        output: &[&str],
        watch: &Watch<'_>,
        take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, VideoError>,
    ) -> Result<Ended, VideoError> {
        let demuxer = self.container.demuxer;
        let input = format!(
            "-hide_banner -nostdin -nostats -xerror -threads 1 -protocol_whitelist file -format_whitelist {demuxer} -f {demuxer} \
             {options} -i file:/proc/self/fd/0 -map 0:V:0 -an -sn -dn -filter_threads 1 -threads 1"
        );
        let arguments: Vec<&str> = input.split(' ').chain(output.iter().copied()).chain(["pipe:1"]).collect();
        process::run(&self.program, &arguments, &self.input, watch, take)
    }

    fn check(&self, ended: &Ended, watch: &Watch<'_>) -> Result<(), VideoError> {
        if ended.is_out_of_time() {
            return Err(watch.too_slow());
        }
        match ended.failure() {
            Some(reason) => Err(self.refused(&reason)),
            None => Ok(()),
        }
    }

    /// The error of a clip that ffmpeg refuses, unless it refuses the option that only newer ones have.
    pub(super) fn refused(&self, reason: &str) -> VideoError {
        if reason.contains(EVERY_FRAME[0].trim_start_matches('-')) {
            return program::too_old(&self.program);
        }
        VideoError::Refused { format: self.container.name, reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_program_is_not_the_clips_fault() {
        let clip = b"\0\0\0\x18ftypisom";
        let input = confine::in_memory(clip).unwrap();
        let ffmpeg = Ffmpeg { program: "/opt/ffmpeg".into(), input, container: Container::sniff(clip).unwrap() };
        assert_eq!(ffmpeg.refused("moov atom not found").to_string(), "mp4: moov atom not found");
        let old = ffmpeg.refused("Unrecognized option 'fps_mode'").to_string();
        assert!(old.starts_with("/opt/ffmpeg is older than 5.1; install ffmpeg"), "{old}");
    }
}
