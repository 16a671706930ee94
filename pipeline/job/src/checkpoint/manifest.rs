//! A job's manifest, kept beside its table: lets a stopped job resume and stops two jobs from mixing their tables.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use capfilt_tables::file_record::{self, FileRecord};
use capfilt_tables::pair_table::{self, State};
use capfilt_tables::source::files::Source;
use capfilt_tables::source::memo::Memo;
use capfilt_tables::split::{RowPosition, Units};
use capfilt_udfs::Provenance;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::differences::{Options, differing, flatten};
use crate::options::{ImageIs, Images, OutputFormat};
use crate::tally::counts::Tally;
use crate::verdicts::Verdicts;

/// The name and version of this program.
pub(crate) const PROGRAM: &str = concat!("capfilt ", env!("CARGO_PKG_VERSION"));

/// Version of the results, raised by each change that gives some row other pixels, texts or verdicts, or scores that
/// differ by more than those of two processors (1e-5). Any version of the program with the same results may continue a
/// table.
pub(crate) const RESULTS: u32 = 2;

/// [`RESULTS`] for `capfilt.precision = 'int8'`. It is higher because the int8 operators changed later.
const INT8_RESULTS: u32 = 4;

/// Version of the results of `models`.
pub(crate) fn results(models: &Provenance) -> u32 {
    match models.settings.get("precision").map(String::as_str) {
        Some("int8") => INT8_RESULTS,
        _ => RESULTS,
    }
}

/// Everything that determines the table's contents. Jobs that differ in any of it cannot share a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Name and version of the program that began the table; informational, and ignored by the comparison.
    pub(crate) engine: String,
    /// [`RESULTS`] of the program that began the table.
    pub(crate) results: u32,
    /// The recipe with the values of its parameters.
    pub(crate) recipe: String,
    #[serde(flatten)]
    pub(crate) models: Provenance,
    /// SHA-256 digests of the further captioners and filters.
    pub(crate) captioners: Vec<String>,
    pub(crate) filters: Vec<String>,
    /// Bootstrapping round, from 1.
    pub(crate) round: u32,
    pub(crate) image_column: String,
    pub(crate) image_is: ImageIs,
    pub(crate) path_root: Option<String>,
    /// The `fetch.*` settings that determine which images are fetched.
    pub(crate) fetch: BTreeMap<String, String>,
    pub(crate) text_column: String,
    pub(crate) renames: BTreeMap<String, String>,
    pub(crate) kept_only: bool,
    pub(crate) images: Images,
    /// The `--dedupe` option, in its canonical form.
    pub(crate) dedupe: Option<String>,
    /// File format: `parquet`, `webdataset`, `delta` or `jsonlines`.
    pub(crate) format: String,
    pub(crate) unit_rows: u64,
    pub(crate) file_bytes: u64,
    pub(crate) shards: u64,
}

impl Identity {
    /// A short digest of the identity: 16 hex digits.
    pub(crate) fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(&Sha256::digest(&json)[..8])
    }

    /// Why a retry is refused for this table; `None` if it is allowed.
    pub(crate) fn retry_refused(&self) -> Option<&'static str> {
        match self.format.as_str() {
            _ if self.kept_only => {
                Some("a retry finds failed rows by their pairs, and --write-pairs kept leaves them out")
            }
            "parquet" | "delta" => None,
            _ => Some(
                "a retry takes good rows from the table's Parquet files, and this one has none: `capfilt run` \
                 with --overwrite does all rows anew",
            ),
        }
    }

    /// Describes how another job differs from this one; `None` if it does not.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        // Jobs of different precisions have different results anyway, and differ by the precision.
        let precision = |job: &Self| job.models.settings.get("precision").cloned();
        if self.results != other.results && precision(self) == precision(other) {
            return Some(format!(
                "it was begun by {}, whose results differ from those of {} for some rows",
                self.engine, other.engine
            ));
        }
        let other = &Self { engine: self.engine.clone(), results: self.results, ..other.clone() };
        if self == other {
            return None;
        }
        let [before, now] = [self, other].map(|one| flatten(&serde_json::to_value(one).unwrap_or_default()));
        let differs = differing(&before, &now).into_iter().filter_map(|(name, before, now)| match name {
            "recipe" => recipes(&self.recipe, &other.recipe),
            _ => Some(format!("{} was {before} and is {now}", option(name))),
        });
        let differs: Vec<String> = differs.collect();
        (!differs.is_empty()).then(|| differs.join("; "))
    }
}

