//! Arguments of the command.

use std::path::PathBuf;

use capfilt::{Agreement, Budget, Dedupe};
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
    /// Run SQL: statements from -c, -f or standard input, or a prompt
    Sql(SqlArgs),
    /// Run a recipe over a table of images and texts, and write the pair table
    Run(Box<RunArgs>),
    /// Caption, filter and train in rounds, each with the models of the one before
    Rounds(Box<crate::rounds::RoundsArgs>),
    /// Choose anew what a finished pair table keeps, by its stored scores and without a model
    Select(SelectArgs),
    /// Make a page that shows what a run did: numbers, scores, a gallery of images and texts
    Report(ReportArgs),
    /// Look at a checkpoint, or make one of PyTorch's pickles
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print the documentation of the SQL functions
    #[command(hide = true)]
    Docs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Say what a checkpoint folder holds, and whether it can be used
    Inspect {
        /// Folder in Hugging Face layout
        dir: PathBuf,
        /// How to print it
        #[arg(long, value_enum, default_value = "text")]
        format: InspectFormat,
    },
    /// Convert PyTorch's pickled weights into a checkpoint folder, without running any code in them
    ///
    /// Most BLIP checkpoints are pickles, and a pickle can run any code in the program that loads it. This command parses the pickle
    /// itself, refuses everything but tensors, and writes them as safetensors.
    Convert {
        /// A folder in Hugging Face layout whose weights are pytorch_model.bin (or its shards), or a .pth file of BLIP's own release:
        /// a captioner, a retrieval model (filter) or a pretrained MED
        source: PathBuf,
        /// Folder to create; it appears once it is complete and has been opened as a check
        out: PathBuf,
        /// Tokenizer for a .pth file, which has none: bert-base-uncased's or any converted BLIP's, as tokenizer.json, vocab.txt or a
        /// folder with one of these
        #[arg(long, value_name = "PATH")]
        tokenizer: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum InspectFormat {
    Text,
    Json,
}

/// What both `sql` and `run` take.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// Checkpoint folder of the captioner (short for --set capfilt.captioner=DIR); a job takes several
    #[arg(long, value_name = "DIR")]
    pub(crate) captioner: Vec<String>,

    /// Checkpoint folder of the filter (short for --set capfilt.filter=DIR); a job takes several
    #[arg(long, value_name = "DIR")]
    pub(crate) filter: Vec<String>,

    /// A setting, as SET makes it: capfilt.device=cpu
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,

    /// A value for $NAME; one that reads as a number is a number, '7' in quotes is text
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) param: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Statements to run (repeatable; with -f in the order given)
    // A statement may begin with a comment.
    #[arg(short = 'c', long, value_name = "SQL", allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,

    /// A file of statements (repeatable; - is standard input)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,

    /// A table: a Parquet, WebDataset (.tar), CSV or JSON lines file, a folder of one kind, or a Delta table, of which PATH@VERSION is
    /// a version; on a disk, or by its URL in a store
    #[arg(long, value_name = "NAME=PATH", value_parser = pair)]
    pub(crate) table: Vec<(String, String)>,

    /// How to print results
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,

    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns in a frame; bytes as their number
    Table,
    /// One header a result
    Csv,
    /// One array of objects a result
    Json,
    /// One object a line
    NdJson,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A Parquet, WebDataset (.tar), CSV or JSON lines file, a folder of them (folders name=value give columns), a Delta table, a
    /// folder of images with texts beside them (a.jpg, a.txt), a glob in quotes, or a URL: s3://BUCKET/FOLDER, gs://, az://,
    /// abfs://, or a file's by http(s)://
    pub(crate) source: PathBuf,

    /// Folder for the pair table
    pub(crate) dest: PathBuf,

    #[command(flatten)]
    pub(crate) session: SessionArgs,

    /// Least match probability of a kept pair: $min_itm. The best share of a finished table is kept by `capfilt select --keep-fraction`
    #[arg(long, value_name = "P", default_value = "0.5", value_parser = probability)]
    pub(crate) min_itm: String,

    /// The same for one source: --min-itm-of web=0.6
    #[arg(long, value_name = "SOURCE=P", value_parser = source_score, conflicts_with = "recipe")]
    pub(crate) min_itm_of: Vec<(String, f32)>,

    /// Synthetic texts of an image, by each captioner; all that pass are kept
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=64), conflicts_with = "recipe")]
    pub(crate) candidates: u64,

    /// Of an image's synthetic texts that pass keep the best alone
    #[arg(long, conflicts_with_all = ["recipe", "agreement"])]
    pub(crate) best: bool,

    /// What several filters say together
    #[arg(long, value_enum, default_value = "mean", conflicts_with = "recipe")]
    pub(crate) combine: CombineArg,

    /// ITC as a cheap first stage: below LOW a text is dropped, from HIGH on it is kept, between them ITM is asked
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true, conflicts_with = "recipe")]
    pub(crate) agreement: Option<Agreement>,

    /// What a caption goes on from, and does not contain: $prompt (BLIP's COCO captioners want 'a picture of ')
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub(crate) prompt: String,

    /// Column of the images
    #[arg(long, value_name = "NAME", default_value = "image")]
    pub(crate) image_column: String,

    /// Column of the images' URLs, in place of the images; they are fetched (SET fetch.* has deadlines and limits)
    #[arg(long, value_name = "NAME", conflicts_with = "image_column")]
    pub(crate) url_column: Option<String>,

    /// Column of the images' files, in place of the images
    #[arg(long, value_name = "NAME", conflicts_with_all = ["image_column", "url_column"])]
    pub(crate) path_column: Option<String>,

    /// Folder, on a disk or in a store, that the paths of --path-column begin at, and stay in [default: the source's]
    #[arg(long, value_name = "DIR", requires = "path_column")]
    pub(crate) path_root: Option<PathBuf>,

    /// Version of a Delta table: a number, or a time such as '2026-01-31 12:00:00' (UTC) [default: the latest]
    #[arg(long, value_name = "VERSION|TIME")]
    pub(crate) source_version: Option<String>,

    /// Column of the texts
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) text_column: String,

    /// A recipe: one SELECT over web that returns the pair table's columns [default: sql/capfilt.sql]
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,

    /// Print what would run, with the values of its parameters, and end
    #[arg(long)]
    pub(crate) print_sql: bool,

    /// Run the recipe on a sample of N rows [64 where N is not given]: say what the job would keep, and how long and how large it
    /// would be. Nothing is written
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "64",
        value_parser = clap::value_parser!(u16).range(8..=4096),
        conflicts_with_all = ["print_sql", "retry_failed", "metrics_addr", "dedupe"])]
    pub(crate) dry_run: Option<u16>,

    /// Serve the job's numbers for Prometheus at http://HOST:PORT/metrics; port 0 is one that is free
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_addr: Option<String>,

    /// Leave dropped pairs out
    #[arg(long)]
    pub(crate) kept_only: bool,

    /// Which pairs carry their image [default: kept; with --format jsonl none]
    #[arg(long, value_enum)]
    pub(crate) image: Option<ImageArg>,

    /// Another name for a column of the source
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub(crate) rename: Vec<(String, String)>,

    /// Find rows that repeat an earlier one first, and spare the models: exact (the same image and text), near (pictures that look
    /// alike too), near=BITS (perceptual hashes that differ in at most so many of 64 bits; near is 6), texts (texts that are nearly
    /// the same too, whatever their pictures), texts=SIMILARITY (Jaccard's index of words and pairs of words from 0.5 to 1; texts
    /// is 0.8), or near and texts with a comma between. With --url-column and --path-column, exact alone: the same URL or path is
    /// the same image
    #[arg(long, value_name = "HOW")]
    pub(crate) dedupe: Option<Dedupe>,

    /// What files the pair table is made of
    #[arg(long, value_enum, default_value = "parquet")]
    pub(crate) format: PartsArg,

    /// Begin anew, and replace the pair table at DEST once the new one is whole; other files stay
    #[arg(long, conflicts_with = "update")]
    pub(crate) overwrite: bool,

    /// Add what the source has got since the pair table at DEST was made
    #[arg(long)]
    pub(crate) update: bool,

    /// Do again the rows of a finished table of Parquet files (also a Delta table) whose image could not be fetched or read; with
    /// --shard those of that shard
    #[arg(long, conflicts_with_all = ["overwrite", "update", "kept_only"])]
    pub(crate) retry_failed: bool,

    /// Rows of the source that are written as a whole, and done again after a kill
    #[arg(long, value_name = "N", default_value = "2048", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) unit_rows: u64,

    /// Size at which a file of the pair table is ended
    #[arg(long, value_name = "SIZE", default_value = "512MB", value_parser = size)]
    pub(crate) file_size: u64,

    /// Do part I of N: N processes share SOURCE and DEST
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = shard, conflicts_with = "overwrite")]
    pub(crate) shard: (u64, u64),

    /// Stop when more rows fail than this: a number, or a share such as 1%
    #[arg(long, value_name = "N|P%")]
    pub(crate) max_failed: Option<Budget>,

    /// Which round of bootstrapping this is; it is noted in the table
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) round: u32,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["min_itm", "min_itm_of", "keep_fraction"]))]
pub(crate) struct SelectArgs {
    /// A pair table that `capfilt run` has finished
    pub(crate) table: PathBuf,

