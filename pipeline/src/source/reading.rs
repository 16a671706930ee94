//! What a job that has begun knows of its source's files.

use std::collections::BTreeMap;

use super::FileRecord;

/// What else is known of a source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading<'a> {
    /// Files that a job has begun with: they come first, and what they are like decides the types.
    pub(crate) known: &'a [FileRecord],
    /// The others are left out, and not even looked at.
    pub(crate) alone: bool,
    /// Columns that are text, even where CSV or JSON has numbers in them.
    pub(crate) texts: &'a [&'a str],
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