/// Describes how two recipes differ: in parameters, which are leading comments, or at the first differing line of SQL.
/// `None` if they do not, as 0.50 does not differ from 0.5.
fn recipes(before: &str, now: &str) -> Option<String> {
    fn value(line: &str) -> Option<(&str, &str)> {
        line.strip_prefix("-- $")?.split_once(" = ")
    }
    fn apart(recipe: &str) -> (Options, Vec<&str>) {
        let values = recipe.lines().map_while(value).map(|(name, value)| (name.to_owned(), value.to_owned()));
        (values.collect(), recipe.lines().skip_while(|line| value(line).is_some()).collect())
    }
    let ((values, sql), (new_values, new_sql)) = (apart(before), apart(now));
    let is_same_number = |before: &str, now: &str| before.parse::<f64>().is_ok_and(|b| now.parse() == Ok(b));
    let differ = differing(&values, &new_values).into_iter().filter(|(_, before, now)| !is_same_number(before, now));
    let mut found: Vec<String> =
        differ.map(|(name, before, now)| format!("${name} was {before} and is {now}")).collect();
    if sql != new_sql {
        let line =
            |of: &[&str], at: usize| of.get(at).map_or("its end".to_owned(), |line| format!("{:?}", line.trim()));
        let at = (0..).find(|at| sql.get(*at) != new_sql.get(*at)).unwrap_or_default();
        found.push(format!("the recipe's line {} was {} and is {}", at + 1, line(&sql, at), line(&new_sql, at)));
    }
    (!found.is_empty()).then(|| found.join("; "))
}

/// The option that sets a field of the identity, or the field's own name.
fn option(field: &str) -> String {
    let (name, rest) = field.split_once('.').unwrap_or((field, ""));
    match name {
        "settings" => format!("capfilt.{rest}"),
        "renames" => format!("--rename of {rest}"),
        "path_root" => "--image-root".to_owned(),
        "kept_only" => "--write-pairs kept".to_owned(),
        "images" => "--write-images".to_owned(),
        "format" => "--table-format".to_owned(),
        "unit_rows" => "--checkpoint-rows".to_owned(),
        "file_bytes" => "--target-file-size".to_owned(),
        "shards" => "the number of shards".to_owned(),
        "image_column" | "image_is" | "text_column" | "dedupe" => format!("--{}", name.replace('_', "-")),
        _ => field.to_owned(),
    }
}

/// A file of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) pairs: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    pub(crate) state: State,
    /// Number of this process's shard, from 1.
    pub(crate) shard: u64,
    pub(crate) job: Identity,
    /// The job's [`crate::JobFile`], for a later command to go on with. Not typed: another version's options do not make
    /// the manifest unreadable.
    pub(crate) file: Option<Value>,
    /// The source's location when the job began.
    pub(crate) source: PathBuf,
    /// The given root folder of the image column's paths, if any.
    pub(crate) path_root: Option<PathBuf>,
    /// The source's version, if it is a Delta table.
    pub(crate) source_version: Option<u64>,
    pub(crate) files: Vec<FileRecord>,
    /// Cached scan results, by file, which spare another scan of unchanged text files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) memos: BTreeMap<String, Memo>,
    /// Names and types of the pair table's columns.
    pub(crate) columns: Vec<(String, String)>,
    /// The rule by which pairs are kept.
    pub(crate) verdicts: Verdicts,
    /// Whether this table replaces an existing one once it is complete.
    pub(crate) replaces: bool,
    pub(crate) parts: Vec<Part>,
    /// The manifest that a retry replaces (this shard's): good rows are copied from its parts.
    pub(crate) retried: Option<Box<Manifest>>,
    /// Run id in the names of a Delta table's parts, where files of earlier runs remain.
    pub(crate) run: String,
    /// Number of parts already committed to the Delta log.
    pub(crate) committed: usize,
    /// Transaction version of the Delta commit that is next or in flight.
    pub(crate) commit: Option<i64>,
    /// Transaction version of the last Delta commit that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_commit: Option<i64>,
    /// First position that is not yet in the parts.
    pub(crate) done: RowPosition,
    /// Counts over the rows in the parts.
    pub(crate) tally: Tally,
}

