//! A folder of images: each with the text of a file of its name.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BinaryViewBuilder, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use super::{Batches, FileRecord};
use crate::error::{Error, Result};
use crate::load::MOST_IMAGE_BYTES;

/// A batch ends here, however few rows it has.
const BATCH_BYTES: usize = 64 << 20;
const EXTENSIONS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// Whether a file is an image by its name.
pub(super) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.contains(&e.to_string_lossy().to_ascii_lowercase().as_str()))
}

/// Whether a file may be an image's text.
pub(super) fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "txt" || e == "TXT")
}

/// The images of a folder and no deeper, by name.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && is_image(&path) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Where an image's text is, if it has one.
fn beside(image: &Path) -> PathBuf {
    let text = image.with_extension("txt");
    let upper = image.with_extension("TXT");
    if !text.exists() && upper.exists() { upper } else { text }
}

/// Names, sizes and times of the images and their texts.
pub(super) fn look(root: &Path, folder: &Path) -> Result<(FileRecord, SchemaRef)> {
    let look = || {
        let (mut bytes, mut digest) = (0, Sha256::new());
        let images = list(folder)?;
        for path in &images {
            for path in [path.clone(), beside(path)] {
                let meta = match fs::metadata(&path) {
                    Ok(meta) => meta,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                let since = meta.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                bytes += meta.len();
                digest.update(path.file_name().unwrap_or_default().as_encoded_bytes());
                digest.update(meta.len().to_le_bytes());
                digest.update(since.as_nanos().to_le_bytes());
            }
        }
        Ok((images.len() as u64, bytes, hex::encode(&digest.finalize()[..8])))
    };
    let (rows, bytes, stamp) = look().map_err(|e| Error::source(folder, e))?;
    let name = folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned();
    let name = if name.is_empty() { ".".to_owned() } else { name };
    let schema = Schema::new(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("image", DataType::Binary, true),
        Field::new("text", DataType::Utf8, true),
    ]);
    Ok((FileRecord { name, bytes, stamp, rows }, Arc::new(schema)))
}

/// The images of `ranges`, as [`super::Kind::read`] has them.
pub(super) fn read(folder: &Path, ranges: &[(u64, u64)], most: usize) -> Result<Batches, String> {
    let images = list(folder).map_err(|e| e.to_string())?;
    let wanted = ranges.iter().flat_map(|(start, rows)| *start..start + rows);
    let paths = wanted.map(|n| images.get(n as usize).cloned().ok_or("it has fewer images than when the job began"));
    let mut paths = paths.collect::<Result<Vec<_>, _>>()?.into_iter().peekable();
    Ok(Box::new(std::iter::from_fn(move || {
        paths.peek()?;
        Some(batch(&mut paths, most).map_err(|e| e.to_string()))
    })))
}

fn batch(paths: &mut impl Iterator<Item = PathBuf>, most: usize) -> Result<RecordBatch, Box<dyn std::error::Error>> {
    let (mut keys, mut images, mut texts) =
        (StringViewBuilder::new(), BinaryViewBuilder::new(), StringViewBuilder::new());
    let mut bytes = 0;
    let mut rows = 0;
    while rows < most && bytes < BATCH_BYTES {
        let Some(path) = paths.next() else { break };
        let named = |e: io::Error| format!("{}: {e}", path.display());
        keys.append_value(path.file_name().unwrap_or_default().to_string_lossy());
        let mut image = Vec::new();
        File::open(&path).and_then(|file| file.take(MOST_IMAGE_BYTES).read_to_end(&mut image)).map_err(named)?;
        (bytes, rows) = (bytes + image.len(), rows + 1);
        images.append_value(image);
        let beside = beside(&path);
        match fs::read(&beside) {
            Ok(text) => texts.append_value(String::from_utf8_lossy(&text).trim_start_matches('\u{feff}').trim()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => texts.append_null(),
            Err(e) => return Err(format!("{}: {e}", beside.display()).into()),
        }
    }
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("key", Arc::new(keys.finish()), false),
        ("image", Arc::new(images.finish()), true),
        ("text", Arc::new(texts.finish()), true),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}
