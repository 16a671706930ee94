//! Recovers, from the job's source, the images that a pair table left out.

use std::collections::BTreeMap;
use std::path::Path;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::file_record::FileRecord;
use capfilt_tables::image_root::Root;
use capfilt_tables::lake::register::find;
use capfilt_tables::limits::MOST_IMAGE_BYTES;
use capfilt_tables::source::cursor::Cursor;
use capfilt_tables::source::files::Source;
use capfilt_tables::source::known::OpenOptions;
use sha2::{Digest as _, Sha256};

use crate::checkpoint::manifest::Manifest;
use crate::options::ImageIs;

/// Number of image files in memory at a time.
const FILES: usize = 16;

/// A table's source, opened again.
pub(crate) struct Pictures {
    source: Source,
    /// Reader of the column of images, or of their paths.
    cursor: Cursor,
    /// Root folder of the image files, if the column holds paths.
    root: Option<Root>,
    /// Records of the source's files as the job read them, by name.
    known: BTreeMap<String, FileRecord>,
    /// Numbers of the files that exist now, by stamp.
    stamps: BTreeMap<String, usize>,
}

/// A wanted image: file and row in the source, and the SHA-256 recorded in the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) file: &'a str,
    pub(crate) row: u64,
    pub(crate) sha256: &'a str,
}

impl Pictures {
    /// Opens the source of the table written by `job`, at `source` if it has moved.
    ///
    /// # Errors
    /// Errors if the source is gone, or names its images by URL: a second fetch may return another picture.
    pub(crate) fn open(job: &Manifest, source: Option<&Path>) -> Result<Self> {
        let path = source.unwrap_or(&job.source);
        if job.job.image_is == ImageIs::Url {
            return Err(Error::source(path, "it has URLs, and nothing is fetched again for this"));
        }
        let version = match job.source_version {
            Some(version) if find(path)?.is_some() => Some(version.to_string()),
            _ => None,
        };
        let names = [job.job.image_column.as_str()];
        let is_path = job.job.image_is == ImageIs::Path;
        let texts = if is_path { &names[..] } else { &[] };
        let (version, memos) = (version.as_deref(), Some(&job.memos));
        let reading = OpenOptions { version, known: &job.files, memos, texts, ..OpenOptions::default() };
        let source = Source::open_as(path, reading)?;
        let root = || match &job.path_root {
            // A root inside the source has moved with it.
            Some(root) => match root.strip_prefix(&job.source) {
                Ok(below) => path.join(below),
                Err(_) => root.clone(),
            },
            None => source.root.clone(),
        };
        let root = if is_path { Some(Root::open(&root())?) } else { None };
        let known = job.files.iter().map(|record| (record.name.clone(), record.clone())).collect();
        // Of several files with the same stamp, use the first.
        let stamps = source.records().into_iter().enumerate().rev().map(|(number, record)| (record.stamp, number));
        let stamps = stamps.collect();
        Ok(Self { source, cursor: Cursor::new(job.job.image_column.clone()), root, known, stamps })
    }

    /// Current number of the file with this name at the time of the job; it may have been renamed since.
    fn number(&self, name: &str) -> Option<usize> {
        let renamed = || {
            let known = self.known.get(name)?;
            let number = *self.stamps.get(&known.stamp)?;
            let there = FileRecord { name: known.name.clone(), ..self.source.record(number).clone() };
            (there == *known).then_some(number)
        };
        self.source.number(name).or_else(renamed)
    }

    /// Calls `each` with the index in `wanted` and the bytes of each image that is present and unchanged. Calls in the
    /// order of the source read each file once, even a file that can only be read from its beginning.
    pub(crate) fn find(&mut self, wanted: &[Wanted<'_>], each: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        let mut files: BTreeMap<&str, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (number, one) in wanted.iter().enumerate() {
            files.entry(one.file).or_default().entry(one.row).or_default().push(number);
        }
        for (file, rows) in files {
            let Some(file) = self.number(file) else { continue };
            let numbers: Vec<u64> = rows.keys().copied().collect();
            let mut found = |numbers: &[usize], bytes: &[u8]| {
                let digest = hex::encode(Sha256::digest(bytes));
                let these = numbers.iter().filter(|number| wanted[**number].sha256 == digest);
                these.for_each(|number| each(*number, bytes));
            };
            let mut asking = rows.values();
            let Some(root) = &self.root else {
                self.cursor.read(&self.source, file, &numbers, &mut |bytes| {
                    if let (Some(numbers), Some(bytes)) = (asking.next(), bytes) {
                        found(numbers, bytes);
                    }
                })?;
                continue;
            };
            let mut names = Vec::with_capacity(rows.len());
            self.cursor.read(&self.source, file, &numbers, &mut |name| {
                names.push(name.and_then(|name| std::str::from_utf8(name).ok()).map(str::to_owned));
            })?;
            for names in names.chunks(FILES) {
                for (name, file) in names.iter().zip(root.read_now(names.to_vec(), MOST_IMAGE_BYTES)?) {
                    match (asking.next(), file) {
                        (Some(numbers), Some(Ok(bytes))) => found(numbers, &bytes),
                        // The caller reports the images it did not get.
                        (_, Some(Err(reason))) => log::warn!("{}: {reason}", name.as_deref().unwrap_or_default()),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}
