//! Reconciliation of a source's files with those that a started job knows.

use std::collections::BTreeMap;

use crate::file_record::FileRecord;
use crate::halt::Halt;
use crate::source::memo::Memo;

/// Options for opening a source.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// Version of a Delta table, given as a number or a time; the latest if `None`.
    pub version: Option<&'a str>,
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
            log::warn!(
                "{first}{more} came since the job began: `capfilt retry` leaves it out, `capfilt update` takes it in"
            );
        }
        files.retain(|file| place(file).is_some());
    }
    files.sort_by_cached_key(|file| place(file).unwrap_or(known.len()));
}
