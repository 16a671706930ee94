//! Source of a job: files of one format, ordered by name and cut into units.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;

use crate::error::{Error, Result};
use crate::file::{self, DataFile, Seen};
use crate::file_record::FileRecord;
use crate::format::contract::{FileFormat, Inspection, Reader, Scan, Unified};
use crate::format::image_folder;
use crate::format::inspect::Inspected;
use crate::format::register::{self, IMAGES};
use crate::format::rows::Batches;
use crate::lake::location::Lake;
use crate::lake::register as lakes;
use crate::limits::MOST_IMAGE_BYTES;
use crate::schema;
use crate::source::discover;
use crate::source::known::{OpenOptions, order};
use crate::source::memo::{self, Memo};
use crate::split::{RowPosition, Units};
use crate::store::location::Found;
use crate::store::url::whereabouts;

/// Input of a job: files of one format, read under one schema.
#[derive(Debug)]
pub struct Source {
    /// The path, pattern or URL that was given.
    pub given: PathBuf,
    /// Folder that file names are relative to.
    pub root: PathBuf,
    pub(crate) format: &'static dyn FileFormat,
    pub(crate) files: Vec<SourceFile>,
    /// File numbers by name, built on first use.
    pub(crate) numbers: OnceLock<BTreeMap<String, usize>>,
    /// Version, if the source is a Delta table.
    pub version: Option<u64>,
    /// Schema of the rows read: texts and images are views, so that a second copy of an image takes 16 bytes.
    pub schema: SchemaRef,
    /// Schema as the files declare it; the first file's where the differences do not matter.
    pub written: SchemaRef,
    /// Columns that must be valid UTF-8; a row with an invalid text in one of them fails.
    pub(crate) texts: Vec<String>,
    /// Maximum size of an image that is a file or tar member, bytes; a larger one is not read.
    pub(crate) most_image_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) place: DataFile,
    pub(crate) record: FileRecord,
    /// Size, time and inode at the inspection; `None` unless it is a local file.
    pub(crate) seen: Option<Seen>,
    /// Cached inspection, which avoids reading the file again.
    pub(crate) memo: Option<Memo>,
    /// Schema that the file declares; for CSV and JSON lines the one that all files agree on.
    pub(crate) written: SchemaRef,
    /// Schema that its rows are read with.
    pub(crate) read: SchemaRef,
    /// Partition columns, from the path (`split=train`) or the log of a Delta table.
    pub(crate) partitions: Vec<(String, Option<String>)>,
    /// Sorted numbers of the rows that a Delta table's deletion vector removes.
    pub(crate) deleted: Vec<u64>,
}

