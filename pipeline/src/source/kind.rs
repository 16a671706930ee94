//! Kinds of files.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use datafusion::arrow::datatypes::{Schema, SchemaRef};

use super::place::Place;
use super::rows::Rows;
use super::seen::Looking;
use super::text::Text;
use super::{FileRecord, images, parquet, tar};
use crate::error::Result;
use crate::webdataset;

/// Of what is an image, and no folder of them.
const ALONE: &str = "an image is read with its folder: give that";

/// What files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Parquet,
    WebDataset,
    Text(Text),
    /// Folders of images.
    Images,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "Parquet",
            Self::WebDataset => "WebDataset",
            Self::Text(Text::Csv) => "CSV",
            Self::Text(Text::JsonLines) => "JSON lines",
            Self::Images => "an image",
        })
    }
}

/// Rows that are read one after another.
pub(super) type Batches = Box<dyn Iterator<Item = Result<Rows, String>>>;

impl Kind {
    /// By what the name ends in. Beside a table's files in a folder lie some of .json, which tell of them.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_string_lossy().to_ascii_lowercase().as_str() {
            "parquet" => Some(Self::Parquet),
            "tar" => Some(Self::WebDataset),
            "csv" => Some(Self::Text(Text::Csv)),
            "jsonl" | "ndjson" => Some(Self::Text(Text::JsonLines)),
            _ => None,
        }
    }

    /// What a file that was named itself is: as [`Self::of`], .json too, and Parquet where its bytes begin so.
    pub(super) fn told(root: &Path, place: &Place) -> Result<Self> {
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
        Err(place.error(|| match webdataset::compressed(&begin) {
            Some(_) => "it is compressed, and a job goes on in the middle of a file: unpack it".to_owned(),
            None if is_packed => "it is compressed by its name, and a job goes on in the middle of a file: unpack it".to_owned(),
            None => "what it is cannot be told: name it .parquet, .tar (WebDataset), .csv or .jsonl (a JSON object on each line); of images give \
                  their folder"
                .to_owned(),
        }))
    }

    /// Rows and fingerprint of a file, and its schema as written.
    pub(super) fn look(self, root: &Path, place: &Place, looking: &Looking) -> Result<(FileRecord, SchemaRef)> {
        match self {
            Self::Parquet => parquet::look(root, place),
            Self::WebDataset => tar::look(root, place, looking),
            Self::Text(text) => text.look(root, place, &looking.halt),
            Self::Images => match place {
                Place::Folder(folder) => images::look(folder, &looking.halt),
                _ => Err(place.error(|| ALONE.to_owned())),
            },
        }
    }

    /// The rows of `ranges` (first row and number of rows, sorted), in batches of at most `most` rows that may span two ranges. Where
    /// an image is a file or a member of its own, it is not read if it has more than `most_image_bytes`.
    pub(super) fn read(
        self,
        place: &Place,
        written: &Schema,
        ranges: &[(u64, u64)],
        most: usize,
        most_image_bytes: u64,
    ) -> Result<Batches, String> {
        match self {
            Self::Parquet => parquet::read(place, ranges, most),
            Self::WebDataset => tar::read(place, ranges, most, most_image_bytes),
            Self::Text(text) => text.read(place, written, ranges, most),
            Self::Images => match place {
                Place::Folder(folder) => Ok(images::read(folder, ranges, most, most_image_bytes)),
                _ => Err(ALONE.to_owned()),
            },
        }
    }
}
