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
use super::{confine, pipes};

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
        pipes::kill_group(self.0.id());
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
        let [has_output, has_errors] = pipes::readable(there, wait).map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::video::Limits;

    fn run_for(
        seconds: f64,
        arguments: &[&str],
        take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, VideoError>,
    ) -> Result<Ended, VideoError> {
        let limits =
            Limits { max_bytes: 0, frame: crate::image::Limits::default(), time: Duration::from_secs_f64(seconds) };
        let input = confine::in_memory(b"the clip").unwrap();
        let (program, arguments) = arguments.split_first().unwrap();
        let result = run(Path::new(program), arguments, &input, &Watch::new(&limits, &|| false), take);
        assert_eq!(std::fs::read_to_string("/proc/thread-self/children").unwrap(), "", "{program} is still there");
        result
    }

    /// Output and messages of a shell's script.
    fn script(script: &str) -> (String, String) {
        let mut output = vec![];
        let ended = run_for(5.0, &["/bin/bash", "-c", script], |bytes| {
            output.extend_from_slice(bytes);
            Ok(ControlFlow::Continue(()))
        });
        (text(&output), ended.unwrap().messages)
    }

    fn go_on(_: &[u8]) -> Result<ControlFlow<()>, VideoError> {
        Ok(ControlFlow::Continue(()))
    }

    #[test]
    fn a_process_that_waits_is_killed() {
        let started = Instant::now();
        for arguments in [&["/bin/sleep", "100"][..], &["/bin/bash", "-c", "exec >&- 2>&-; exec sleep 100"]] {
            let slow = run_for(0.1, arguments, go_on).unwrap_err();
            assert!(matches!(slow, VideoError::TooSlow(_)), "{slow}");
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_cancelled_query_ends_its_process() {
        let started = Instant::now();
        let limits = Limits { max_bytes: 0, frame: crate::image::Limits::default(), time: Duration::from_secs(60) };
        let cancelled = || started.elapsed() > Duration::from_millis(200);
        let input = confine::in_memory(b"").unwrap();
        let ended = run(Path::new("/bin/sleep"), &["100"], &input, &Watch::new(&limits, &cancelled), go_on);
        assert_eq!(ended.unwrap_err(), VideoError::Cancelled);
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(std::fs::read_to_string("/proc/thread-self/children").unwrap(), "");
    }

    #[test]
    fn a_process_that_computes_runs_out_of_time() {
        let ended = run_for(1.0, &["/bin/bash", "-c", "while :; do :; done"], go_on);
        // On a machine with other work the clock may be the first.
        assert!(
            ended.as_ref().map_or_else(|e| matches!(e, VideoError::TooSlow(_)), Ended::is_out_of_time),
            "{ended:?}"
        );
    }

    #[test]
    fn output_is_read_no_further_than_needed() {
        let mut read = 0;
        let ended = run_for(60.0, &["/usr/bin/yes"], |bytes| {
            read += bytes.len();
            Ok(if read > 100_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert_eq!((ended.unwrap().failure(), read < 300_000), (None, true));
        // Endless messages are dropped.
        let slow = run_for(0.1, &["/bin/bash", "-c", "exec yes >&2"], go_on).unwrap_err();
        assert!(matches!(slow, VideoError::TooSlow(_)));
    }

    #[test]
    fn a_process_has_its_input_and_nothing_else() {
        assert_eq!(
            script("read -r -d '' x < /proc/self/fd/0; echo $x $PWD $HOME $LANG"),
            ("the clip /\n".into(), String::new())
        );
        // The last is the folder's own.
        assert_eq!(script("exec ls /proc/self/fd").0, "0\n1\n2\n3\n");
        assert_eq!(script("ulimit -n; ulimit -f; ulimit -c; ulimit -t").0, "64\n0\n0\n5\n");
    }

    #[test]
    fn a_process_reaches_no_file_no_network_and_no_other_process() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        for (tried, refused) in [
            (format!("echo > {}", new.display()), "Operation not permitted"),
            (format!("echo >> {}", old.display()), "Operation not permitted"),
            (format!("exec rm {}", old.display()), "Operation not permitted"),
            (format!("exec mv {} {}", old.display(), new.display()), "Operation not permitted"),
            (format!("exec mkdir {}", new.display()), "Operation not permitted"),
            (format!("exec ln {} {}", old.display(), new.display()), "Operation not permitted"),
            (format!("exec chmod 777 {}", old.display()), "Operation not permitted"),
            ("exec 3<>/dev/tcp/127.0.0.1/9".into(), "Operation not permitted"),
            ("exec 3<>/dev/udp/127.0.0.1/9".into(), "Operation not permitted"),
            ("/bin/true; echo $?".into(), "fork"),
            (format!("kill -0 {}", std::process::id()), "Operation not permitted"),
        ] {
            let (output, messages) = script(&tried);
            assert!(messages.contains(refused), "{tried}: {output} {messages}");
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!((names, std::fs::read(&old).unwrap()), (vec!["old".into()], b"old".to_vec()));
    }

    #[test]
    fn a_program_that_does_not_start_is_named() {
        let error = run_for(1.0, &["/nowhere/ffmpeg"], go_on).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/ffmpeg cannot be run under its limits: No such file"), "{error}");
    }

    #[test]
    fn the_first_error_is_the_reason() {
        let (_, messages) = script(
            "echo '[info] a' >&2; echo '[mov @ 0x55] [error] moov atom not found.' >&2; echo '[error] b' >&2; exit 3",
        );
        let ended = |code: i32| Ended { status: Some(ExitStatus::from_raw(code)), messages: messages.clone() };
        assert_eq!(ended(3 << 8).failure().as_deref(), Some("moov atom not found"));
        assert_eq!(ended(0).failure(), None);
        let silent = Ended { status: Some(ExitStatus::from_raw(libc::SIGSEGV)), messages: String::new() };
        assert_eq!(silent.failure().as_deref(), Some("ffmpeg ended by signal 11"));
    }
}
