//! Files of a disk that change while they are read. Of objects the store's tags tell it.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use datafusion::arrow::datatypes::SchemaRef;

use super::place::Place;
use super::{FileRecord, Kind};
use crate::error::{Error, Result};
use crate::halt::Halt;
use crate::webdataset::Passed;

/// What tells a file from what it is after a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) bytes: u64,
    pub(super) modified: Option<SystemTime>,
    /// Its device and number. Some file systems of networks give a file another one each time it is opened.
    node: Option<(u64, u64)>,
}

impl Seen {
    fn of(meta: &Metadata) -> Self {
        #[cfg(unix)]
        let node = {
            use std::os::unix::fs::MetadataExt as _;
            Some((meta.dev(), meta.ino()))
        };
        #[cfg(not(unix))]
        let node = None;
        Self { bytes: meta.len(), modified: meta.modified().ok(), node }
    }

    fn is_as(&self, other: &Self) -> bool {
        (self.bytes, self.modified) == (other.bytes, other.modified)
    }
}

impl Place {
    /// What it is like now; `None` where it is no file of a disk.
    pub(super) fn seen(&self) -> io::Result<Option<Seen>> {
        match self {
            Self::Local(path) => fs::metadata(path).map(|meta| Some(Seen::of(&meta))),
            Self::Remote(_) | Self::Folder(_) => Ok(None),
        }
    }
}

/// A file while it is read.
pub(super) struct Watch<'a> {
    place: &'a Place,
    seen: Option<Seen>,
}

impl<'a> Watch<'a> {
    /// Begins before the file is opened.
    ///
    /// # Errors
    /// A file that is no longer what it was when it was `looked` at.
    pub(super) fn begin(place: &'a Place, looked: Option<Seen>) -> Result<Self> {
        let Some(looked) = looked else {
            let seen = place.seen().map_err(|e| Error::source(place.shown(), e))?;
            return Ok(Self { place, seen });
        };
        let this = Self { place, seen: this_is(place)? };
        if this.seen.is_some_and(|now| now.is_as(&looked)) { Ok(this) } else { Err(this.changed()) }
    }

    /// What was read before this call is of the file as it was when the watch began.
    ///
    /// # Errors
    /// A file that was written to, or that another one has taken the place of.
    pub(super) fn check(&self) -> Result<()> {
        match (&self.seen, this_is(self.place)?) {
            // The watched file is open, and keeps its number.
            (Some(before), Some(now)) if !now.is_as(before) || now.node != before.node => Err(self.changed()),
            _ => Ok(()),
        }
    }

    fn changed(&self) -> Error {
        let reason = "it changed while it was read: put the old file back and give the same command again, or give --overwrite or another \
                      folder";
        Error::source(self.place.shown(), reason)
    }
}

fn this_is(place: &Place) -> Result<Option<Seen>> {
    place.seen().map_err(|e| Error::source(place.shown(), format!("it changed while it was read: {e}")))
}

/// What goes along while files are looked at.
#[derive(Debug, Default)]
pub(super) struct Looking {
    pub(super) halt: Halt,
    /// Members of tar files that are passed over.
    pub(super) passed: Mutex<Passed>,
}

impl Looking {
    pub(super) fn until(halt: Option<&Halt>) -> Self {
        Self { halt: halt.cloned().unwrap_or_default(), passed: Mutex::default() }
    }

    /// Warns of what was passed over in all files.
    pub(super) fn warn(&self) {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).warn();
    }
}

/// What a look at a file found.
pub(super) struct Looked {
    pub(super) record: FileRecord,
    /// As the file says.
    pub(super) written: SchemaRef,
    pub(super) seen: Option<Seen>,
}

impl Kind {
    /// Rows, fingerprint and schema of a file that stays as it is meanwhile.
    pub(super) fn looked(self, root: &Path, place: &Place, looking: &Looking) -> Result<Looked> {
        looking.halt.check()?;
        let watch = Watch::begin(place, None)?;
        let found = self.look(root, place, looking);
        // Readers have their own words for an input that breaks off.
        looking.halt.check()?;
        watch.check()?;
        let (record, written) = found?;
        Ok(Looked { record, written, seen: watch.seen })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_change_of_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let place = Place::Local(path.clone());
        let written = |text: &str, after: u64| {
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(after);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        written("old", 1000);
        let looked = place.seen().unwrap();
        let watch = Watch::begin(&place, looked).unwrap();
        watch.check().unwrap();
        for (text, after) in [("new", 1001), ("longer", 1000)] {
            written(text, after);
            assert!(watch.check().unwrap_err().to_string().contains("a.jsonl: it changed while it was read"));
            assert!(Watch::begin(&place, looked).is_err());
            written("old", 1000);
            watch.check().unwrap();
        }
        // Another file in its place, of the same size and time.
        fs::rename(&path, folder.path().join("b.jsonl")).unwrap();
        assert!(watch.check().is_err());
        written("new", 1000);
        #[cfg(unix)]
        assert!(watch.check().is_err());
    }
}
