//! `capfilt rounds`: BLIP's CapFilt end to end, repeated with the models of the previous round.
//!
//! A round makes a pair table with `capfilt run`; `capfilt-train` then pretrains a MED on it and finetunes a captioner
//! and a filter from that MED. Each stage is a separate program that resumes by itself. So the only state kept here is
//! the options the rounds were begun with, and a stage runs unless its completion marker exists.

mod options;
mod plan;
mod stage;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::runtime::Runtime;

use crate::console::say;
use crate::rounds::plan::{Plan, absolute};
use crate::rounds::stage::Wishes;

const TRAINER: &str = "capfilt-train";
/// Subfolder of a training's folder that holds its checkpoint.
const CHECKPOINT: &str = "checkpoint";

#[derive(Debug, Args)]
pub(crate) struct RoundsArgs {
    /// Source that each round captions and filters, as for `capfilt run`
    source: PathBuf,

    /// Folder of the rounds: round-1/pairs, round-1/med, round-1/captioner, round-1/filter, round-2/pairs ..
    dest: PathBuf,

    /// Total number of rounds; a larger number than before adds rounds to the existing ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Checkpoint folder of the first round's captioner
    #[arg(long, value_name = "DIR")]
    captioner: PathBuf,

    /// Checkpoint folder of the first round's filter
    #[arg(long, value_name = "DIR")]
    filter: PathBuf,

    /// Table of clean pairs: the MED is pretrained on it and the pair table, captioner and filter are finetuned on it
    /// alone
    #[arg(long, value_name = "TABLE")]
    human: PathBuf,

    /// A SELECT of image and text over --human as the table "pairs" [default: all rows, or those that are kept]
    #[arg(long, value_name = "SQL")]
    human_query: Option<String>,

    /// Share of human pairs in the MED's pretraining data [default: as many as the table has, as in the paper]
    #[arg(long, value_name = "F", value_parser = inner_share)]
    human_share: Option<f64>,

    /// Initial checkpoint of each round's MED [default: none, but the same random weights each time]
    #[arg(long, value_name = "DIR")]
    start: Option<PathBuf>,

    /// Preset of capfilt-train for all three trainings, or for one of pretrain, captioner and filter: pretrain:base-14m
    #[arg(long, value_name = "[STAGE:]NAME", value_parser = staged)]
    preset: Vec<Staged>,

    /// TOML file of settings for all three trainings, or for one of them, where it replaces the common file
    #[arg(long, value_name = "[STAGE:]FILE", value_parser = staged)]
    train_config: Vec<Staged>,

    /// A setting of all three trainings, or of one: captioner:train.lr=1e-5 (`capfilt-train config` lists all)
    #[arg(long, value_name = "[STAGE:]KEY=VALUE", value_parser = train_setting)]
    set_train: Vec<Staged>,

    /// Steps of pretraining (short for --set-train pretrain:train.steps=N)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pretrain_steps: Option<u64>,

    /// Steps of the captioner's finetuning
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    captioner_steps: Option<u64>,

    /// Steps of the filter's finetuning
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    filter_steps: Option<u64>,

    /// Path of capfilt-train [default: beside capfilt, else on PATH]
    #[arg(long, value_name = "FILE")]
    trainer: Option<PathBuf>,

    /// Finally make another pair table with the last models: the one that a further round would begin with
    #[arg(long)]
    final_pairs: bool,

    /// Print the commands left to run, one per line, and exit without checking anything
    #[arg(long)]
    print: bool,

    /// Further arguments of `capfilt run`, after --
    #[arg(last = true, value_name = "ARGUMENT")]
    run: Vec<OsString>,
}

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
        return crate::put(&lines, "");
    }
    let begun = plan.begin(&stages)?;
    plan.make_folder()?;
    let lock = plan.lock()?;
    plan.agree(&stages, &begun)?;
    let wishes = Wishes::listen(runtime)?;
    for stage in &stages {
        if stage.is_finished()? {
            say(&format!("{stage}: finished before"));
        } else {
            say(&format!("{stage}: {}", stage.folder.display()));
            stage.run(&lock, &wishes)?;
        }
    }
    let model = |name| plan.folder(args.rounds, name).join(CHECKPOINT);
    let pairs = plan.folder(args.rounds + u32::from(args.final_pairs), "pairs");
    let results = [("captioner", model("captioner")), ("filter", model("filter")), ("pairs", pairs)];
    crate::put(&results.map(|(name, path)| format!("{name:<10} {}\n", path.display())).concat(), "")
}

/// A training of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Training {
    Pretrain,
    Captioner,
    Filter,
}

impl Training {
    const ALL: [Self; 3] = [Self::Pretrain, Self::Captioner, Self::Filter];

    /// Name in options, command, folder, and name of the resulting model.
    fn words(self) -> [&'static str; 4] {
        match self {
            Self::Pretrain => ["pretrain", "pretrain", "med", "MED"],
            Self::Captioner => ["captioner", "finetune-captioner", "captioner", "captioner"],
            Self::Filter => ["filter", "finetune-filter", "filter", "filter"],
        }
    }
}

/// An option's value, for all trainings or only one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Staged {
    only: Option<Training>,
    value: String,
}

fn staged(text: &str) -> Result<Staged, String> {
    let named = text.split_once(':').and_then(|(name, value)| {
        Training::ALL.into_iter().find(|training| training.words()[0] == name).map(|training| (training, value))
    });
    let (only, value) = named.map_or((None, text), |(training, value)| (Some(training), value));
    if value.is_empty() { Err("it is empty".to_owned()) } else { Ok(Staged { only, value: value.to_owned() }) }
}

fn train_setting(text: &str) -> Result<Staged, String> {
    let staged = staged(text)?;
    let (key, _) = staged.value.split_once('=').ok_or("expected KEY=VALUE, such as train.lr=1e-4")?;
    match key.trim() {
        "data.tables" => Err("what is trained on follows from --human, --human-query and --human-share".to_owned()),
        "model.start" => Err("give --start for what the MED of each round begins with".to_owned()),
        _ => Ok(staged),
    }
}

fn inner_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if 0.0 < share && share < 1.0 => Ok(share),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

/// Path of capfilt-train.
fn trainer(args: &RoundsArgs) -> Result<PathBuf> {
    if let Some(given) = &args.trainer {
        if !given.is_file() {
            bail!("--trainer {}: there is no such file: give that of {TRAINER}", given.display());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_be_for_one_training() {
        let of = |only, value: &str| Ok(Staged { only, value: value.to_owned() });
        assert_eq!(staged("tiny"), of(None, "tiny"));
        assert_eq!(staged("captioner:tiny"), of(Some(Training::Captioner), "tiny"));
        assert_eq!(staged("C:/settings.toml"), of(None, "C:/settings.toml"));
        assert_eq!(train_setting("filter:loss.prompt=a: b"), of(Some(Training::Filter), "loss.prompt=a: b"));
        assert!(staged("filter:").is_err() && train_setting("train.lr").is_err());
        assert!(train_setting("pretrain:data.tables=[]").unwrap_err().contains("--human"));
        assert!(train_setting("model.start = x").unwrap_err().contains("--start"));
        assert!(inner_share("0.4").is_ok() && ["0", "1", "x", "nan"].iter().all(|share| inner_share(share).is_err()));
    }
}
