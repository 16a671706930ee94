//! Options of a job that several of its parts read.

/// What to do if the destination already has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Refuse a finished table; resume an unfinished one.
    No,
    /// Replace it.
    Overwrite,
    /// Add the rows that the source has gained since.
    Update,
    /// Repeat the rows that failed because their image was unavailable.
    RetryFailed,
}

/// Which pairs carry their image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// Kept pairs only.
    Kept,
    /// All pairs.
    All,
    /// No pairs: the column is left out.
    None,
}

/// How a job is asked to stop early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not at all.
    No,
    /// After the current unit.
    AtUnit,
    /// Immediately.
    Now,
}

/// Contents of the source's image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageIs {
    /// The image's bytes, or a struct with them.
    Bytes,
    /// The image's URL, to be fetched.
    Url,
    /// The image's file path, relative to the root folder.
    Path,
}

/// File format of a pair table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Parquet.
    Parquet,
    /// WebDataset: tar files with a sample for each pair.
    WebDataset,
    /// Parquet files listed in a Delta log.
    Delta,
    /// JSON lines with the text as `caption` and without the image, as BLIP's authors published their datasets.
    JsonLines,
}

impl Parts {
    /// File name extension.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet | Self::Delta => "parquet",
            Self::WebDataset => "tar",
            Self::JsonLines => "jsonl",
        }
    }
}
