//! The commands, and the arguments of those that are not verbs on a job.

use std::path::PathBuf;

use capfilt_job::{ReportOptions, Select, pair};
use clap::{ArgMatches, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::args::job::{ContinueArgs, ParamArgs, RunArgs, SessionArgs, ShowRecipeArgs};
use crate::args::rounds::RoundsArgs;

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
    /// Run a recipe over a table of images and texts, and write the pair table; the same command goes on where it stopped
    Run(Box<RunArgs>),
    /// Go on with a job where it stopped
    Resume(Box<ContinueArgs>),
    /// Add what the source has gained since the pair table was made
    Update(Box<ContinueArgs>),
    /// Retry the rows of a finished table that failed because an image could not be fetched or read
    ///
    /// The table's other rows stay as they are. This is for tables of Parquet files, also Delta tables.
    Retry(Box<ContinueArgs>),
    /// Print the job of a pair table as a job file, for `capfilt run --job`
    Job {
        /// Folder of the pair table
        dest: PathBuf,
    },
    /// Print the recipe that `capfilt run` composes from these options, with its parameters' values
    Recipe(Box<ShowRecipeArgs>),
    /// Caption, filter and train in rounds, each with the models of the previous round
    Rounds(Box<RoundsArgs>),
    /// Change which pairs a finished table keeps, by its stored scores and without a model
    Select(Select),
    /// Make a page about a run: numbers, scores, and a gallery of images and texts
    Report(ReportArgs),
    /// Inspect a checkpoint, or convert one from PyTorch's pickles
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print a completion script for a shell: `source <(capfilt completions bash)`
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the documentation of the SQL functions
    #[command(hide = true)]
    Docs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Describe a checkpoint folder, and whether it is usable
    Inspect {
        /// Folder in Hugging Face layout, or a name on the hub, hf:OWNER/NAME
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
        /// A folder in Hugging Face layout with pytorch_model.bin or its shards; or a .pth file of BLIP's own release: a
        /// captioner, a retrieval model (filter) or a pretrained MED
        source: PathBuf,
        /// Folder to create; it appears only once it is complete and has been opened as a check
        out: PathBuf,
        /// Tokenizer for a .pth file, which has none: bert-base-uncased's or any converted BLIP's, as tokenizer.json,
        /// vocab.txt or a folder with one of these
        #[arg(long, value_name = "PATH")]
        tokenizer: Option<PathBuf>,
    },
    /// Download a checkpoint from the Hugging Face hub into its cache, and print its folder
    ///
    /// Only what a checkpoint needs is downloaded, and its digests are verified. Weights that are there only as a pickle
    /// are converted without executing code in them. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count as they do
    /// for Hugging Face's programs.
    Fetch {
        /// hf:OWNER/NAME, or hf:OWNER/NAME@REVISION for a branch, a tag, a pull request (refs/pr/N) or a commit
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum InspectFormat {
    Text,
    Json,
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

    #[command(flatten)]
    pub(crate) params: ParamArgs,
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
pub(crate) struct ReportArgs {
    /// A finished pair table of `capfilt run`
    pub(crate) table: PathBuf,

    /// Output file; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) options: ReportOptions,
}

/// Source of statements.
pub(crate) enum Script {
    Text(String),
    File(PathBuf),
}

/// The command line. The verbs that go on with a job take its models from the record, not from the environment.
pub(crate) fn cli() -> clap::Command {
    let recorded = [
        ("captioner", "Where the captioner is now, if it has moved; a job takes several"),
        ("filter", "Where the filter is now, if it has moved; a job takes several"),
        ("device", "Device that runs the models [default: the job's]"),
    ];
    ["resume", "update", "retry"].into_iter().fold(Cli::command(), |cli, verb| {
        cli.mut_subcommand(verb, |verb| {
            recorded.into_iter().fold(verb, |verb, (name, help)| verb.mut_arg(name, |arg| arg.help(help)))
        })
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        cli().debug_assert();
    }

    #[test]
    fn numbers_are_within_their_ranges() {
        let parse =
            |more: &str| Cli::try_parse_from(["capfilt", "run", "web", "pairs", more]).map_err(|e| e.to_string());
        for good in ["--candidates=64", "--candidates=1", "--dry-run=8", "--dry-run=4096"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["--candidates=0", "--candidates=65", "--dry-run=7", "--dry-run=4097"] {
            assert!(parse(bad).unwrap_err().contains(" is not in "), "{bad}");
        }
    }

    #[test]
    fn scripts_keep_their_order() {
        let matches = cli().get_matches_from(["capfilt", "sql", "-c", "a", "-f", "b", "-c", "c"]);
        let got = scripts(matches.subcommand_matches("sql").unwrap());
        assert!(matches!(&got[..], [Script::Text(a), Script::File(b), Script::Text(c)]
            if a == "a" && b.to_str() == Some("b") && c == "c"));
    }
}
