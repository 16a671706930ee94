//! Rows of a WebDataset shard, one for each sample.

use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::file::Place;
use crate::file_record::FileRecord;
use crate::format::rows::{Batches, Rows};
use crate::format::watch::Looking;
use crate::format::webdataset::read::{self, Counted, Reader};
use crate::image_names::ImageNames;

/// Record and schema, from the members' headers.
pub(crate) fn look(root: &Path, place: &Place, looking: &Looking) -> Result<(FileRecord, SchemaRef)> {
    let unread = |e: std::io::Error| Error::source(place.shown(), e);
    let (bytes, file) = (place.bytes().map_err(unread)?, place.open().map_err(unread)?);
    let found = read::count(file, &looking.halt).map_err(|e| place.error(|| e.to_string()))?;
    let Counted { samples: rows, digest, passed, goes_on } = found;
    if goes_on {
        log::warn!(
            "{}: bytes follow the end of its archive, as in tars joined by cat, and are not read: give each tar as a file",
            place.shown().display()
        );
    }
    looking.passed.lock().unwrap_or_else(PoisonError::into_inner).add(&place.shown().display().to_string(), passed);
    let stamp = place.stamp().unwrap_or(digest);
    Ok((FileRecord { name: place.name(root), bytes, stamp, rows, images: ImageNames::default() }, written()))
}

/// Whether the store confirms that the object still matches the record.
pub(crate) fn is_as(place: &Place, record: &FileRecord) -> bool {
    place.stamp().is_some_and(|stamp| stamp == record.stamp) && place.bytes().is_ok_and(|bytes| bytes == record.bytes)
}

/// Schema for output files, without views.
pub(crate) fn written() -> SchemaRef {
    let schema = read::schema();
    let plain = schema.fields().iter().map(|field| {
        let to = if field.data_type() == &DataType::BinaryView { DataType::Binary } else { DataType::Utf8 };
        field.as_ref().clone().with_data_type(to)
    });
    Arc::new(Schema::new(plain.collect::<Vec<Field>>()))
}

/// Samples of `ranges`; see [`crate::kind::Kind::read`].
pub(crate) fn read(
    place: &Place,
    ranges: &[(u64, u64)],
    most: usize,
    most_image_bytes: u64,
) -> Result<Batches, String> {
    let file = place.open().map_err(|e| e.to_string())?;
    let (name, file, of) =
        (place.shown().display().to_string(), BufReader::new(file), Reader::Job { most_image_bytes });
    let batches = read::samples(name, file, ranges.to_vec(), most, of);
    Ok(Box::new(batches.map(|batch| batch.map(Rows::with_problems).map_err(|e| e.to_string()))))
}
