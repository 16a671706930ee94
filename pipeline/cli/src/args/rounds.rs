//! Arguments of `capfilt rounds`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::args::values::at_least_1;

#[derive(Debug, Args)]
pub(crate) struct RoundsArgs {
    /// Source that each round captions and filters, as for `capfilt run`
    pub(crate) source: PathBuf,

    /// Folder of the rounds: round-1/pairs, round-1/med, round-1/captioner, round-1/filter, round-2/pairs ..
    pub(crate) dest: PathBuf,

    /// Total number of rounds; a larger number than before adds rounds to the existing ones
    #[arg(long, value_name = "N", value_parser = at_least_1::<u32>)]
    pub(crate) rounds: u32,

    /// Checkpoint of the first round's captioner, a folder or hf:OWNER/NAME
    #[arg(long, value_name = "DIR")]
    pub(crate) captioner: PathBuf,

    /// Checkpoint of the first round's filter, a folder or hf:OWNER/NAME
    #[arg(long, value_name = "DIR")]
    pub(crate) filter: PathBuf,

    /// Table of clean pairs: the MED is pretrained on it and the pair table, captioner and filter are finetuned on it
    /// alone
    #[arg(long, value_name = "TABLE")]
    pub(crate) human: PathBuf,

    /// A SELECT of image and text over --human as the table "pairs" [default: all rows, or those that are kept]
    #[arg(long, value_name = "SQL")]
    pub(crate) human_query: Option<String>,

    /// Share of human pairs in the MED's pretraining data [default: as many as the table has, as in the paper]
    #[arg(long, value_name = "F", value_parser = inner_share)]
    pub(crate) human_share: Option<f64>,

    /// Initial checkpoint of each round's MED [default: none, but the same random weights each time]
    #[arg(long, value_name = "DIR")]
    pub(crate) start: Option<PathBuf>,

    /// Preset of capfilt-train for all three trainings, or for one of pretrain, captioner and filter: pretrain:base-14m
    #[arg(long, value_name = "[STAGE:]NAME", value_parser = staged)]
    pub(crate) preset: Vec<Staged>,

    /// TOML file of settings for all three trainings, or for one of them, where it replaces the common file
    #[arg(long, value_name = "[STAGE:]FILE", value_parser = staged)]
    pub(crate) train_config: Vec<Staged>,

    /// A setting of all three trainings, or of one: captioner:train.lr=1e-5 (`capfilt-train config` lists all)
    #[arg(long, value_name = "[STAGE:]KEY=VALUE", value_parser = train_setting)]
    pub(crate) set_train: Vec<Staged>,

    /// Path of capfilt-train [env: CAPFILT_TRAINER] [default: beside capfilt, else on PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) trainer: Option<PathBuf>,

    /// After the last round, make one more pair table with its models
    #[arg(long)]
    pub(crate) final_pairs: bool,

    /// Print the commands left to run, one per line, and exit without checking anything
    #[arg(long)]
    pub(crate) print: bool,

    /// Further arguments of `capfilt run`, after --
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) run: Vec<OsString>,
}

/// A training of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Training {
    Pretrain,
    Captioner,
    Filter,
}

impl Training {
    pub(crate) const ALL: [Self; 3] = [Self::Pretrain, Self::Captioner, Self::Filter];

    /// Name in options, command, folder, and name of the resulting model.
    pub(crate) fn words(self) -> [&'static str; 4] {
        match self {
            Self::Pretrain => ["pretrain", "pretrain", "med", "MED"],
            Self::Captioner => ["captioner", "finetune-captioner", "captioner", "captioner"],
            Self::Filter => ["filter", "finetune-filter", "filter", "filter"],
        }
    }
}

/// An option's value, for all trainings or only one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) only: Option<Training>,
    pub(crate) value: String,
}

pub(crate) fn staged(text: &str) -> Result<Staged, String> {
    let named = text.split_once(':').and_then(|(name, value)| {
        Training::ALL.into_iter().find(|training| training.words()[0] == name).map(|training| (training, value))
    });
    let (only, value) = named.map_or((None, text), |(training, value)| (Some(training), value));
    if value.is_empty() { Err("it is empty".to_owned()) } else { Ok(Staged { only, value: value.to_owned() }) }
}

pub(crate) fn train_setting(text: &str) -> Result<Staged, String> {
    let staged = staged(text)?;
    let (key, _) = staged.value.split_once('=').ok_or("expected KEY=VALUE, such as train.lr=1e-4")?;
    match key.trim() {
        "data.tables" => Err("what is trained on follows from --human, --human-query and --human-share".to_owned()),
        "model.start" => Err("give --start for what the MED of each round begins with".to_owned()),
        _ => Ok(staged),
    }
}

pub(crate) fn inner_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if 0.0 < share && share < 1.0 => Ok(share),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
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
