//! A job as a file: `job.toml`, whose keys are the options of `capfilt run`, and the record of a job in its manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::hub;
use capfilt_tables::layout::is_delta;
use capfilt_tables::store::url::whereabouts;
use serde::{Deserialize, Deserializer, Serialize};

use crate::options::{Combine, ImageIs, Images, OutputFormat, Pairs};

/// A job with its models and settings. Each field is the long option of `capfilt run` with the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct JobFile {
    /// See [`crate::Job::source`]. `@` and a version or time after a Delta table's name select one of its versions.
    pub source: String,
    /// See [`crate::Job::dest`].
    pub dest: PathBuf,
    /// Checkpoint folders of the captioners; the setting `capfilt.captioner` if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub captioner: Vec<String>,
    /// Checkpoint folders of the filters; the setting `capfilt.filter` if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<String>,
    /// The setting `capfilt.device`.
    pub device: Option<String>,
    /// Path of a custom recipe.
    pub recipe: Option<PathBuf>,
    /// SQL of the recipe, if it is not the built-in one: the file's contents.
    pub recipe_sql: Option<String>,
    /// Minimum match probability of a kept pair, `$min_itm`.
    pub min_itm: f64,
    /// `SOURCE=P`: minimum match probabilities of the texts of one source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub min_itm_of: Vec<String>,
    /// See [`crate::RecipeBuilder::candidates`].
    pub candidates: u64,
    /// See [`crate::RecipeBuilder::best`].
    pub best: bool,
    /// See [`crate::RecipeBuilder::combine`].
    pub combine: Combine,
    /// `LOW,HIGH`: see [`crate::RecipeBuilder::itc_gate`].
    pub itc_gate: Option<String>,
    /// Prompt that captions continue, `$prompt`.
    pub prompt: String,
    /// See [`crate::Job::image_column`].
    pub image_column: String,
    /// See [`crate::Job::image_is`].
    pub image_is: ImageIs,
    /// See [`crate::Job::image_root`].
    pub image_root: Option<PathBuf>,
    /// See [`crate::Job::text_column`].
    pub text_column: String,
    /// `OLD=NEW`: see [`crate::Job::renames`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rename: Vec<String>,
    /// See [`crate::Dedupe`].
    pub dedupe: Option<String>,
    /// See [`crate::Job::table_format`].
    pub table_format: OutputFormat,
    /// See [`crate::Job::images`]; by default `kept`, or `none` for JSON lines, which have no images.
    pub write_images: Option<Images>,
    /// Which pairs are written.
    pub write_pairs: Pairs,
    /// See [`crate::Job::unit_rows`].
    pub checkpoint_rows: u64,
    /// Size at which a file of the pair table is closed: a number of bytes, or one with a unit.
    #[serde(deserialize_with = "text")]
    pub target_file_size: String,
    /// `I/N`: see [`crate::Job::shard`].
    pub shard: String,
    /// See [`crate::FailureLimit`].
    #[serde(deserialize_with = "optional_text")]
    pub max_failed: Option<String>,
    /// See [`crate::Job::round`].
    pub round: u32,
    /// Values of SQL's SET, by setting.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "texts")]
    pub set: BTreeMap<String, String>,
    /// Values of the recipe's parameters, as [`crate::Params::set`] takes them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "texts")]
    pub param: BTreeMap<String, String>,
}

impl Default for JobFile {
    fn default() -> Self {
        Self {
            source: String::new(),
            dest: PathBuf::new(),
            captioner: Vec::new(),
            filter: Vec::new(),
            device: None,
            recipe: None,
            recipe_sql: None,
            min_itm: 0.5,
            min_itm_of: Vec::new(),
            candidates: 1,
            best: false,
            combine: Combine::Mean,
            itc_gate: None,
            prompt: String::new(),
            image_column: "image".to_owned(),
            image_is: ImageIs::Bytes,
            image_root: None,
            text_column: "text".to_owned(),
            rename: Vec::new(),
            dedupe: None,
            table_format: OutputFormat::Parquet,
            write_images: None,
            write_pairs: Pairs::All,
            checkpoint_rows: 2048,
            target_file_size: "512MB".to_owned(),
            shard: "1/1".to_owned(),
            max_failed: None,
            round: 1,
            set: BTreeMap::new(),
            param: BTreeMap::new(),
        }
    }
}

