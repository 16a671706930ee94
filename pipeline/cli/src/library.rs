//! The command's verbs for programs that run them themselves, as the Python package does.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use capfilt_job::{Job, Mode, Summary};
use clap::FromArgMatches as _;
use datafusion::prelude::SessionContext;

use crate::args::command::{self, Cli, Command};
use crate::job;
use crate::runtime::with_runtime;

/// Jobs, and the session to run them in, one after another.
pub struct Prepared {
    /// The session, with the functions and the jobs' settings.
    pub ctx: SessionContext,
    /// One job, or those of a table's unfinished shards.
    pub jobs: Vec<Job>,
}

/// The jobs of a command line `arguments`, which begins with `run`, `resume`, `update` or `retry`.
///
/// # Errors
/// Those of the command before it runs a job, wrong usage among them.
pub async fn prepare(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Prepared> {
    let (ctx, jobs) = match parsed(arguments)? {
        Command::Run(args) if args.operation.dry_run.is_some() || args.operation.metrics_addr.is_some() => {
            bail!("--dry-run and --metrics-addr are for the command: `capfilt run`")
        }
        Command::Run(args) => job::begun(&args).await?,
        Command::Resume(args) => job::continued(&args, None).await?,
        Command::Update(args) => job::continued(&args, Some(Mode::Update)).await?,
        Command::Retry(args) => job::continued(&args, Some(Mode::Retry)).await?,
        _ => bail!("a job is begun by run, and continued by resume, update or retry"),
    };
    Ok(Prepared { ctx, jobs })
}

/// `select` with its arguments: the new table's folder, and its counts.
///
/// # Errors
/// Those of the command.
pub fn select(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<(PathBuf, Summary)> {
    let Command::Select(select) = parsed(arguments)? else { bail!("the verb is select") };
    let summary = with_runtime(|runtime| Ok(runtime.block_on(select.run())?))?;
    Ok((select.dest, summary))
}

/// `report` with its arguments: the page, which is not written to `-o`.
///
/// # Errors
/// Those of the command.
pub fn report(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<String> {
    let Command::Report(args) = parsed(arguments)? else { bail!("the verb is report") };
    with_runtime(|runtime| Ok(runtime.block_on(capfilt_job::report(&args.table, &args.options))?))
}

fn parsed(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Command> {
    let program = std::iter::once(OsString::from("capfilt"));
    let matches = command::cli().try_get_matches_from(program.chain(arguments.into_iter().map(Into::into)));
    // The error begins with "error: " and ends with the usage.
    let matches = matches.map_err(|e| anyhow::anyhow!(usage(&e.to_string())))?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// The first paragraph of clap's message.
fn usage(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    message.split("\n\n").next().unwrap_or_default().to_owned()
}
