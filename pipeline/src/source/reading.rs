//! What a job that has begun knows of its source's files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{FileRecord, Memo, Source, SourceFile};
use crate::error::{Error, Result};
use crate::halt::Halt;
use crate::paths::MOST_IMAGE_BYTES;

/// What else is known of a source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading<'a> {
    /// Files that a job has begun with: they come first, and what they are like decides the types.
    pub(crate) known: &'a [FileRecord],
    /// What spares another look at some of them.
    pub(crate) memos: Option<&'a BTreeMap<String, Memo>>,
    /// The others are left out, and not even looked at.
    pub(crate) alone: bool,
    /// Columns that are text, even where CSV or JSON has numbers in them.
    pub(crate) texts: &'a [&'a str],
    /// An image that is a file or a member of its own is not read where it is larger.
    pub(crate) limit: Option<u64>,
    /// Set when nobody waits for the source any more.
    pub(crate) halt: Option<&'a Halt>,
}

impl Reading<'_> {
    pub(super) fn most_image_bytes(&self) -> u64 {
        self.limit.unwrap_or(MOST_IMAGE_BYTES)
    }
}

/// Puts the files that are `known` first, in that order; with `alone` leaves the others out, unless all are others: of another
/// source altogether, a job is refused by its name.
pub(super) fn order<T>(files: &mut Vec<T>, name: impl Fn(&T) -> String, known: &[FileRecord], alone: bool) {
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

    /// Whether it has these files and no others.
    pub(crate) fn is_of(&self, known: &[FileRecord]) -> bool {
        let there = self.by_name();
        known.len() == self.files.len()
            && known.iter().all(|record| there.get(record.name.as_str()).is_some_and(|file| file.record == *record))
    }

    /// Puts the files in the order of `known`, which comes first; what it does not name follows in the order of the names. Errors
    /// where a known file is gone or has changed.
    pub(crate) fn reorder(&mut self, known: &[FileRecord]) -> Result<()> {
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

    /// Of the files that a job knew, lets those from number `begun` on, of which it has taken no row, be what they are now. True
    /// where one is another than it was.
    pub(crate) fn take_over(&self, known: &mut [FileRecord], begun: usize) -> bool {
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
