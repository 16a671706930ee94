//! `capfilt rounds`: BLIP's CapFilt end to end, repeated with the models of the previous round.
//!
//! A round makes a pair table with `capfilt run`; `capfilt-train` then pretrains a MED on it and finetunes a captioner
//! and a filter from that MED. Each stage is a separate program that resumes by itself. So the only state kept here is
//! the options the rounds were begun with, and a stage runs unless its completion marker exists.

mod options;
pub(crate) mod plan;
pub(crate) mod stage;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use tokio::runtime::Runtime;

use crate::args::rounds::RoundsArgs;
use crate::console::{put, say};
use crate::rounds::plan::{CHECKPOINT, Plan, absolute};
use crate::rounds::stage::Wishes;

const TRAINER: &str = "capfilt-train";

static PROGRAM: OnceLock<Vec<OsString>> = OnceLock::new();

/// Sets how another process runs the command, where it is not this process's own program: the program, by its whole path,
/// and its first arguments. `capfilt-train` is looked for beside it.
pub fn set_program(program: Vec<OsString>) {
    let _ = PROGRAM.set(program);
}

fn program() -> Result<Vec<OsString>> {
    match PROGRAM.get() {
        Some(program) => Ok(program.clone()),
        None => Ok(vec![std::env::current_exe()?.into()]),
    }
}

/// Runs all stages that are not yet finished, and prints where their results are.
pub(crate) fn main(runtime: &Runtime, args: &RoundsArgs) -> Result<()> {
    let trainer = match trainer(args) {
        // The commands are for another machine.
        Err(_) if args.print => given(args).map_or_else(|| TRAINER.into(), |(_, path)| absolute(&path)),
        found => found?,
    };
    let plan = Plan { args, dest: absolute(&args.dest), trainer, capfilt: program()? };
    let stages = plan.stages();
    if args.print {
        let mut lines = String::new();
        for stage in &stages {
            if !stage.is_finished()? {
                lines += &format!("{}\n", stage.command_line());
            }
        }
        return put(&lines, "");
    }
    let begun = plan.begin(&stages)?;
    plan.make_folder()?;
    let lock = plan.lock()?;
    plan.agree(&stages, &begun)?;
    let mut wishes = runtime.block_on(async { Wishes::listen() })?;
    for stage in &stages {
        if stage.is_finished()? {
            say(&format!("{}: finished before", stage.name));
        } else {
            say(&format!("{}: {}", stage.name, stage.folder.display()));
            runtime.block_on(stage.run(&lock, &mut wishes))?;
        }
    }
    let model = |name| plan.folder(args.rounds, name).join(CHECKPOINT);
    let pairs = plan.folder(args.rounds + u32::from(args.final_pairs), "pairs");
    let results = [("captioner", model("captioner")), ("filter", model("filter")), ("pairs", pairs)];
    put(&results.map(|(name, path)| format!("{name:<10} {}\n", path.display())).concat(), "")
}

/// Path of capfilt-train that an option or the environment gives, and which of them.
fn given(args: &RoundsArgs) -> Option<(&'static str, PathBuf)> {
    let variable = || std::env::var_os("CAPFILT_TRAINER").filter(|path| !path.is_empty());
    match &args.trainer {
        Some(path) => Some(("--trainer ", path.clone())),
        None => variable().map(|path| ("CAPFILT_TRAINER=", path.into())),
    }
}

/// Path of capfilt-train.
fn trainer(args: &RoundsArgs) -> Result<PathBuf> {
    if let Some((option, path)) = given(args) {
        if !path.is_file() {
            bail!("{option}{}: there is no such file: give that of {TRAINER}", path.display());
        }
        return Ok(absolute(&path));
    }
    let beside = program()?.first().map(|program| Path::new(program).with_file_name(TRAINER));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(TRAINER));
    beside.into_iter().chain(on_path).find(|file| file.is_file()).with_context(|| {
        format!(
            "{TRAINER} is neither beside capfilt nor on PATH: build it (make build-training), or give --trainer FILE"
        )
    })
}