impl Manifest {
    pub(crate) fn new(shard: u64, job: Identity, verdicts: Verdicts, source: &Source, replaces: bool) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            format: pair_table::MANIFEST_FORMAT,
            state: State::Running,
            shard,
            job,
            file: None,
            source: source.given.clone(),
            path_root: None,
            source_version: source.version,
            files: source.records(),
            memos: source.memos(),
            columns: Vec::new(),
            verdicts,
            replaces,
            retried: None,
            parts: Vec::new(),
            run: format!("{:x}", since.as_micros()),
            committed: 0,
            commit: None,
            last_commit: None,
            done: RowPosition::default(),
            tally: Tally::default(),
        }
    }

    /// The shard's units.
    pub(crate) fn units(&self) -> Units {
        Units { rows: self.job.unit_rows, shard: self.shard - 1, shards: self.job.shards }
    }

    /// File name of the next part.
    pub(crate) fn next_part(&self, format: OutputFormat) -> String {
        let run = (format == OutputFormat::Delta).then_some(self.run.as_str());
        pair_table::part_name(self.parts.len(), self.shard, self.job.shards, run, format.extension())
    }

    pub(crate) fn part_names(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.name.as_str()).collect()
    }

    /// Reads a manifest; `None` if the file does not exist.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(mut manifest) = pair_table::read_manifest::<Self>(path)? else { return Ok(None) };
        let folder = folder_of(path);
        let loaded = file_record::load(Self::records_mut(&mut manifest), folder);
        loaded.map_err(|e| {
            Error::dest(path, format!("cannot read the names of its images ({e}): give --overwrite or another folder"))
        })?;
        Ok(Some(manifest))
    }

    /// The files of its source, and of that of the table that it replaces.
    fn records(&self) -> impl Iterator<Item = &FileRecord> {
        self.files.iter().chain(self.retried.iter().flat_map(|old| &old.files))
    }

    fn records_mut(&mut self) -> impl Iterator<Item = &mut FileRecord> {
        self.files.iter_mut().chain(self.retried.iter_mut().flat_map(|old| &mut old.files))
    }

    /// Writes the manifest atomically: to a temporary file, synced and renamed.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        let temp = path.with_extension("json.tmp");
        let folder = folder_of(path);
        let write = || {
            file_record::save(self.records(), folder)?;
            let mut file = File::create(&temp)?;
            file.write_all(&text[..text.len() / 2])?;
            failpoint::point("manifest");
            file.write_all(&text[text.len() / 2..])?;
            file.sync_all()?;
            fs::rename(&temp, path)?;
            File::open(folder)?.sync_all()?;
            file_record::clean(self.records(), folder)
        };
        write().map_err(|e| Error::write(path, &e))
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// An identity for tests.
#[cfg(test)]
pub(crate) fn identity() -> Identity {
    let models = Provenance {
        captioner: Some("a1".repeat(32)),
        filter: None,
        answerer: None,
        device: Some("cpu".to_owned()),
        settings: BTreeMap::from([("seed".to_owned(), "0".to_owned())]),
    };
    Identity {
        engine: "capfilt 0".to_owned(),
        results: RESULTS,
        recipe: "SELECT 1".to_owned(),
        models,
        round: 1,
        captioners: Vec::new(),
        dedupe: None,
        filters: Vec::new(),
        image_column: "image".to_owned(),
        image_is: ImageIs::Bytes,
        path_root: None,
        fetch: BTreeMap::new(),
        text_column: "text".to_owned(),
        renames: BTreeMap::new(),
        kept_only: false,
        images: Images::Kept,
        format: "parquet".to_owned(),
        unit_rows: 10,
        file_bytes: 1,
        shards: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        let first = identity();
        assert_eq!(first.difference(&identity()), None);
        let mut other = identity();
        other.models.captioner = Some("b2".repeat(32));
        other.models.filter = Some("f".to_owned());
        other.models.settings.insert("seed".to_owned(), "7".to_owned());
        let said = first.difference(&other).unwrap();
        assert_eq!(
            said,
            "captioner was a1a1a1a1a1a1 and is b2b2b2b2b2b2; filter was nothing and is f; capfilt.seed was 0 and is 7"
        );
        assert_ne!(first.digest(), other.digest());
        let at = |least: &str| Identity { recipe: format!("-- $min_itm = {least}\nSELECT 1"), ..identity() };
        assert_eq!(at("0.50").difference(&at("0.5")), None);
        assert_eq!(at("0.50").difference(&at("0.6")).unwrap(), "$min_itm was 0.50 and is 0.6");
    }

    #[test]
    fn another_version_of_the_program_continues_a_table_where_its_results_are_the_same() {
        let first = identity();
        let newer = Identity { engine: "capfilt 9".to_owned(), ..identity() };
        assert_eq!(first.difference(&newer), None);
        let mut int8 = identity().models;
        int8.settings.insert("precision".to_owned(), "int8".to_owned());
        assert_ne!(results(&int8), results(&identity().models));
        let other = Identity { results: RESULTS + 1, ..newer };
        let said = first.difference(&other).unwrap();
        assert_eq!(said, "it was begun by capfilt 0, whose results differ from those of capfilt 9 for some rows");
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        assert!(Manifest::read(&path).unwrap().is_none());
        let source = folder.path().join("source.csv");
        fs::write(&source, "id\n1\n").unwrap();
        let source = Source::open(&source).unwrap();
        let mut manifest = Manifest::new(1, identity(), Verdicts::default(), &source, true);
        manifest.parts.push(Part { name: "p".to_owned(), pairs: 1, bytes: 2 });
        manifest.write(&path).unwrap();
        let got = Manifest::read(&path).unwrap().unwrap();
        assert_eq!((got.job, got.parts, got.replaces), (identity(), manifest.parts, true));
        let other = "another version of capfilt";
        for (broken, words) in [
            ("", "the manifest is damaged"),
            ("{}", other),
            ("{\"format\": 2}", "the manifest is damaged"),
            ("{\"format\": 1}", other),
        ] {
            fs::write(&path, broken).unwrap();
            let said = Manifest::read(&path).unwrap_err().to_string();
            assert!(said.contains(words) && said.contains("manifest.json"), "{said}");
        }
    }
}
