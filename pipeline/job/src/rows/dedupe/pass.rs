//! A deduplication pass over a source.

use std::path::Path;
use std::sync::Arc;

use capfilt_tables::source::files::Source;
use capfilt_udfs::image::Limits;

use crate::rows::dedupe::options::Dedupe;

/// Deduplication criteria and columns.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) how: Dedupe,
    /// Column of images: bytes, or a struct that contains them.
    pub(crate) image_column: String,
    /// Whether the image column holds URLs or paths, which are then compared in place of the images.
    pub(crate) named: bool,
    pub(crate) text_column: String,
    /// The models' image limits: an image beyond them is not a usable picture here either.
    pub(crate) limits: Limits,
}

/// A deduplication pass over a source.
pub(crate) struct Pass<'a> {
    pub(crate) look: Arc<Look>,
    pub(crate) source: &'a Arc<Source>,
    /// `at` of each file's first row, followed by the total number of rows.
    pub(crate) starts: Vec<u64>,
    pub(crate) folder: &'a Path,
}

/// Version of the hashes, raised by each change of what is hashed or of what counts as a picture or a text.
pub(crate) const WAY: u32 = 3;
