//! Inspection of a file that must not change meanwhile.

use std::path::Path;

use datafusion::arrow::datatypes::SchemaRef;

use crate::error::Result;
use crate::file::{DataFile, Seen};
use crate::file_record::FileRecord;
use crate::format::contract::{FileFormat, FileInfo, Inspection};
use crate::format::watch::Watch;

/// Result of inspecting a file of a source.
pub(crate) struct Inspected {
    pub(crate) record: FileRecord,
    /// Schema that the file declares.
    pub(crate) written: SchemaRef,
    pub(crate) seen: Option<Seen>,
}

impl Inspection {
    /// Inspects a file: its rows, fingerprint and schema. Fails if it changes meanwhile.
    pub(crate) fn look(&self, format: &dyn FileFormat, root: &Path, file: &DataFile) -> Result<Inspected> {
        self.halt.check()?;
        let watch = Watch::begin(file, None)?;
        let found = format.inspect(file, self);
        // Check before reporting: readers describe an interrupted input in messages of their own.
        self.halt.check()?;
        watch.check()?;
        let FileInfo { rows, bytes, stamp, schema } = found?;
        let record = FileRecord { name: file.name(root), bytes, stamp, rows, images: file.images() };
        Ok(Inspected { record, written: schema, seen: watch.seen })
    }
}
