//! Command-line arguments. Doc comments of arguments are their help texts.

use std::path::PathBuf;

use capfilt_job::{Agreement, Budget, Dedupe};
use clap::{ArgGroup, ArgMatches, Args, Parser, Subcommand, ValueEnum};

/// Caption and filter image-text tables with BLIP, in SQL.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run SQL statements from -c, -f or standard input, or at a prompt
    Sql(SqlArgs),
    /// Run a recipe over a table of images and texts, and write the pair table
    Run(Box<RunArgs>),
    /// Caption, filter and train in rounds, each with the models of the previous round
    Rounds(Box<crate::round_args::RoundsArgs>),
    /// Change which pairs a finished table keeps, by its stored scores and without a model
    Select(SelectArgs),
    /// Make a page about a run: numbers, scores, and a gallery of images and texts
    Report(ReportArgs),
    /// Inspect a checkpoint, or convert one from PyTorch's pickles
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print the documentation of the SQL functions
    #[command(hide = true)]
    Docs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Describe a checkpoint folder, and whether it is usable
    Inspect {
        /// Folder in Hugging Face layout
        dir: PathBuf,
        /// Output format
        #[arg(long, value_enum, default_value = "text")]
        format: InspectFormat,
    },
    /// Convert PyTorch's pickled weights to a checkpoint folder without executing code in them
    ///
    /// Most BLIP checkpoints are pickles, and loading a pickle can execute arbitrary code. This command parses the
    /// pickle itself, refuses everything but tensors, and writes them as safetensors.
    Convert {
        /// A folder in Hugging Face layout whose weights are pytorch_model.bin (or its shards), or a .pth file of
        /// BLIP's own release: a captioner, a retrieval model (filter) or a pretrained MED
        source: PathBuf,
        /// Folder to create; it appears only once it is complete and has been opened as a check
        out: PathBuf,
        /// Tokenizer for a .pth file, which has none: bert-base-uncased's or any converted BLIP's, as tokenizer.json,
        /// vocab.txt or a folder with one of these
        #[arg(long, value_name = "PATH")]
        tokenizer: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum InspectFormat {
    Text,
    Json,
}

/// Options shared by `sql` and `run`.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// Checkpoint folder of the captioner (short for --set capfilt.captioner=DIR); a job takes several
    #[arg(long, value_name = "DIR")]
    pub(crate) captioner: Vec<String>,

    /// Checkpoint folder of the filter (short for --set capfilt.filter=DIR); a job takes several
    #[arg(long, value_name = "DIR")]
    pub(crate) filter: Vec<String>,

    /// Change a setting, like SQL's SET: capfilt.device=cpu
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,

    /// Value of the parameter $NAME: a number if it parses as one, else text; quotes make text of a number ('7')
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) param: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Statements to run (repeatable; run in the order given, together with -f)
    // A statement may begin with a comment.
    #[arg(short = 'c', long, value_name = "SQL", allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,

    /// A file of statements (repeatable; - is standard input)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,

    /// A table: a Parquet, WebDataset (.tar), CSV or JSON lines file, a folder of one kind, or a Delta table
    /// (PATH@VERSION for one of its versions); a local path, or a URL in a store
    #[arg(long, value_name = "NAME=PATH", value_parser = pair)]
    pub(crate) table: Vec<(String, String)>,

    /// Output format of results
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,

    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with borders; binary values by their size
    Table,
    /// One header per result
    Csv,
    /// One array of objects per result
    Json,
    /// One object per line
    NdJson,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A Parquet, WebDataset (.tar), CSV or JSON lines file, a folder of them (folders name=value become columns), a
    /// Delta table, a folder of images with text files beside them (a.jpg, a.txt), a glob in quotes, or a URL:
    /// s3://BUCKET/FOLDER, gs://, az://, abfs://, or http(s):// for a single file
    pub(crate) source: PathBuf,

    /// Destination folder of the pair table
    pub(crate) dest: PathBuf,

    #[command(flatten)]
    pub(crate) session: SessionArgs,

    /// Minimum match probability of a kept pair, $min_itm. To keep the best share of a finished table, use `capfilt
    /// select --keep-fraction`
    #[arg(long, value_name = "P", default_value = "0.5", value_parser = probability)]
    pub(crate) min_itm: String,

    /// Minimum match probability of the texts of one source: --min-itm-of web=0.6
    #[arg(long, value_name = "SOURCE=P", value_parser = source_score, conflicts_with = "recipe")]
    pub(crate) min_itm_of: Vec<(String, f32)>,

    /// Synthetic texts per image and captioner; all that pass are kept
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=64), conflicts_with = "recipe")]
    pub(crate) candidates: u64,

    /// Keep only the best of an image's synthetic texts that pass
    #[arg(long, conflicts_with_all = ["recipe", "agreement"])]
    pub(crate) best: bool,

    /// How to combine several filters
    #[arg(long, value_enum, default_value = "mean", conflicts_with = "recipe")]
    pub(crate) combine: CombineArg,

    /// Use ITC as a cheap first stage: texts below LOW are dropped, texts from HIGH on are kept, and ITM decides
    /// between them
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true, conflicts_with = "recipe")]
    pub(crate) agreement: Option<Agreement>,

    /// Prompt that captions continue and do not contain: $prompt (BLIP's COCO captioners expect 'a picture of ')
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub(crate) prompt: String,

    /// Column of the images
    #[arg(long, value_name = "NAME", default_value = "image")]
    pub(crate) image_column: String,

    /// Column of image URLs, in place of images; they are fetched (SET fetch.* sets deadlines and limits)
    #[arg(long, value_name = "NAME", conflicts_with = "image_column")]
    pub(crate) url_column: Option<String>,

    /// Column of image file paths, in place of images
    #[arg(long, value_name = "NAME", conflicts_with_all = ["image_column", "url_column"])]
    pub(crate) path_column: Option<String>,

    /// Root folder of the paths in --path-column, which must stay inside it; local or in a store [default: the
    /// source's]
    #[arg(long, value_name = "DIR", requires = "path_column")]
    pub(crate) path_root: Option<PathBuf>,

    /// Version of a Delta source: a number, or a time such as '2026-01-31 12:00:00' (UTC) [default: the latest]
    #[arg(long, value_name = "VERSION|TIME")]
    pub(crate) source_version: Option<String>,

    /// Column of the texts
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) text_column: String,

    /// Recipe file: one SELECT over web that returns the pair table's columns [default: sql/capfilt.sql]
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,

    /// Print the recipe with its parameter values, and exit
    #[arg(long)]
    pub(crate) print_sql: bool,

    /// Run the recipe on a sample of N rows [64 without N] and estimate the job's kept share, time and size; writes
    /// nothing
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "64",
        value_parser = clap::value_parser!(u16).range(8..=4096),
        conflicts_with_all = ["print_sql", "retry_failed", "metrics_addr", "dedupe"])]
    pub(crate) dry_run: Option<u16>,

    /// Serve the job's metrics for Prometheus at http://HOST:PORT/metrics; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_addr: Option<String>,

    /// Leave dropped pairs out
    #[arg(long)]
    pub(crate) kept_only: bool,

    /// Which pairs carry their image [default: kept; with --format jsonl none]
    #[arg(long, value_enum)]
    pub(crate) image: Option<ImageArg>,

    /// Rename a column of the source
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub(crate) rename: Vec<(String, String)>,

    /// Find rows that repeat an earlier one first, and skip the models for them: exact (same image and text), near
    /// (also pictures that look alike), near=BITS (perceptual hashes that differ in at most BITS of 64 bits; near is
    /// 6), texts (also nearly equal texts, whatever their pictures), texts=SIMILARITY (Jaccard index of words and word
    /// pairs, from 0.5 to 1; texts is 0.8), or near and texts separated by a comma. With --url-column and --path-column
    /// only exact is possible: the same URL or path is the same image
    #[arg(long, value_name = "HOW")]
    pub(crate) dedupe: Option<Dedupe>,

    /// File format of the pair table
    #[arg(long, value_enum, default_value = "parquet")]
    pub(crate) format: PartsArg,

    /// Start over, and replace the pair table at DEST once the new one is complete; other files stay
    #[arg(long, conflicts_with = "update")]
    pub(crate) overwrite: bool,

    /// Add what the source has gained since the pair table at DEST was made
    #[arg(long)]
    pub(crate) update: bool,

    /// Retry the rows of a finished table in Parquet files (also a Delta table) whose image could not be fetched or
    /// read; with --shard only those of that shard
    #[arg(long, conflicts_with_all = ["overwrite", "update", "kept_only"])]
    pub(crate) retry_failed: bool,

    /// Rows per unit: source rows that are written together, and repeated after a kill
    #[arg(long, value_name = "N", default_value = "2048", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) unit_rows: u64,

    /// Size at which a file of the pair table is closed
    #[arg(long, value_name = "SIZE", default_value = "512MB", value_parser = size)]
    pub(crate) file_size: u64,

    /// Process shard I of N: N processes share SOURCE and DEST
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = shard, conflicts_with = "overwrite")]
    pub(crate) shard: (u64, u64),

    /// Stop when more than this many rows fail: a number, or a share such as 1%
    #[arg(long, value_name = "N|P%")]
    pub(crate) max_failed: Option<Budget>,

    /// Bootstrapping round of this job, recorded in the table
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) round: u32,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["min_itm", "min_itm_of", "keep_fraction"]))]
pub(crate) struct SelectArgs {
    /// A finished pair table of `capfilt run`
    pub(crate) table: PathBuf,

