//! Kinds of source files.

use std::io::Read as _;
use std::path::Path;

use datafusion::arrow::datatypes::{Schema, SchemaRef};

use crate::error::Result;
use crate::file::Place;
use crate::file_record::FileRecord;
use crate::format::rows::Batches;
use crate::format::watch::Looking;
use crate::format::webdataset::{member, source};
use crate::format::{image_folder, parquet};
use crate::kind::{Kind, Text};

/// Error text for a single image given as a source.
const ALONE: &str = "an image is read with its folder: give that";

impl Kind {
    /// Kind of an explicitly named file: as [`Self::of`], but also `.json`, and Parquet by its magic bytes.
    pub(crate) fn told(root: &Path, place: &Place) -> Result<Self> {
        let path = place.below(root);
        if let Some(kind) = Self::of(path) {
            return Ok(kind);
        }
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if ending == "json" {
            return Ok(Self::Text(Text::JsonLines));
        }
        let mut begin = Vec::new();
        let read = place.open().and_then(|file| file.take(6).read_to_end(&mut begin));
        read.map_err(|e| place.error(|| format!("cannot read: {e}")))?;
        if begin.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        let is_packed = ["gz", "bz2", "xz", "zst", "tgz", "tbz2", "txz", "tzst"].contains(&ending.as_str());
        Err(place.error(|| match member::compressed(&begin) {
            Some(_) => "it is compressed, and a job goes on in the middle of a file: unpack it".to_owned(),
            None if is_packed => "it is compressed by its name, and a job goes on in the middle of a file: unpack it".to_owned(),
            None => "what it is cannot be told: name it .parquet, .tar (WebDataset), .csv or .jsonl (a JSON object on each line); of images give \
                  their folder"
                .to_owned(),
        }))
    }

    /// Record (rows, fingerprint) and declared schema of a file.
    pub(crate) fn look(self, root: &Path, place: &Place, looking: &Looking) -> Result<(FileRecord, SchemaRef)> {
        match self {
            Self::Parquet => parquet::look(root, place),
            Self::WebDataset => source::look(root, place, looking),
            Self::Text(text) => text.look(root, place, &looking.halt),
            Self::Images => match place {
                Place::Folder(folder) => image_folder::look(folder, &looking.halt),
                _ => Err(place.error(|| ALONE.to_owned())),
            },
        }
    }

    /// Rows of `ranges` (first row and number of rows, sorted), in batches of at most `most` rows that may span two
    /// ranges. An image that is a file or tar member of more than `most_image_bytes` is not read.
    pub(crate) fn read(
        self,
        place: &Place,
        written: &Schema,
        ranges: &[(u64, u64)],
        most: usize,
        most_image_bytes: u64,
    ) -> Result<Batches, String> {
        match self {
            Self::Parquet => parquet::read(place, ranges, most),
            Self::WebDataset => source::read(place, ranges, most, most_image_bytes),
            Self::Text(text) => text.read(place, written, ranges, most),
            Self::Images => match place {
                Place::Folder(folder) => Ok(image_folder::read(folder, ranges, most, most_image_bytes)),
                _ => Err(ALONE.to_owned()),
            },
        }
    }
}
