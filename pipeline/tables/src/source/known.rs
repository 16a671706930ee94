//! Reconciliation of a source's files with those that a started job knows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::halt::Halt;
use crate::image_root::MOST_IMAGE_BYTES;
use crate::source::files::{FileRecord, Source, SourceFile};
use crate::source::memo::Memo;

/// Options for opening a source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading<'a> {
    /// Files that a job began with: they come first and determine the types.
    pub known: &'a [FileRecord],
    /// Cached inspections, by file name.
    pub memos: Option<&'a BTreeMap<String, Memo>>,
    /// Whether other files are left out, without inspecting them.
    pub alone: bool,
    /// Columns that are text, even if their values in CSV or JSON are numbers.
    pub texts: &'a [&'a str],
    /// Maximum size of an image that is a file or tar member, bytes; a larger one is not read.
    pub limit: Option<u64>,
    /// Cancellation flag of the caller.
    pub halt: Option<&'a Halt>,
}

impl Reading<'_> {
    pub(crate) fn most_image_bytes(&self) -> u64 {
        self.limit.unwrap_or(MOST_IMAGE_BYTES)
    }
}

/// Puts the `known` files first, in their order. With `alone` leaves the others out, unless no file is known: a job on
/// another source is refused by the source's name instead.
pub(crate) fn order<T>(files: &mut Vec<T>, name: impl Fn(&T) -> String, known: &[FileRecord], alone: bool) {
    let places: BTreeMap<&str, usize> =
        known.iter().enumerate().map(|(place, known)| (known.name.as_str(), place)).collect();
    let place = |file: &T| places.get(name(file).as_str()).copied();
    if alone && files.iter().any(|file| place(file).is_some()) {
        let new: Vec<String> = files.iter().filter(|file| place(file).is_none()).map(&name).collect();
        if let Some(first) = new.first() {
            let more = if new.len() > 1 { format!(" and {} more", new.len() - 1) } else { String::new() };
            log::warn!("{first}{more} came since the job began: --retry-failed leaves it out, --update takes it in");
        }
        files.retain(|file| place(file).is_some());
    }
    files.sort_by_cached_key(|file| place(file).unwrap_or(known.len()));
}

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
                let reason =
                    "it was part of the source, and is gone: put it back, or give --overwrite or another folder";
                Err(Error::source(path, reason))
            };
            let Some(file) = found.and_then(Option::take) else { return gone(self.root.join(&record.name)) };
            if let Some(image) = file.gone() {
                return gone(image);
            }
            if file.record != *record {
                return Err(Error::source(
                    file.place.shown(),
                    "it has changed since the job began: give --overwrite or another folder",
                ));
            }
            self.files.push(file);
        }
        self.files.extend(files.into_iter().flatten());
        self.numbers.take();
        Ok(())
    }

    /// Updates the `known` records from number `begun` on, from which the job has taken no row, to the current files.
    /// Returns whether any of them has changed.
    pub fn take_over(&self, known: &mut [FileRecord], begun: usize) -> bool {
        let there = self.by_name();
        let mut changed = false;
        for record in known.iter_mut().skip(begun) {
            let now = there.get(record.name.as_str()).filter(|file| file.gone().is_none()).map(|file| &file.record);
            if let Some(now) = now.filter(|now| *now != record) {
                log::warn!("{}: it has changed, and is read as it is now; no row of it was taken yet", record.name);
                record.clone_from(now);
                changed = true;
            }
        }
        changed
    }
}
