//! `capfilt rounds`: BLIP's CapFilt end to end, repeated with the models of the previous round.
//!
//! A round makes a pair table with `capfilt run`; `capfilt-train` then pretrains a MED on it and finetunes a captioner
//! and a filter from that MED. Each stage is a separate program that resumes by itself. So the only state kept here is
//! the options the rounds were begun with, and a stage runs unless its completion marker exists.

mod options;
pub(crate) mod plan;
pub(crate) mod stage;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tokio::runtime::Runtime;

use crate::args::rounds::RoundsArgs;
use crate::console::{put, say};
use crate::rounds::plan::{CHECKPOINT, Plan, absolute};
use crate::rounds::stage::Wishes;

const TRAINER: &str = "capfilt-train";
const VARIABLE: &str = "CAPFILT_TRAINER";

/// Runs all stages that are not yet finished, and prints where their results are.
pub(crate) fn main(runtime: &Runtime, args: &RoundsArgs) -> Result<()> {
    let trainer = match trainer(args) {
        Err(_) if args.print => args.trainer.as_deref().map_or_else(|| TRAINER.into(), absolute),
        found => found?,
    };
    let plan = Plan { args, dest: absolute(&args.dest), trainer, capfilt: std::env::current_exe()? };
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
            say(&format!("{stage}: finished before"));
        } else {
            say(&format!("{stage}: {}", stage.folder.display()));
            runtime.block_on(stage.run(&lock, &mut wishes))?;
        }
    }
    let model = |name| plan.folder(args.rounds, name).join(CHECKPOINT);
    let pairs = plan.folder(args.rounds + u32::from(args.final_pairs), "pairs");
    let results = [("captioner", model("captioner")), ("filter", model("filter")), ("pairs", pairs)];
    put(&results.map(|(name, path)| format!("{name:<10} {}\n", path.display())).concat(), "")
}

/// Path of capfilt-train.
fn trainer(args: &RoundsArgs) -> Result<PathBuf> {
    let variable = std::env::var_os(VARIABLE).filter(|given| !given.is_empty()).map(PathBuf::from);
    for (option, given) in [("--trainer ", &args.trainer), ("CAPFILT_TRAINER=", &variable)] {
        let Some(given) = given else { continue };
        if !given.is_file() {
            bail!("{option}{}: there is no such file: give that of {TRAINER}", given.display());
        }
        return Ok(absolute(given));
    }
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(TRAINER));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(TRAINER));
    beside.into_iter().chain(on_path).find(|file| file.is_file()).with_context(|| {
        format!(
            "{TRAINER} is neither beside capfilt nor on PATH: build it (make build-training), or give --trainer FILE"
        )
    })
}
