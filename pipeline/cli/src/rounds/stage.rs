//! A stage of the rounds, run as a separate program.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use capfilt_job::{Images, OutputFormat};
use capfilt_tables::pair_table::{manifest_paths, unfinished};
use clap::Parser as _;
use futures::FutureExt as _;
use tokio::process::{Child, Command};

use crate::args::command::{Cli, Command as Verb};
use crate::args::job::RunArgs;
use crate::signals::{Signal, Signals};

/// Last file that `capfilt-train` writes.
const DONE: &str = "done.json";

/// A program to run, and the folder that it makes.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// The program and its first arguments.
    pub(crate) program: Vec<OsString>,
    pub(crate) args: Vec<OsString>,
}

impl Stage {
    /// Command line, quoted for a shell.
    pub(crate) fn command_line(&self) -> String {
        quoted(self.program.iter().chain(&self.args))
    }

    /// Whether `capfilt run` or `capfilt-train` has finished in the folder.
    pub(crate) fn is_finished(&self) -> Result<bool> {
        // `unfinished` also returns `None` if there is no pair table, so the manifest is checked first.
        Ok(self.folder.join(DONE).exists() || self.has_manifest() && unfinished(&self.folder)?.is_none())
    }

    /// Whether the folder has state to resume from, or results.
    pub(crate) fn has_begun(&self) -> bool {
        let state = |name: OsString| name == DONE || name.to_string_lossy().starts_with("state-");
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        self.has_manifest() || entries.map(|entry| entry.file_name()).any(state)
    }

    fn has_manifest(&self) -> bool {
        manifest_paths(&self.folder).is_ok_and(|paths| paths.iter().any(|path| path.exists()))
    }

    /// Errors on arguments of `capfilt run` that are invalid or not allowed for rounds. Returns the path of its recipe.
    pub(crate) fn check_run(&self) -> Result<Option<PathBuf>> {
        let of = "the arguments of capfilt run, after --";
        let program = [OsString::from("capfilt")];
        let run = match Cli::try_parse_from(program.iter().chain(&self.args)) {
            Ok(Cli { command: Verb::Run(run) }) => run,
            Ok(_) => bail!("{of}: they are another command's"),
            Err(error) => {
                let said = error.to_string();
                bail!("{of}: {}", said.lines().next().unwrap_or_default().trim_start_matches("error: "));
            }
        };
        match unfit(&run) {
            Some(why) => bail!("{of}: {why}"),
            None => Ok(run.recipe.recipe),
        }
    }

    /// Runs the program to completion.
    pub(crate) async fn run(&self, lock: &File, wishes: &mut Wishes) -> Result<()> {
        let (name, goes_on) = (&self.name, "the same command goes on from there");
        if wishes.is_stopped() {
            bail!("stopped before {name}: {goes_on}");
        }
        let mut words = self.program.iter();
        let program = Path::new(words.next().context("a stage without a program")?);
        let mut command = Command::new(program);
        command.args(words).args(&self.args).stdin(lock.try_clone()?).stdout(Stdio::null());
        let cannot = || format!("{name}: cannot run {}", program.display());
        let status = wishes.wait(&mut command).await.with_context(cannot)?;
        let program = program.file_name().unwrap_or_default().display();
        match status.success() {
            true if self.is_finished()? => Ok(()),
            _ if wishes.is_stopped() => bail!("{name}: stopped; {goes_on}"),
            true => bail!("{name}: {program} ended well, but there is no finished {}", self.folder.display()),
            false => bail!("{name}: {program} failed ({status}): what it said is above; {goes_on}"),
        }
    }
}

/// Reason why arguments of `capfilt run` are not allowed for rounds.
fn unfit(run: &RunArgs) -> Option<&'static str> {
    let model = |(name, _): &(String, String)| ["capfilt.captioner", "capfilt.filter"].contains(&name.as_str());
    let all = [
        (run.operation.overwrite, "the table of a round is made once, and never changed after"),
        (run.job.is_some(), "--job: give the options themselves"),
        (run.output.shard.as_deref().is_some_and(|shard| shard != "1/1"), "--shard: here one process makes a table"),
        (
            matches!(run.output.table_format, Some(OutputFormat::WebDataset | OutputFormat::JsonLines)),
            "--table-format: capfilt-train reads Parquet, and Delta tables of it",
        ),
        (run.operation.dry_run.is_some(), "--dry-run: give it to capfilt run itself"),
        (run.output.write_images == Some(Images::None), "--write-images none: capfilt-train needs the images"),
        (run.session.set.iter().any(model), "the models come from --captioner and --filter of capfilt rounds"),
    ];
    all.into_iter().find_map(|(is, why)| is.then_some(why))
}

/// Requests to stop. Ctrl-C reaches the stage directly, and this process waits until it has stopped cleanly; SIGTERM is
/// forwarded to the stage.
pub(crate) struct Wishes {
    signals: Signals,
    stop: bool,
}

impl Wishes {
    /// Starts listening; must be called within a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { signals: Signals::listen()?, stop: false })
    }

    /// Whether a signal has arrived, even while nothing was waiting for it.
    fn is_stopped(&mut self) -> bool {
        self.stop |= self.signals.next().now_or_never().is_some();
        self.stop
    }

    async fn wait(&mut self, command: &mut Command) -> io::Result<ExitStatus> {
        let mut child = command.spawn()?;
        loop {
            let signal = tokio::select! {
                status = child.wait() => return status,
                signal = self.signals.next() => signal,
            };
            self.stop = true;
            match signal {
                Signal::Interrupt => {}
                Signal::Terminate => terminate(&child),
            }
        }
    }
}

fn terminate(child: &Child) {
    if let Some(id) = child.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
        // SAFETY: kill has no memory to violate; the child has not been waited for, so no other process has its id.
        unsafe { libc::kill(id, libc::SIGTERM) };
    }
}

/// Quotes words for a shell.
pub(crate) fn quoted<'a>(words: impl IntoIterator<Item = &'a OsString>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| word.to_string_lossy()).collect();
    // Only NUL cannot be quoted, and no argument of a process has it.
    shlex::try_join(words.iter().map(AsRef::as_ref)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let words = ["a/b", "x y", "it's", ""].map(OsString::from);
        assert_eq!(quoted(&words), r#"a/b 'x y' "it's" ''"#);
    }

    #[test]
    fn some_arguments_are_not_for_rounds() {
        let checked = |more: &[&str]| {
            let all = ["run", "web", "pairs", "--captioner", "c", "--filter", "f", "--round", "1"];
            let args = all.iter().chain(more).map(OsString::from).collect();
            Stage { name: String::new(), folder: PathBuf::new(), program: vec![], args }.check_run()
        };
        assert_eq!(checked(&["--min-itm", "0.6", "--recipe", "r.sql"]).unwrap(), Some("r.sql".into()));
        for (more, words) in [
            (&["--shard", "1/2"][..], "--shard"),
            (&["--overwrite"], "made once"),
            (&["--job", "job.toml"], "--job"),
            (&["--write-images", "none"], "needs the images"),
            (&["--table-format", "webdataset"], "reads Parquet"),
            (&["--set", "capfilt.filter=x"], "--filter of capfilt rounds"),
            (&["--round", "2"], "cannot be used multiple times"),
            (&["--min-itn", "0.6"], "--min-itn"),
            (&["another"], "another"),
        ] {
            let said = checked(more).unwrap_err().to_string();
            assert!(said.contains(words) && said.contains("after --") && !said.contains('\n'), "{more:?}: {said}");
        }
    }
}
