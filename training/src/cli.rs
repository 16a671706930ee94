//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// BLIP's MED in libtorch: pretrain, finetune, evaluate, export.
#[derive(Debug, Parser)]
#[command(name = "capfilt-train", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trains a MED on pair tables with ITC, ITM and LM
    Pretrain(TrainArgs),
    /// Makes a captioner of a MED: LM on clean pairs
    FinetuneCaptioner(TrainArgs),
    /// Makes a filter of a MED, which is BLIP's model for retrieval: ITC and ITM on clean pairs
    #[command(visible_alias = "finetune-retrieval")]
    FinetuneFilter(TrainArgs),
    /// Scores a checkpoint: retrieval, captions, filter. JSON on standard output
    Evaluate(EvaluateArgs),
    /// Writes a captioner, a matcher or a whole MED from a checkpoint
    Export(ExportArgs),
    /// Prints every setting with its default and what it means, or those that a run would have
    Config(SettingsArgs),
    /// Writes a small world whose truth is known: tables of pictures with human and web texts
    World(WorldArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// base-14m, base-129m, large or tiny; a later one changes an earlier one
    #[arg(long)]
    pub(crate) preset: Vec<String>,
    /// TOML file of settings
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// One setting, such as train.lr=1e-4; `capfilt-train config` lists all
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Pair table: a Parquet file or a folder of them; several are mixed by their rows
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Vec<PathBuf>,
    /// Checkpoint to start from (model.start)
    #[arg(long, value_name = "DIR")]
    pub(crate) start: Option<PathBuf>,
    /// Folder of the run: settings, metrics, curves, training state, and at the end the checkpoint. A run that was killed goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Folder of the checkpoint
    pub(crate) checkpoint: PathBuf,
    /// Table of images and their texts: recall of texts for images and images for texts
    #[arg(long, value_name = "TABLE")]
    pub(crate) retrieval: Option<PathBuf>,
    /// Table of images and reference captions: BLEU, CIDEr, ROUGE-L
    #[arg(long, value_name = "TABLE")]
    pub(crate) captions: Option<PathBuf>,
    /// Table of pairs whose truth is known: precision, recall, average precision, calibration
    #[arg(long, value_name = "TABLE")]
    pub(crate) filter: Option<PathBuf>,
    /// Column of the filter's table that says whether a pair is true
    #[arg(long, default_value = "text_is_true")]
    pub(crate) truth: String,
    /// Probability from which the filter keeps
    #[arg(long, default_value_t = 0.5)]
    pub(crate) threshold: f64,
    /// Candidates of each query that ITM re-ranks: 256 in BLIP on COCO, 128 on Flickr30k
    #[arg(long, default_value_t = 128)]
    pub(crate) rerank: usize,
    /// Images of each table at most
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    pub(crate) images: usize,
    /// Captions: beams, 1 for greedy decoding
    #[arg(long, default_value_t = 3)]
    pub(crate) beams: usize,
    /// Captions: longest, in tokens
    #[arg(long, default_value_t = 20)]
    pub(crate) max_length: usize,
    /// Captions: shortest, in tokens
    #[arg(long, default_value_t = 5)]
    pub(crate) min_length: usize,
    /// Captions: what each goes on from
    #[arg(long, default_value = "")]
    pub(crate) prompt: String,
    /// Writes the captions beside their references, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub(crate) captions_out: Option<PathBuf>,
    /// Tokens of a text at most
    #[arg(long, default_value_t = 35)]
    pub(crate) text_tokens: usize,
    /// BLIP's cleaning of captions before they are matched
    #[arg(long)]
    pub(crate) clean_text: bool,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Threads, 0 for one a core
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Adds the scores to the checkpoint's model card, in place of earlier ones of the same kind
    #[arg(long)]
    pub(crate) card: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Folder of the checkpoint
    pub(crate) checkpoint: PathBuf,
    /// Folder to write
    pub(crate) out: PathBuf,
    /// med, captioner or matcher
    #[arg(long, default_value = "med")]
    pub(crate) what: String,
    /// float32, float16 or bfloat16
    #[arg(long, default_value = "float32")]
    pub(crate) kind: String,
    /// What its encoder and decoder share: all, all-but-ca, all-but-sa or none
    #[arg(long, default_value = "all-but-sa")]
    pub(crate) sharing: String,
}

#[derive(Debug, Args)]
pub(crate) struct WorldArgs {
    /// Folder for human.parquet, things.parquet, web.parquet, validation.parquet, test.parquet and tokenizer.json
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Another seed, another world
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Pictures with clean captions, five each; they show a part of the world only
    #[arg(long, default_value_t = 3000)]
    pub(crate) human: u64,
    /// Pictures of one thing with its name, to learn to see by
    #[arg(long, default_value_t = 8000)]
    pub(crate) things: u64,
    /// Pictures with the text that stood beside them: 30 % true, 25 % near misses, 25 % another picture's, 12 % boilerplate, 8 % keywords
    #[arg(long, default_value_t = 16000)]
    pub(crate) web: u64,
    /// Pictures to choose settings by
    #[arg(long, default_value_t = 1000)]
    pub(crate) validation: u64,
    /// Pictures to judge by
    #[arg(long, default_value_t = 2000)]
    pub(crate) test: u64,
}
