//! Kinds of source files, by what their names end in.

use std::fmt;
use std::path::Path;

/// Kind of a source's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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

/// Format of a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Csv,
    JsonLines,
}

/// Whether a file is an image, by its extension.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|e| IMAGES.contains(&e.to_string_lossy().to_ascii_lowercase().as_str()))
}

/// Whether a file may be an image's text.
pub(crate) fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "txt" || e == "TXT")
}

/// Extensions of image formats that are decoded.
pub(crate) const IMAGES: [&str; 11] = ["bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

impl Kind {
    /// Kind by extension. `.json` is excluded: such files lie beside a table's files and only describe them.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_string_lossy().to_ascii_lowercase().as_str() {
            "parquet" => Some(Self::Parquet),
            "tar" => Some(Self::WebDataset),
            "csv" => Some(Self::Text(Text::Csv)),
            "jsonl" | "ndjson" => Some(Self::Text(Text::JsonLines)),
            _ => None,
        }
    }
}
