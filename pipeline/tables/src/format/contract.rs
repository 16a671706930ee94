//! What a file format is: how its files are inspected and read, and how SQL reads them.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::file::DataFile;
use crate::format::passed::Passed;
use crate::format::rows::{Batches, Rows};
use crate::halt::Halt;
use crate::limits::MOST_IMAGE_BYTES;

/// Rows per batch when a file is only counted.
const COUNTED_AT_ONCE: usize = 64;

/// A format of source files; [`crate::format::register`] has the list of them.
///
/// A format that is one of many rows in sequence needs [`Self::about`] and [`Self::read`]; the other methods have
/// defaults, which read the file through [`Self::read`].
pub trait FileFormat: fmt::Debug + Send + Sync {
    /// Names and properties.
    fn about(&self) -> &'static About;

    /// Schema of every file; `None` if it depends on the file.
    fn schema(&self) -> Option<SchemaRef> {
        None
    }

    /// Counts a file's rows and determines its fingerprint and the schema that it declares. The default reads the file
    /// to its end.
    ///
    /// # Errors
    /// A file that is not of this format, or is broken.
    fn inspect(&self, file: &DataFile, inspection: &Inspection) -> Result<FileInfo> {
        let broken = |e: String| file.error(|| format!("not {}, or broken: {e}", self.about().name));
        let (mut schema, none) = (self.schema(), Arc::new(Schema::empty()));
        let reader = Reader::Job { max_image_bytes: MOST_IMAGE_BYTES };
        let declared = schema.clone().unwrap_or(none);
        let scan = Scan { schema: &declared, ranges: &[(0, u64::MAX)], batch_rows: COUNTED_AT_ONCE, reader };
        let mut rows = 0;
        for read in self.read(file, &scan).map_err(broken)? {
            inspection.halt.check()?;
            let Rows { batch, .. } = read.map_err(broken)?;
            rows += batch.num_rows() as u64;
            schema.get_or_insert_with(|| batch.schema());
        }
        let (bytes, stamp) = file.fingerprint(&inspection.halt)?;
        Ok(FileInfo { rows, bytes, stamp, schema: schema.unwrap_or(declared) })
    }

    /// Agrees on one schema for files that only suggest types, as texts do; the columns `texts` become text. `None`, the
    /// default, if each file declares its own types.
    ///
    /// # Errors
    /// The number of a file whose columns conflict with those of the files before it, and why.
    fn unify(&self, files: &[SchemaRef], texts: &[&str]) -> Result<Option<Unified>, (usize, String)> {
        let (_, _) = (files, texts);
        Ok(None)
    }

    /// Reads rows of a file, in order. [`crate::format::rows::select`] picks the ranges of a format that has no random
    /// access.
    ///
    /// # Errors
    /// Says what is wrong with the file, without its name.
    fn read(&self, file: &DataFile, scan: &Scan<'_>) -> Result<Batches, String>;

    /// Row and reason of the first text of a file with `rows` rows that is not UTF-8, in a format whose reader in SQL
    /// names neither.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn bad_text(&self, file: &DataFile, rows: u64) -> Result<Option<(u64, String)>, String> {
        let (_, _) = (file, rows);
        Ok(None)
    }

    /// Writer of one file, for COPY and INSERT; `None` if SQL does not write the format through this crate.
    fn writer(&self) -> Option<Box<dyn FileWriter>> {
        None
    }
}

/// Names and properties of a format.
#[derive(Debug)]
pub struct About {
    /// Name in messages, such as `CSV`. SQL knows it after `STORED AS` if it reads the format through [`FileFormat::read`].
    pub name: &'static str,
    /// Extensions of the format's files, in lower case and without a dot; messages recommend the first one.
    pub extensions: &'static [&'static str],
    /// Extensions that files which only describe a table have too: a job takes such a file only if it is named itself,
    /// not in a folder.
    pub shared_extensions: &'static [&'static str],
    /// Bytes that every file begins with, by which a file without a known extension is recognised; empty for none.
    pub magic: &'static [u8],
    /// Whether an inspection reads the whole file, so that a later job takes an unchanged size and time for it.
    pub inspects_all: bool,
    /// Whether any row can be read without those before it.
    pub seeks: bool,
    /// How SQL reads the format.
    pub in_sql: InSql,
}

impl About {
    /// A format without magic bytes that is read from its beginning, in SQL too.
    pub const fn new(name: &'static str, extensions: &'static [&'static str]) -> Self {
        let (shared_extensions, magic) = (&[], &[]);
        Self { name, extensions, shared_extensions, magic, inspects_all: true, seeks: false, in_sql: InSql::Rows }
    }
}

/// Reader of a format in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InSql {
    /// DataFusion's format of this name. Its files declare their types, which are merged as in a job.
    DataFusion(&'static str),
    /// [`FileFormat::read`].
    Rows,
    /// [`FileFormat::read`] for files that a query names, compressed ones such as `.csv.gz` too: types and columns are
    /// those that a job finds. `STORED AS`, COPY and INSERT are left to DataFusion's format of the same extension.
    NamedRows,
    /// None: only jobs read the format.
    None,
}

/// State shared by the inspections of a source's files.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Cancellation flag, which an inspection of a large file checks.
    pub halt: Halt,
    passed: Mutex<Passed>,
}

impl Inspection {
    pub(crate) fn until(halt: Option<&Halt>) -> Self {
        Self { halt: halt.cloned().unwrap_or_default(), passed: Mutex::default() }
    }

    /// Adds the members that were skipped in `file`.
    pub(crate) fn pass(&self, file: &DataFile, passed: Passed) {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).add(&file.shown().display().to_string(), passed);
    }

    /// Warns of the members skipped in all files.
    pub(crate) fn warn(&self) {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).warn();
    }
}

/// Result of inspecting a file.
#[derive(Debug, Clone)]
pub struct FileInfo {
    /// Number of rows.
    pub rows: u64,
    /// Size, bytes.
    pub bytes: u64,
    /// Fingerprint, 16 hex digits: changes with the file's rows.
    pub stamp: String,
    /// Schema that the file declares.
    pub schema: SchemaRef,
}

/// Schema that files of suggested types agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified {
    /// Types of the table.
    pub written: SchemaRef,
    /// Types with which the files are read, before their values are converted to those of the table.
    pub read: SchemaRef,
}

/// Rows to read of a file.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// Schema that the file declares, or to which the values of its files can be converted: that of [`Unified::read`]
    /// in a job, and of the table in SQL.
    pub schema: &'a SchemaRef,
    /// First row and number of rows of each range, sorted. Batches may span ranges, and the last range may reach past
    /// the end of the file.
    pub ranges: &'a [(u64, u64)],
    /// Maximum number of rows of a batch.
    pub batch_rows: usize,
    /// Consumer of the rows.
    pub reader: Reader,
}

/// Consumer of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// SQL, which has not inspected the file: skipped members are reported once it has been read.
    Sql,
    /// A job, which has inspected the file.
    Job {
        /// Maximum size of an image that is a file or tar member, bytes; a larger one is not read, and is a problem of its
        /// row.
        max_image_bytes: u64,
    },
}

/// Writer of one file.
pub trait FileWriter: Send {
    /// Appends rows, and returns the bytes to write.
    ///
    /// # Errors
    /// Columns that the format cannot hold.
    fn write(&mut self, batch: &RecordBatch) -> io::Result<Vec<u8>>;

    /// Ends the file, and returns its last bytes.
    ///
    /// # Errors
    /// A file that cannot be ended.
    fn end(self: Box<Self>) -> io::Result<Vec<u8>>;
}
