//! Options of a job that several of its parts read, as values of command-line options.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What to do if the destination already has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refuse a finished table; resume an unfinished one.
    Create,
    /// Replace it.
    Overwrite,
    /// Add the rows that the source has gained since.
    Update,
    /// Repeat the rows that failed because their image was unavailable.
    Retry,
}

/// Which pairs carry their image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Images {
    /// Kept pairs only.
    Kept,
    /// All pairs.
    All,
    /// No pairs: the column is left out.
    None,
}

/// Which pairs the table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pairs {
    /// All pairs; the column `kept` says which are kept.
    All,
    /// Kept pairs only.
    Kept,
}

/// How the scores of several filters become one verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    /// Threshold the mean score.
    #[default]
    Mean,
    /// Threshold the lowest score.
    Min,
    /// Threshold the highest score.
    Max,
    /// Majority vote: more than half of the filters must keep the pair; the recorded score is the mean.
    Vote,
}

/// How a job is asked to stop early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not at all.
    No,
    /// After the current unit.
    AtUnit,
    /// Immediately.
    Now,
}

/// Resolves once the job is asked to stop in the way `how` or immediately; pends forever if the sender is gone.
pub(crate) async fn asked(stop: &watch::Receiver<Stop>, how: Stop) {
    let mut stop = stop.clone();
    let is_asked = |stop: &Stop| *stop == Stop::Now || *stop == how;
    if stop.wait_for(is_asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Contents of the source's image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImageIs {
    /// The image's bytes, or a struct with them.
    Bytes,
    /// The image's URL, to be fetched.
    Url,
    /// The image's file path, relative to the root folder.
    Path,
}

/// File format of a pair table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Parquet.
    Parquet,
    /// WebDataset: tar files with a sample (image, txt, json) for each pair.
    #[value(name = "webdataset")]
    WebDataset,
    /// Parquet files listed in a Delta log; each run adds a version.
    Delta,
    /// JSON lines with the text as `caption` and without the image, as BLIP's authors published their datasets.
    #[value(name = "jsonl")]
    #[serde(rename = "jsonl")]
    JsonLines,
}

impl OutputFormat {
    /// Whether the files are Parquet.
    pub(crate) fn is_parquet(self) -> bool {
        matches!(self, Self::Parquet | Self::Delta)
    }

    /// File name extension.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet | Self::Delta => "parquet",
            Self::WebDataset => "tar",
            Self::JsonLines => "jsonl",
        }
    }
}

/// A number from 0 to 1.
pub fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// A score from 0 to 1.
pub fn score(text: &str) -> Result<f32, String> {
    probability(text)?;
    text.parse().map_err(|e| format!("{e}"))
}

/// A source of texts and a score.
pub fn source_score(text: &str) -> Result<(String, f32), String> {
    let (source, least) = text.split_once('=').ok_or("expected SOURCE=P, such as web=0.6")?;
    Ok((source.to_owned(), score(least)?))
}
