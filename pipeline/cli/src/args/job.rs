//! Arguments of the verbs on a job: `run`, `resume`, `update`, `retry`, `recipe` and `job`.
//!
//! They serialize to the keys of a job file, which they complete or override.

use std::path::PathBuf;

use capfilt_job::{
    Combine, Dedupe, FailureLimit, ImageIs, Images, ItcGate, OutputFormat, Pairs, pair, probability, shard,
    source_score,
};
use clap::{Args, value_parser};
use serde::{Serialize, Serializer};

use crate::args::values::{at_least_1, given, parameter, setting, size};

/// Models, which determine the built-in recipe by their number.
#[derive(Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Models and settings")]
pub(crate) struct ModelArgs {
    /// Checkpoint of the captioner, a folder or hf:OWNER/NAME; a job takes several [env: CAPFILT_CAPTIONER]
    #[arg(long, value_name = "DIR")]
    pub(crate) captioner: Vec<String>,

    /// Checkpoint of the filter, a folder or hf:OWNER/NAME; a job takes several [env: CAPFILT_FILTER]
    #[arg(long, value_name = "DIR")]
    pub(crate) filter: Vec<String>,
}

/// Models and settings, shared by `sql` and the verbs on a job.
#[derive(Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Models and settings")]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) models: ModelArgs,

    /// Device that runs the models (short for --set capfilt.device=NAME) [env: CAPFILT_DEVICE]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,

    /// Change a setting, like SQL's SET: capfilt.max_text_tokens=40
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    #[serde(serialize_with = "map")]
    pub(crate) set: Vec<(String, String)>,
}

/// Values of `$name` in statements and recipes.
#[derive(Debug, Default, Args, Serialize)]
pub(crate) struct ParamArgs {
    /// Value of the parameter $NAME: a number if it parses as one, else text; quotes make text of a number ('7')
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    #[serde(serialize_with = "map")]
    pub(crate) param: Vec<(String, String)>,
}

fn map<S: Serializer>(pairs: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RunArgs {
    /// A Parquet, WebDataset (.tar), CSV or JSON lines file, a folder of them (folders name=value become columns), a
    /// Delta table (PATH@VERSION or PATH@TIME for an earlier version), a folder of images with text files beside them
    /// (a.jpg, a.txt), a glob in quotes, or a URL: s3://BUCKET/FOLDER, gs://, az://, abfs://, or http(s):// for a
    /// single file
    #[arg(required_unless_present = "job")]
    pub(crate) source: Option<String>,

    /// Destination folder of the pair table
    #[arg(required_unless_present = "job")]
    pub(crate) dest: Option<PathBuf>,

    /// Job file in TOML: its keys are source, dest and the options below, except those under Operation. The command line
    /// overrides it; `capfilt job DEST` prints one
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) job: Option<PathBuf>,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) session: SessionArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) columns: SourceArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) recipe: RecipeArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) operation: OperationArgs,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Source")]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SourceArgs {
    /// Column of the images [default: image]
    #[arg(long, value_name = "NAME")]
    pub(crate) image_column: Option<String>,

    /// Contents of the image column [default: bytes]
    #[arg(long, value_enum)]
    pub(crate) image_is: Option<ImageIs>,

    /// Root folder of the paths in the image column, which must stay inside it; local or in a store [default: the
    /// source's]
    #[arg(long, value_name = "DIR")]
    pub(crate) image_root: Option<PathBuf>,

    /// Column of the texts [default: text]
    #[arg(long, value_name = "NAME")]
    pub(crate) text_column: Option<String>,

    /// Rename a column of the source
    #[arg(long, value_name = "OLD=NEW", value_parser = given(pair))]
    pub(crate) rename: Vec<String>,

    /// Find rows that repeat an earlier one first, and skip the models for them: exact (same image and text), near
    /// (also pictures that look alike), near=BITS (perceptual hashes that differ in at most BITS of 64 bits; near is
    /// 6), texts (also nearly equal texts, whatever their pictures), texts=SIMILARITY (Jaccard index of words and word
    /// pairs, from 0.5 to 1; texts is 0.8), or near and texts separated by a comma. With --image-is url or path only
    /// exact is possible: the same URL or path is the same image
    #[arg(long, value_name = "HOW", value_parser = given(str::parse::<Dedupe>))]
    pub(crate) dedupe: Option<String>,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Recipe")]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RecipeArgs {
    /// Recipe file: one SELECT over web that returns the pair table's columns [default: composed from the options
    /// below; `capfilt recipe` prints it]
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["min_itm_of", "candidates", "best", "combine", "itc_gate"])]
    pub(crate) recipe: Option<PathBuf>,

    /// Minimum match probability of a kept pair, $min_itm; to keep the best share of a finished table, use `capfilt
    /// select --keep-fraction` [default: 0.5]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(crate) min_itm: Option<f64>,

    /// Minimum match probability of the texts of one source: --min-itm-of web=0.6
    #[arg(long, value_name = "SOURCE=P", value_parser = given(source_score))]
    pub(crate) min_itm_of: Vec<String>,

    /// Synthetic texts per image and captioner; all that pass are kept [default: 1]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=64))]
    pub(crate) candidates: Option<u64>,

    /// Keep only the best of an image's synthetic texts that pass
    #[arg(long, conflicts_with = "itc_gate")]
    pub(crate) best: bool,

    /// How to combine several filters [default: mean]
    #[arg(long, value_enum)]
    pub(crate) combine: Option<Combine>,

    /// Use ITC as a cheap first stage: texts below LOW are dropped, texts from HIGH on are kept, and ITM decides
    /// between them
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true, value_parser = given(str::parse::<ItcGate>))]
    pub(crate) itc_gate: Option<String>,

    /// Prompt that captions continue and do not contain: $prompt (BLIP's COCO captioners expect 'a picture of ')
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) params: ParamArgs,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Pair table")]
#[serde(rename_all = "kebab-case")]
pub(crate) struct OutputArgs {
    /// Format of the pair table [default: parquet]
    #[arg(long, value_enum)]
    pub(crate) table_format: Option<OutputFormat>,

