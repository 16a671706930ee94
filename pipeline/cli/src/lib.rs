//! The `capfilt` command, as a library: for its program, and for the Python package.

mod args;
mod console;
mod docs;
mod hub;
mod job;
mod library;
mod metrics;
mod rounds;
mod runtime;
mod session;
mod signals;
mod sql;

use std::ffi::OsString;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use capfilt_job::Mode;
use capfilt_tables::format::parquet::is_decoding;
use capfilt_udfs::Converted;
use clap::FromArgMatches as _;

pub use hub::use_hub;
pub use job::as_options;
pub use library::{Prepared, prepare, report, select};
pub use rounds::set_program;

use crate::args::command::{self, Cli, Command, InspectFormat, ModelCommand};
use crate::console::put;
use crate::runtime::{STACK, runtime, with_runtime};

/// Runs the command line `arguments`, of which the first is the program's name. Returns the exit status: 0, or 1 after an
/// error, which is on stderr. Wrong usage ends the process with status 2.
pub fn main(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    console::log_to_stderr();
    use_hub();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_decoding() {
            report(panic);
        }
    }));
    // The main thread's stack is the system's choice, and overflowing it ends the process without a message.
    let command = std::thread::Builder::new().stack_size(STACK).spawn(move || run(arguments));
    match command.map(std::thread::JoinHandle::join) {
        Ok(Ok(status)) => status,
        // The panic has been reported.
        Ok(Err(_)) => 101,
        Err(e) => {
            let _ = writeln!(io::stderr(), "error: no thread could be started: {e}");
            1
        }
    }
}

fn run(arguments: Vec<OsString>) -> u8 {
    let matches = command::cli().get_matches_from(arguments);
    let ended = Cli::from_arg_matches(&matches).map_err(anyhow::Error::from).and_then(|cli| {
        let scripts = matches.subcommand_matches("sql").map(command::scripts).unwrap_or_default();
        dispatch(cli, scripts)
    });
    match ended {
        Ok(()) => 0,
        // A reader that closed the pipe wants no more output; this is not an error.
        Err(error) if broken_pipe(&error) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {}", message(&error));
            1
        }
    }
}

/// The error and its causes, as the command prints them.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        // Some errors repeat their cause in their own words.
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn dispatch(cli: Cli, scripts: Vec<command::Script>) -> Result<()> {
    match cli.command {
        Command::Sql(args) => with_runtime(|runtime| sql::scripts::main(runtime, &args, scripts)),
        Command::Run(args) => verb(job::run(&args)),
        Command::Resume(args) => verb(job::go_on(&args, None)),
        Command::Update(args) => verb(job::go_on(&args, Some(Mode::Update))),
        Command::Retry(args) => verb(job::go_on(&args, Some(Mode::Retry))),
        Command::Job { dest } => put(&job::toml(&dest)?, ""),
        Command::Recipe(args) => put(&job::recipe(&args)?, ""),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command::cli(), "capfilt", &mut script);
            put(&String::from_utf8_lossy(&script), "")
        }
        Command::Rounds(mut args) => {
            for model in [Some(&mut args.captioner), Some(&mut args.filter), args.start.as_mut()].into_iter().flatten()
            {
                *model = hub::pinned(model)?;
            }
            rounds::main(&runtime()?, &args)
        }
        Command::Select(select) => {
            let summary = runtime()?.block_on(select.run())?;
            console::say(&format!("{summary}\ntable      {}", select.dest.display()));
            Ok(())
        }
        Command::Report(args) => {
            let page = runtime()?.block_on(capfilt_job::report(&args.table, &args.options))?;
            if args.output.as_os_str() == "-" {
                return put(&page, "");
            }
            std::fs::write(&args.output, &page).with_context(|| format!("-o {}", args.output.display()))?;
            console::say(&format!("wrote {} ({:.1} MB)", args.output.display(), page.len() as f64 / 1e6));
            Ok(())
        }
        Command::Model(ModelCommand::Inspect { dir, format }) => {
            let model = capfilt_udfs::inspect(&hub::folder(&dir)?)?;
            let text = match format {
                InspectFormat::Text => model.to_string(),
                InspectFormat::Json => serde_json::to_string_pretty(&model)?,
            };
            put(text.trim_end(), "\n")
        }
        Command::Model(ModelCommand::Convert { source, out, tokenizer }) => {
            let bar = console::Bytes::new("model.safetensors");
            let converted =
                capfilt_udfs::convert(&source, &out, tokenizer.as_deref(), &|done, all| bar.update(done, all));
            console::clear_bar();
            let Converted { tensors, bytes, tied, left_out } = converted?;
            console::say(&format!(
                "wrote {}: {tensors} tensors, {:.1} MB; left out {tied} that are tied to others and {left_out} that only training needs",
                out.display(),
                bytes as f64 / 1e6
            ));
            put(capfilt_udfs::inspect(&out)?.to_string().trim_end(), "\n")
        }
        Command::Model(ModelCommand::Fetch { name }) => {
            let found = hub::found(&name).map_err(|e| anyhow::anyhow!(e))?;
            console::say(&found.pinned);
            put(&found.folder.to_string_lossy(), "\n")
        }
        Command::Docs => put(&docs::functions_markdown(), ""),
    }
}

/// Runs a verb on a job to its end.
fn verb(job: impl Future<Output = Result<()>>) -> Result<()> {
    with_runtime(|runtime| runtime.block_on(job))
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