    /// Folder for the new pair table
    pub(crate) dest: PathBuf,

    /// Least match probability of a kept pair [default: the table's own; with --keep-fraction 0]
    #[arg(long, value_name = "P", value_parser = score)]
    pub(crate) min_itm: Option<f32>,

    /// The same for one source: --min-itm-of web=0.6
    #[arg(long, value_name = "SOURCE=P", value_parser = source_score)]
    pub(crate) min_itm_of: Vec<(String, f32)>,

    /// Keep the best share of all scored pairs: 0.3 for the best 30 %
    #[arg(long, value_name = "F", value_parser = share)]
    pub(crate) keep_fraction: Option<f64>,

    /// Leave dropped pairs out
    #[arg(long)]
    pub(crate) kept_only: bool,

    /// Where the source is now, for images that the table left out [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub(crate) source: Option<PathBuf>,

    /// Begin anew, and replace the pair table at DEST once the new one is whole
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A pair table that `capfilt run` has finished
    pub(crate) table: PathBuf,

    /// File for the page; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Most images in the gallery
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) images: usize,

    /// Where the source is now, for pictures that the table left out [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub(crate) source: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ImageArg {
    /// Kept pairs
    Kept,
    /// All pairs
    All,
    /// No pair: the column is left out
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CombineArg {
    /// The mean of their scores is judged
    Mean,
    /// The least score is
    Min,
    /// The greatest is
    Max,
    /// Each judges, and more than half must keep
    Vote,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PartsArg {
    /// Parquet
    Parquet,
    /// Tar files with a sample for each pair: image, txt, json
    Webdataset,
    /// A Delta table: Parquet and a log, to which each run adds a version
    Delta,
    /// JSON objects, one a line: url, caption and what else is known of the pair, without the image
    Jsonl,
}

/// Where statements come from.
#[derive(Debug)]
pub(crate) enum Script {
    Text(String),
    File(PathBuf),
}

/// The -c and -f of a command line, in its order, which clap keeps apart.
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
