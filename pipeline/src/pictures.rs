//! Images that a pair table left out, from the job's source.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::error::Result;
use crate::source::{Lake, Source};

/// The source that a table was made of.
pub(crate) struct Pictures {
    source: Source,
    column: String,
}

/// Whose image is wanted: the source's file and row, and the sha256 that the table has of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) file: &'a str,
    pub(crate) row: u64,
    pub(crate) sha256: &'a str,
}

impl Pictures {
    /// At `version`, where the source is a Delta table.
    pub(crate) fn open(source: &Path, column: &str, version: Option<u64>) -> Result<Self> {
        let version = match version {
            Some(version) if Lake::find(source)?.is_some() => Some(version.to_string()),
            _ => None,
        };
        Ok(Self { source: Source::open_at(source, version.as_deref())?, column: column.to_owned() })
    }

    /// Reads each file once, and hands over the number and the image of each of `wanted` that is there as it was.
    pub(crate) fn find(&self, wanted: &[Wanted<'_>], each: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        let mut files: BTreeMap<&str, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (number, one) in wanted.iter().enumerate() {
            files.entry(one.file).or_default().entry(one.row).or_default().push(number);
        }
        for (file, rows) in files {
            let Some(file) = self.source.number(file) else { continue };
            let numbers: Vec<u64> = rows.keys().copied().collect();
            let mut asking = rows.values();
            self.source.images(file, &self.column, &numbers, &mut |bytes| {
                let (Some(numbers), Some(bytes)) = (asking.next(), bytes) else { return };
                let digest = hex::encode(Sha256::digest(bytes));
                numbers
                    .iter()
                    .filter(|number| wanted[**number].sha256 == digest)
                    .for_each(|number| each(*number, bytes));
            })?;
        }
        Ok(())
    }
}