    /// Which pairs carry their image [default: kept; with --table-format jsonl none]
    #[arg(long, value_enum)]
    pub(crate) write_images: Option<Images>,

    /// Which pairs the table has [default: all]
    #[arg(long, value_enum)]
    pub(crate) write_pairs: Option<Pairs>,

    /// Rows per checkpoint: source rows that are written together, and repeated after a kill [default: 2048]
    #[arg(long, value_name = "N", value_parser = at_least_1::<u64>)]
    pub(crate) checkpoint_rows: Option<u64>,

    /// Size at which a file of the pair table is closed [default: 512MB]
    #[arg(long, value_name = "SIZE", value_parser = given(size))]
    pub(crate) target_file_size: Option<String>,

    /// Process shard I of N: N processes share SOURCE and DEST [default: 1/1]
    #[arg(long, value_name = "I/N", value_parser = given(shard))]
    pub(crate) shard: Option<String>,

    /// Stop when more than this many rows fail: a number, or a share such as 1%
    #[arg(long, value_name = "N|P%", value_parser = given(str::parse::<FailureLimit>))]
    pub(crate) max_failed: Option<String>,

    /// Bootstrapping round of this job, recorded in the table
    #[arg(long, value_name = "N", hide = true, value_parser = at_least_1::<u32>)]
    pub(crate) round: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Operation")]
pub(crate) struct OperationArgs {
    /// Start over, and replace the pair table at DEST once the new one is complete; other files stay
    #[arg(long, conflicts_with = "shard")]
    pub(crate) overwrite: bool,

    /// Run the recipe on a sample of N rows [64 without N] and estimate the job's kept share, time and size; writes
    /// nothing
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "64",
        value_parser = value_parser!(u16).range(8..=4096), conflicts_with_all = ["metrics_addr", "dedupe"])]
    pub(crate) dry_run: Option<u16>,

    /// Serve the job's metrics for Prometheus at http://HOST:PORT/metrics; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_addr: Option<String>,
}

/// Arguments of `resume`, `update` and `retry`, which go on with a recorded job.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ContinueArgs {
    /// Folder of the pair table
    #[serde(skip)]
    pub(crate) dest: PathBuf,

    /// Job file of a table that does not record its job, because an earlier version began it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) job: Option<PathBuf>,

    /// Where the source is now, if it has moved
    #[arg(long, value_name = "PATH")]
    pub(crate) source: Option<String>,

    /// Where the root folder of the image column's paths is now, if it has moved
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub(crate) image_root: Option<PathBuf>,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) session: SessionArgs,

    /// Go on with shard I of N alone [default: all shards, one after another]
    #[arg(long, value_name = "I/N", value_parser = given(shard))]
    #[serde(skip)]
    pub(crate) shard: Option<String>,

    /// Stop when more than this many rows fail: a number, or a share such as 1%; 100% for no limit [default: the job's]
    #[arg(long, value_name = "N|P%", value_parser = given(str::parse::<FailureLimit>))]
    pub(crate) max_failed: Option<String>,

    /// Serve the job's metrics for Prometheus at http://HOST:PORT/metrics; port 0 picks a free port
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip)]
    pub(crate) metrics_addr: Option<String>,
}

/// Arguments of `capfilt recipe`.
#[derive(Debug, Args, Serialize)]
pub(crate) struct ShowRecipeArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) recipe: RecipeArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) models: ModelArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_a_map() {
        let args = ParamArgs { param: vec![("a".to_owned(), "1".to_owned())] };
        assert_eq!(serde_json::to_value(args).unwrap(), serde_json::json!({"param": {"a": "1"}}));
    }
}