impl Source {
    /// Opens a file, a folder of files at any depth or a glob, and inspects each file (Parquet: its footer). A folder
    /// `name=value` below the source gives its files a column.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_at(path, None)
    }

    /// Variant of [`Self::open`] for a version of a Delta table, given as a number or a time.
    pub fn open_at(path: &Path, version: Option<&str>) -> Result<Self> {
        Self::open_as(path, OpenOptions { version, ..OpenOptions::default() })
    }

    /// Opens a source as [`Self::open_at`] does, with what a job knows of it.
    pub fn open_as(path: &Path, reading: OpenOptions<'_>) -> Result<Self> {
        let OpenOptions { version, known, alone, texts, halt, .. } = reading;
        let inspection = Inspection::until(halt);
        let place = Lake::open(path)?;
        if let Some(table) = lakes::of(&place)? {
            let mut source = Self::of_lake(table, &place, path, reading)?;
            order(&mut source.files, |file| file.record.name.clone(), known, alone);
            source.texts = owned(texts);
            return Ok(source);
        }
        if version.is_some() {
            return Err(lakes::no_versions(path));
        }
        let local = |paths: Vec<PathBuf>| paths.into_iter().map(DataFile::Local).collect::<Vec<_>>();
        let (root, mut places, pictures) = if let Lake::Store(location) = place {
            let Found { root, objects, pictures } = location.find(&register::ROLES)?;
            (root, objects.into_iter().map(DataFile::Remote).collect(), pictures)
        } else {
            let (root, paths) = discover::find(path, &inspection.halt)?;
            let pictures = paths.is_empty();
            let paths = if pictures { discover::pictures(&root, &inspection.halt)? } else { paths };
            (root, local(paths), pictures)
        };
        if pictures {
            places = image_folder::folders(&root, places, known)?;
        }
        order(&mut places, |place| place.name(&root), known, alone);
        let format = match places.first() {
            Some(first) if !pictures => register::of_file(&root, first)?,
            _ => IMAGES,
        };
        Self::of(path, root, places, format, reading, &inspection)
    }

    fn of(
        path: &Path,
        root: PathBuf,
        places: Vec<DataFile>,
        format: &'static dyn FileFormat,
        reading: OpenOptions<'_>,
        inspection: &Inspection,
    ) -> Result<Self> {
        let is_other = |place: &&DataFile| {
            let is_file = !matches!(place, DataFile::Folder(_));
            is_file
                && register::of_path(place.below(&root)).is_some_and(|other| other.about().name != format.about().name)
        };
        if let Some(other) = places.iter().find(is_other) {
            let name = format.about().name;
            let reason =
                format!("a source is of one kind, and this file is not {name} as the others: give one of the kinds");
            return Err(Error::source(other.shown(), reason));
        }
        let known: BTreeMap<&str, &FileRecord> =
            reading.known.iter().map(|record| (record.name.as_str(), record)).collect();
        let looks = file::each(&places, |place| {
            let name = place.name(&root);
            let memo = reading.memos.and_then(|memos| memos.get(&name));
            match known.get(name.as_str()) {
                Some(record) if let Some(known) = memo::remembered(format, place, record, memo)? => Ok(known),
                _ => inspection.look(format, &root, place),
            }
        })?;
        inspection.warn();
        let file = |(place, looked): (DataFile, Inspected)| {
            let partitions = match &place {
                // A folder of images may itself be named `name=value`.
                DataFile::Folder(_) => discover::partitions(&place.below(&root).join("image")),
                _ => discover::partitions(place.below(&root)),
            };
            let partitions = partitions.map_err(|reason| Error::source(place.shown(), reason))?;
            // The memo has the file's own types, before they are merged with others.
            let memo = Memo::of(format, &place, &looked);
            let Inspected { record, written, seen } = looked;
            let (read, deleted) = (Arc::clone(&written), Vec::new());
            Ok(SourceFile { place, record, seen, memo, read, written, partitions, deleted })
        };
        let mut files = places.into_iter().zip(looks).map(file).collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            let reason = format!("the folder holds no {} file, and no image", register::endings(false));
            return Err(Error::source(path, reason));
        }
        let (schema, written) = one_schema(format, &mut files, reading.texts)?;
        let (given, most_image_bytes) = (whereabouts(path), reading.limit.unwrap_or(MOST_IMAGE_BYTES));
        let (numbers, texts) = (OnceLock::new(), owned(reading.texts));
        Ok(Self { given, root, format, files, numbers, version: None, schema, written, texts, most_image_bytes })
    }

    /// Rows of `ranges` of a file (first row and number of rows, sorted), in batches of at most `most`.
    pub(crate) fn batches_of(&self, file: &SourceFile, ranges: &[(u64, u64)], most: usize) -> Result<Batches, String> {
        let reader = Reader::Job { max_image_bytes: self.most_image_bytes };
        self.format.read(&file.place, &Scan { schema: &file.read, ranges, batch_rows: most, reader })
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Calls `each` with the content of the files, in order and in blocks of at most 1 MiB.
    pub fn contents(&self, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut each = |block: &[u8]| {
            each(block);
            Ok(())
        };
        self.files.iter().flat_map(|file| file.place.files()).try_for_each(|place| place.contents(&mut each))
    }

    /// Returns file, row, column and a lossy excerpt of the first text in Parquet files that is not UTF-8.
    pub fn bad_text(&self) -> Result<Option<String>> {
        for SourceFile { place, record, .. } in &self.files {
            let found = self.format.bad_text(place, record.rows);
            let found = found.map_err(|e| place.error(|| format!("cannot read: {e}")))?;
            if let Some((row, reason)) = found {
                return Ok(Some(format!("{}, row {row}: {reason}", place.shown().display())));
            }
        }
        Ok(None)
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.record.rows - file.deleted.len() as u64).sum()
    }

    /// Total size of the files, bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.record.bytes).sum()
    }

    /// Paths or URLs of the files.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|file| file.place.shown())
    }

    /// Name of file number `file`, relative to the source.
    pub fn name(&self, file: usize) -> &str {
        &self.files[file].record.name
    }

    /// Display name of file number `file`; for a folder of images its first one.
    pub fn location_of(&self, file: usize) -> String {
        let SourceFile { place, record, .. } = &self.files[file];
        match record.images.as_slice() {
            [] => record.name.clone(),
            [first] => format!("{}/{first}", place.shown().display()),
            [first, more @ ..] => format!("{}/{first} with {} images more", place.shown().display(), more.len()),
        }
    }

    /// The number of the file `name`.
    pub fn number(&self, name: &str) -> Option<usize> {
        let all = || self.files.iter().enumerate().map(|(number, file)| (file.record.name.clone(), number)).collect();
        self.numbers.get_or_init(all).get(name).copied()
    }

    /// Record of file number `file`.
    pub fn record(&self, file: usize) -> &FileRecord {
        &self.files[file].record
    }

    /// Records of all files, in their order.
    pub fn records(&self) -> Vec<FileRecord> {
        self.files.iter().map(|file| file.record.clone()).collect()
    }

    /// Number of rows in `units` from `from` on.
    pub fn rows_of(&self, units: &Units, from: RowPosition) -> u64 {
        (from.file..self.files.len())
            .map(|file| {
                let this = &self.files[file];
                let ranges = units.ranges(file, from, this.record.rows);
                ranges.map(|(start, rows)| rows - this.deleted_in(start, rows)).sum::<u64>()
            })
            .sum()
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Schema of the rows of all files, as read and as written. Sets the schemas of files that agree on one.
fn one_schema(format: &dyn FileFormat, files: &mut [SourceFile], texts: &[&str]) -> Result<(SchemaRef, SchemaRef)> {
    let beside = |file: &SourceFile, reason: String, other: &SourceFile| {
        let other = other.place.shown();
        Error::source(file.place.shown(), format!("{reason} {}: convert one of them", other.display()))
    };
    let declared: Vec<SchemaRef> = files.iter().map(|file| Arc::clone(&file.written)).collect();
    let unified = format.unify(&declared, texts);
    let unified = unified.map_err(|(number, reason)| beside(&files[number], reason, &files[0]))?;
    if let Some(Unified { written, read }) = unified {
        for file in &mut *files {
            (file.read, file.written) = (Arc::clone(&read), Arc::clone(&written));
        }
    }
    let mut merged = schema::Merged::default();
    for file in &*files {
        let these = schema::with_partitions(&file.written, &file.partitions)
            .map_err(|reason| Error::source(file.place.shown(), reason))?;
        merged.add(&these).map_err(|conflict| beside(file, conflict.reason, &files[conflict.file]))?;
    }
    let written = schema::with_texts(&merged.schema(), texts);
    Ok((Arc::new(schema::nullable(&schema::as_views(&written))), Arc::new(written)))
}

impl SourceFile {
    /// First known image of a folder that no longer exists.
    pub(crate) fn gone(&self) -> Option<PathBuf> {
        if let DataFile::Folder(folder) = &self.place { folder.gone() } else { None }
    }

    /// Number of deleted rows among the `rows` rows from number `start`.
    fn deleted_in(&self, start: u64, rows: u64) -> u64 {
        let before = |row: u64| self.deleted.partition_point(|deleted| *deleted < row);
        (before(start + rows) - before(start)) as u64
    }
}
