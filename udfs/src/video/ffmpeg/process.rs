//! A process that is watched, and killed when its call ends.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::super::contract::{VideoError, Watch};
use super::confine;

/// Longest wait between two looks at the clock and the query.
const TICK: Duration = Duration::from_millis(50);

/// Messages that are kept, in bytes.
const MOST_MESSAGES: usize = 64 << 10;

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` if it was not needed any more.
    status: Option<ExitStatus>,
    /// Its first messages, as `-v level+..` prints them.
    pub(super) messages: String,
}

impl Ended {
    /// Whether the limit on processor time ended it.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.status.is_some_and(|status| status.signal() == Some(libc::SIGXCPU))
    }

    /// Why it failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        let status = self.status.filter(|status| !status.success())?;
        let ending = || match (status.signal(), status.code()) {
            (Some(signal), _) => format!("ffmpeg ended by signal {signal}"),
            (_, Some(code)) => format!("ffmpeg ended with exit code {code}"),
            _ => "ffmpeg ended".into(),
        };
        Some(self.complaint().unwrap_or_else(ending))
    }

    /// The first error among the messages, without the address that precedes it.
    pub(super) fn complaint(&self) -> Option<String> {
        let error = self.messages.lines().find_map(|line| {
            let (_, text) = line.split_once("[error] ").or_else(|| line.split_once("[fatal] "))?;
            Some(text.trim().trim_end_matches('.')).filter(|text| !text.is_empty())
        })?;
        Some(error.chars().filter(|c| !c.is_control()).take(200).collect())
    }
}

/// A child that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Until it is waited for, no other process has its number. An error is that it ended already.
        confine::kill_group(self.0.id());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program with `input` as its standard input, and hands its output to `take` until that breaks.
///
/// # Errors
/// That the program does not start, takes too long, or its query was cancelled; those of `take`.
pub(super) fn run(
    program: &Path,
    arguments: &[&str],
    input: &File,
    watch: &Watch<'_>,
    mut take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, VideoError>,
) -> Result<Ended, VideoError> {
    let failed =
        |e: std::io::Error| VideoError::NoDecoder(format!("{} cannot be run under its limits: {e}", program.display()));
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").process_group(0);
    command.stdin(input.try_clone().map_err(failed)?).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Decoders hold some twenty frames of a few bytes a pixel; a GiB is for the program itself.
    confine::confine(&mut command, watch.limits.frame.memory().saturating_add(1 << 30), watch.limits.time);
    let mut child = Running(command.spawn().map_err(failed)?);
    let (mut output, mut errors) = (child.0.stdout.take(), child.0.stderr.take());
    let mut messages = vec![];
    let mut buffer = vec![0; 64 << 10];
    while output.is_some() || errors.is_some() {
        let wait = watch.left()?.min(TICK);
        let there = [output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)];
        let [has_output, has_errors] = confine::readable(there, wait).map_err(failed)?;
        if has_output && let Some(pipe) = &mut output {
            match read(pipe, &mut buffer).map_err(failed)? {
                0 => output = None,
                n if take(&buffer[..n])?.is_break() => {
                    return Ok(Ended { status: None, messages: text(&messages) });
                }
                _ => {}
            }
        }
        if has_errors && let Some(pipe) = &mut errors {
            match read(pipe, &mut buffer).map_err(failed)? {
                0 => errors = None,
                n => messages.extend_from_slice(&buffer[..n.min(MOST_MESSAGES - messages.len())]),
            }
        }
    }
    // It closed both, and ends at once unless it was made not to.
    loop {
        if let Some(status) = child.0.try_wait().map_err(failed)? {
            return Ok(Ended { status: Some(status), messages: text(&messages) });
        }
        sleep(watch.left()?.min(Duration::from_millis(1)));
    }
}

fn read(pipe: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match pipe.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn text(messages: &[u8]) -> String {
    String::from_utf8_lossy(messages).into_owned()
}
