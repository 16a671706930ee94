//! Detects local files that change while they are read. For objects the store's tags do that.

use std::{fs, io};

use crate::error::{Error, Result};
use crate::file::{DataFile, Seen};

impl DataFile {
    /// Current metadata; `None` unless it is a local file.
    pub(crate) fn seen(&self) -> io::Result<Option<Seen>> {
        if let Self::Local(path) = self { Ok(Some(Seen::of(&fs::metadata(path)?))) } else { Ok(None) }
    }
}

/// Watches a file while it is read.
pub(crate) struct Watch<'a> {
    place: &'a DataFile,
    pub(crate) seen: Option<Seen>,
}

impl<'a> Watch<'a> {
    /// Begins the watch; must be called before the file is opened.
    ///
    /// # Errors
    /// Fails if the file has changed since it was inspected as `looked`.
    pub(crate) fn begin(place: &'a DataFile, looked: Option<Seen>) -> Result<Self> {
        let Some(looked) = looked else {
            let seen = place.seen().map_err(|e| Error::source(place.shown(), e))?;
            return Ok(Self { place, seen });
        };
        let this = Self { place, seen: this_is(place)? };
        if this.seen.is_some_and(|now| now.is_as(&looked)) { Ok(this) } else { Err(this.changed()) }
    }

    /// Confirms that everything read so far belongs to the file as it was when the watch began.
    ///
    /// # Errors
    /// Fails if the file was modified or replaced.
    pub(crate) fn check(&self) -> Result<()> {
        match (&self.seen, this_is(self.place)?) {
            // The watched file is open, so its inode cannot be reused.
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

fn this_is(place: &DataFile) -> Result<Option<Seen>> {
    place.seen().map_err(|e| Error::source(place.shown(), format!("it changed while it was read: {e}")))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_change_of_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let place = DataFile::Local(path.clone());
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
        // Another file of the same size and time in its place.
        fs::rename(&path, folder.path().join("b.jsonl")).unwrap();
        assert!(watch.check().is_err());
        written("new", 1000);
        #[cfg(unix)]
        assert!(watch.check().is_err());
    }
}
