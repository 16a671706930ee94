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
    /// Makes a captioner from a MED: LM on clean pairs
    FinetuneCaptioner(TrainArgs),
    /// Makes a filter from a MED, which is BLIP's retrieval model: ITC and ITM on clean pairs
    #[command(visible_alias = "finetune-retrieval")]
    FinetuneFilter(TrainArgs),
    /// Makes an answerer of questions from a MED: LM on the answers, which the decoder writes from the question's states
    FinetuneVqa(TrainArgs),
    /// Scores a checkpoint on retrieval, captions and filtering; prints JSON to standard output
    Evaluate(EvaluateArgs),
    /// Writes a captioner, a matcher or a whole MED from a MED's checkpoint, or an answerer in another number type
    Export(ExportArgs),
    /// Prints every setting with its default and explanation, or the settings that a run would have
    Config(SettingsArgs),
    /// Writes a small world with known ground truth: tables of pictures with human and web texts, and with questions
    World(WorldArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// base-14m, base-129m, large or tiny; later presets override earlier ones
    #[arg(long)]
    pub(crate) preset: Vec<String>,
    /// TOML file of settings
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// One setting, such as train.lr=1e-4; `capfilt-train config` lists all of them
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Table of pairs, or for finetune-vqa of questions: a Parquet file or a folder of them; several tables are mixed in
    /// proportion to their rows
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Vec<PathBuf>,
    /// Checkpoint to start from, a folder or hf:OWNER/NAME (model.start)
    #[arg(long, value_name = "DIR")]
    pub(crate) start: Option<PathBuf>,
    /// Folder of the run: settings, metrics, curves, training state, and finally the checkpoint. An interrupted run
    /// resumes
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Folder of the checkpoint, or its name hf:OWNER/NAME
    pub(crate) checkpoint: PathBuf,
    /// Table of images and their texts: recall of texts for images and of images for texts
    #[arg(long, value_name = "TABLE")]
    pub(crate) retrieval: Option<PathBuf>,
    /// Table of images and reference captions: BLEU, CIDEr, ROUGE-L
    #[arg(long, value_name = "TABLE")]
    pub(crate) captions: Option<PathBuf>,
    /// Table of pairs with known truth: precision, recall, average precision, calibration
    #[arg(long, value_name = "TABLE")]
    pub(crate) filter: Option<PathBuf>,
    /// Column of the filter's table that marks true pairs
    #[arg(long, default_value = "text_is_true")]
    pub(crate) truth: String,
    /// Minimum probability of pairs that the filter keeps
    #[arg(long, default_value_t = 0.5)]
    pub(crate) threshold: f64,
    /// Candidates per query that ITM re-ranks: 256 in BLIP on COCO, 128 on Flickr30k
    #[arg(long, default_value_t = 128)]
    pub(crate) rerank: usize,
    /// Maximum number of images per table
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    pub(crate) images: usize,
    /// Captions: number of beams; 1 for greedy decoding
    #[arg(long, default_value_t = 3)]
    pub(crate) beams: usize,
    /// Captions: maximum length in tokens
    #[arg(long, default_value_t = 20)]
    pub(crate) max_length: usize,
    /// Captions: minimum length in tokens
    #[arg(long, default_value_t = 5)]
    pub(crate) min_length: usize,
    /// Captions: prompt that each caption continues
    #[arg(long, default_value = "")]
    pub(crate) prompt: String,
    /// Writes the captions and their references as JSON lines
    #[arg(long, value_name = "FILE")]
    pub(crate) captions_out: Option<PathBuf>,
    /// Maximum number of tokens per text
    #[arg(long, default_value_t = 35)]
    pub(crate) text_tokens: usize,
    /// Applies BLIP's caption cleaning before texts are matched
    #[arg(long)]
    pub(crate) clean_text: bool,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Number of threads; 0 for one per core
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Adds the scores to the checkpoint's model card, replacing earlier ones of the same kind
    #[arg(long)]
    pub(crate) card: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Folder of the checkpoint, or its name hf:OWNER/NAME
    pub(crate) checkpoint: PathBuf,
    /// Folder to write
    pub(crate) out: PathBuf,
    /// med, captioner, matcher or answerer
    #[arg(long, default_value = "med")]
    pub(crate) what: String,
    /// float32, float16 or bfloat16
    #[arg(long, default_value = "float32")]
    pub(crate) kind: String,
    /// Tensors that encoder and decoder share: all, all-but-ca, all-but-sa or none
    #[arg(long, default_value = "all-but-sa")]
    pub(crate) sharing: String,
}

#[derive(Debug, Args)]
pub(crate) struct WorldArgs {
    /// Folder for human.parquet, things.parquet, web.parquet, validation.parquet, test.parquet, questions about the human,
    /// validation and test pictures (human-questions.parquet and so on), and tokenizer.json
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Seed of the world
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Pictures with five clean captions each; they show only part of the world
    #[arg(long, default_value_t = 3000)]
    pub(crate) human: u64,
    /// Pictures of a single thing with its name, for learning to see
    #[arg(long, default_value_t = 8000)]
    pub(crate) things: u64,
    /// Pictures with the text found beside them: 30 % true, 25 % near misses, 25 % another picture's, 12 % boilerplate,
    /// 8 % keywords
    #[arg(long, default_value_t = 16000)]
    pub(crate) web: u64,
    /// Pictures for choosing settings
    #[arg(long, default_value_t = 1000)]
    pub(crate) validation: u64,
    /// Held-out pictures for final scores
    #[arg(long, default_value_t = 2000)]
    pub(crate) test: u64,
}
