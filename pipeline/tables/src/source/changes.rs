//! How a source differs from what a job knows of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::file_record::FileRecord;
use crate::source::files::{Source, SourceFile};
use crate::source::memo::Memo;

impl Source {
    fn by_name(&self) -> BTreeMap<&str, &SourceFile> {
        self.files.iter().map(|file| (file.record.name.as_str(), file)).collect()
    }

    /// Whether the source has exactly these files, unchanged.
    pub fn is_of(&self, known: &[FileRecord]) -> bool {
        let there = self.by_name();
        known.len() == self.files.len()
            && known.iter().all(|record| there.get(record.name.as_str()).is_some_and(|file| file.record == *record))
    }

    /// Puts the `known` files first, in their order; the others follow in the order of their names. Fails if a known
    /// file is gone or has changed.
    pub fn reorder(&mut self, known: &[FileRecord]) -> Result<()> {
        let mut files: Vec<Option<SourceFile>> = std::mem::take(&mut self.files).into_iter().map(Some).collect();
        let named = files.iter().flatten().enumerate().map(|(number, file)| (file.record.name.clone(), number));
        let numbers: BTreeMap<String, usize> = named.collect();
        for record in known {
            let found = numbers.get(&record.name).and_then(|number| files.get_mut(*number));
            let gone = |path: PathBuf| {
                let reason = "it was part of the source, and is gone: put it back, or write the table anew with `capfilt run --overwrite`";
                Err(Error::source(path, reason))
            };
            let Some(file) = found.and_then(Option::take) else { return gone(self.root.join(&record.name)) };
            if let Some(image) = file.gone() {
                return gone(image);
            }
            if file.record != *record {
                return Err(Error::source(
                    file.place.shown(),
                    "it has changed since the job began: put the old file back, or write the table anew with `capfilt run --overwrite`",
                ));
            }
            self.files.push(file);
        }
        self.files.extend(files.into_iter().flatten());
        self.numbers.take();
        Ok(())
    }

    /// Updates the `known` records of files that have changed but still have the same rows, to the current files: for a
    /// retry, which reads failed rows of them again and keeps the pairs of the others.
    pub fn take_mended(&self, known: &mut [FileRecord]) {
        let what = " since the table was made; failed rows are read from it as it is now, and the pairs of the other rows stay as they are";
        self.renew(known, FileRecord::has_rows_of, what);
    }

    /// Updates the `known` records from number `begun` on, from which the job has taken no row, to the current files.
    /// Returns whether any of them has changed.
    pub fn take_over(&self, known: &mut [FileRecord], begun: usize) -> bool {
        let known = known.get_mut(begun..).unwrap_or_default();
        self.renew(known, |_, _| true, ", and is read as it is now; no row of it was taken yet")
    }

    /// Updates `known` records to the current files where these differ and `may` replace them. Returns whether any does.
    fn renew(&self, known: &mut [FileRecord], may: fn(&FileRecord, &FileRecord) -> bool, what: &str) -> bool {
        let there = self.by_name();
        let mut changed = false;
        for record in known {
            let file = there.get(record.name.as_str()).filter(|file| file.gone().is_none());
            if let Some(file) = file.filter(|file| file.record != *record && may(&file.record, record)) {
                log::warn!("{}: it has changed{what}", file.place.shown().display());
                record.clone_from(&file.record);
                changed = true;
            }
        }
        changed
    }

    /// Cached inspections, by file name.
    pub fn memos(&self) -> BTreeMap<String, Memo> {
        let memo = |file: &SourceFile| Some((file.record.name.clone(), file.memo.clone()?));
        self.files.iter().filter_map(memo).collect()
    }
}