impl JobFile {
    /// The settings of the session that the job runs in, as values of SQL's SET, with the option that each comes from.
    pub fn settings(&self) -> Vec<(String, String, String)> {
        let models = [("captioner", self.captioner.first()), ("filter", self.filter.first())];
        let models = models.into_iter().chain([("device", self.device.as_ref())]);
        let models = models.filter_map(|(name, value)| Some((name, value?)));
        let models =
            models.map(|(name, value)| (format!("--{name} {value}"), format!("capfilt.{name}"), value.clone()));
        let set = self.set.iter().map(|(name, value)| (format!("--set {name}={value}"), name.clone(), value.clone()));
        // The models come last, so that they take precedence.
        set.chain(models).collect()
    }

    /// The source's location and the version of it that is asked for, as in `lake@12` or `lake@2026-01-31` of a Delta table.
    /// A path that exists as it is has no version, and neither has an `@` that is part of a URL's authority or of another
    /// name.
    pub fn source(&self) -> (PathBuf, Option<String>) {
        let is_version = |text: &str| {
            let date = text.split(['T', ' ']).next().unwrap_or_default();
            let is_date = date.len() == 10 && date.chars().all(|c| c.is_ascii_digit() || c == '-');
            is_date || !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
        };
        match self.source.rsplit_once('@') {
            // Of a dataset of the hub it is a revision, which is part of its URL.
            _ if self.source.starts_with("hf://") => (self.source.as_str().into(), None),
            Some((lake, version))
                if !Path::new(&self.source).exists() && (is_version(version) || is_delta(Path::new(lake))) =>
            {
                (lake.into(), Some(version.to_owned()))
            }
            _ => (self.source.as_str().into(), None),
        }
    }

    /// Names of columns in the source, and their new names.
    pub(crate) fn renames(&self) -> Result<Vec<(String, String)>> {
        let wrong = |text: &str, e| Error::Option(format!("--rename {text}: {e}"));
        self.rename.iter().map(|text| pair(text).map_err(|e| wrong(text, e))).collect()
    }

    /// The job as its manifest records it: with absolute paths of the source and the models, so that it can be continued
    /// from any folder, and without the signature that a URL may have. The manifest has the image root's place.
    pub(crate) fn recorded(&self) -> Self {
        let absolute = |path: &String| match hub::is_name(path) {
            true => path.clone(),
            false => whereabouts(Path::new(path)).to_string_lossy().into_owned(),
        };
        let is_model = |name: &str| ["capfilt.captioner", "capfilt.filter", "capfilt.answerer"].contains(&name);
        let set = self.set.iter().map(|(name, value)| {
            (name.clone(), if is_model(name) && !value.is_empty() { absolute(value) } else { value.clone() })
        });
        Self {
            set: set.collect(),
            source: absolute(&self.source),
            captioner: self.captioner.iter().map(absolute).collect(),
            filter: self.filter.iter().map(absolute).collect(),
            ..self.clone()
        }
    }
}

/// Parses `A=B`, two names.
///
/// # Errors
/// Says what was expected.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected two names with = between them".to_owned()),
    }
}

/// Parses `I/N`, a shard and the number of shards.
///
/// # Errors
/// Says what was expected.
pub fn shard(text: &str) -> Result<(u64, u64), String> {
    match text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?))) {
        Some((i, n)) if 1 <= i && i <= n => Ok((i, n)),
        _ => Err("expected I/N, such as 1/4 for the first of four".to_owned()),
    }
}

/// A value that a file may give as a text, a number or a truth value.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, a number, true or false; a key with a dot is quoted: \"capfilt.max_length\" = 20"
)]
enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl From<Scalar> for String {
    fn from(value: Scalar) -> Self {
        match value {
            Scalar::Bool(value) => value.to_string(),
            Scalar::Int(value) => value.to_string(),
            Scalar::Float(value) => value.to_string(),
            Scalar::Text(value) => value,
        }
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Scalar::deserialize(from).map(String::from)
}

fn optional_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Option::<Scalar>::deserialize(from).map(|value| value.map(String::from))
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = BTreeMap::<String, Scalar>::deserialize(from)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_follows_the_last_at_sign() {
        let split = |text: &str| {
            let (source, version) = JobFile { source: text.to_owned(), ..JobFile::default() }.source();
            (source.to_string_lossy().into_owned(), version)
        };
        let some = |source: &str, version: &str| (source.to_owned(), Some(version.to_owned()));
        assert_eq!(split("lake@12"), some("lake", "12"));
        assert_eq!(split("s3://b/lake@2026-01-31 12:00:00"), some("s3://b/lake", "2026-01-31 12:00:00"));
        for whole in ["lake", "a@b/c.parquet", "https://user@host/x.parquet", "s3://b/x@12.parquet", "x@"] {
            assert_eq!(split(whole), (whole.to_owned(), None));
        }
    }
}