    /// Destination folder of the new pair table
    pub(crate) dest: PathBuf,

    /// Minimum match probability of a kept pair [default: the table's own; with --keep-fraction 0]
    #[arg(long, value_name = "P", value_parser = score)]
    pub(crate) min_itm: Option<f32>,

    /// Minimum match probability of the texts of one source: --min-itm-of web=0.6
    #[arg(long, value_name = "SOURCE=P", value_parser = source_score)]
    pub(crate) min_itm_of: Vec<(String, f32)>,

    /// Keep the best share of all scored pairs: 0.3 for the best 30 %
    #[arg(long, value_name = "F", value_parser = share)]
    pub(crate) keep_fraction: Option<f64>,

    /// Leave dropped pairs out
    #[arg(long)]
    pub(crate) kept_only: bool,

    /// Location of the source, for images that the table left out [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub(crate) source: Option<PathBuf>,

    /// Start over, and replace the pair table at DEST once the new one is complete
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A finished pair table of `capfilt run`
    pub(crate) table: PathBuf,

    /// Output file; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Maximum number of images in the gallery
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) images: usize,

    /// Location of the source, for pictures that the table left out [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub(crate) source: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ImageArg {
    /// Kept pairs
    Kept,
    /// All pairs
    All,
    /// None: the column is left out
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CombineArg {
    /// Threshold the mean score
    Mean,
    /// Threshold the lowest score
    Min,
    /// Threshold the highest score
    Max,
    /// Majority vote: more than half of the filters must keep the pair
    Vote,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PartsArg {
    /// Parquet
    Parquet,
    /// Tar files with one sample per pair: image, txt, json
    Webdataset,
    /// Delta table: Parquet files and a log; each run adds a version
    Delta,
    /// JSON lines: url, caption and the pair's other columns, without the image
    Jsonl,
}

/// Source of statements.
#[derive(Debug)]
pub(crate) enum Script {
    Text(String),
    File(PathBuf),
}

/// The -c and -f options in command-line order; clap collects them separately.
pub(crate) fn scripts(matches: &ArgMatches) -> Vec<Script> {
    let of = |id: &str| matches.indices_of(id).into_iter().flatten();
    let texts = matches.get_many::<String>("command").into_iter().flatten().cloned().map(Script::Text);
    let files = matches.get_many::<PathBuf>("file").into_iter().flatten().cloned().map(Script::File);
    let mut all: Vec<_> = of("command").zip(texts).chain(of("file").zip(files)).collect();
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, script)| script).collect()
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected two names with = between them".to_owned()),
    }
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let name = name.strip_prefix('$').unwrap_or(name);
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Err(format!("{name:?} is no parameter's name: letters, digits and _"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected SETTING=VALUE")?;
    // The name becomes part of a statement.
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if !plain || !name.contains('.') {
        return Err(format!("{name:?} is no setting's name: they begin with capfilt., fetch. or datafusion."));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if 1 <= i && i <= n => Ok((i, n)),
        _ => Err("expected I/N, such as 1/4 for the first of four".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    match capfilt_udfs::config::bytes(text) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("expected a size such as 512MB, 2GiB or 1048576 (bytes)".to_owned()),
    }
}

fn score(text: &str) -> Result<f32, String> {
    probability(text)?.parse().map_err(|e| format!("{e}"))
}

fn share(text: &str) -> Result<f64, String> {
    probability(text)?.parse().map_err(|e| format!("{e}"))
}

fn source_score(text: &str) -> Result<(String, f32), String> {
    let (source, least) = pair(text)?;
    Ok((source, score(&least)?))
}

fn probability(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(text.to_owned()),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn scripts_keep_their_order() {
        let matches = Cli::command().get_matches_from(["capfilt", "sql", "-c", "a", "-f", "b", "-c", "c"]);
        let got = scripts(matches.subcommand_matches("sql").unwrap());
        assert!(matches!(&got[..], [Script::Text(a), Script::File(b), Script::Text(c)]
            if a == "a" && b.to_str() == Some("b") && c == "c"));
    }

    #[test]
    fn names_are_checked() {
        assert!(setting("capfilt.device=cpu").is_ok());
        assert!(setting("device=cpu").is_err());
        assert!(setting("capfilt.x; DROP=1").is_err());
        assert_eq!(parameter("$a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(parameter("a b=1").is_err());
        assert!(probability("1.5").is_err() && probability("x").is_err() && probability("nan").is_err());
    }
}
