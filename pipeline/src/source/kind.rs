//! Kinds of files.

use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use datafusion::arrow::datatypes::{Schema, SchemaRef};

use super::place::Place;
use super::rows::Rows;
use super::text::Text;
use super::{FileRecord, images, parquet, tar};
use crate::error::Result;

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
        let mut begin = [0; 4];
        let read = place.open().and_then(|mut file| file.read_exact(&mut begin));
        let is_parquet = match read {
            Ok(()) => begin == *b"PAR1",
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => false,
            Err(e) => return Err(place.error(|| format!("cannot read: {e}"))),
        };
        if is_parquet {
            return Ok(Self::Parquet);
        }
        Err(place.error(|| match ending.as_str() {
            "gz" | "bz2" | "xz" | "zst" => "it is compressed, and a job goes on in the middle of a file: unpack it".to_owned(),
            _ => "what it is cannot be told: name it .parquet, .tar (WebDataset), .csv or .jsonl (a JSON object on each line); of images give \
                  their folder"
                .to_owned(),
        }))
    }

    /// Rows and fingerprint of a file, and its schema as written.
    pub(super) fn look(self, root: &Path, place: &Place) -> Result<(FileRecord, SchemaRef)> {
        match self {
            Self::Parquet => parquet::look(root, place),
            Self::WebDataset => tar::look(root, place),
            Self::Text(text) => text.look(root, place),
            Self::Images => match place {
                Place::Folder(folder) => images::look(folder),
                _ => Err(place.error(|| ALONE.to_owned())),
            },
        }
    }

    /// The rows of `ranges` (first row and number of rows, sorted), in batches of at most `most` rows that may span two ranges.
    pub(super) fn read(
        self,
        place: &Place,
        written: &Schema,
        ranges: &[(u64, u64)],
        most: usize,
    ) -> Result<Batches, String> {
        match self {
            Self::Parquet => parquet::read(place, ranges, most),
            Self::WebDataset => tar::read(place, ranges, most),
            Self::Text(text) => text.read(place, written, ranges, most),
            Self::Images => match place {
                Place::Folder(folder) => Ok(images::read(folder, ranges, most)),
                _ => Err(ALONE.to_owned()),
            },
        }
    }
}
