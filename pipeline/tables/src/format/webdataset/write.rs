//! Writer of samples into a tar file.

use std::io::{self, Write};

use capfilt_udfs::image::Limits;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use crate::adapt::image_bytes;

/// Naming scheme of a shard's samples.
#[derive(Debug)]
pub enum Names {
    /// By the column `key` (or `__key__`), else by number.
    Column,
    /// By the provenance and source of a pair, so that no two pairs share a name.
    Provenance,
}

/// A tar file that is being written.
pub struct Shard<W: Write> {
    pub(crate) builder: tar::Builder<W>,
    names: Names,
    samples: u64,
    last: String,
    same: u64,
}

impl<W: Write> Shard<W> {
    /// Begins a shard that is written to `writer`.
    pub fn new(writer: W, names: Names) -> Self {
        Self { builder: tar::Builder::new(writer), names, samples: 0, last: String::new(), same: 0 }
    }

    /// Adds a sample for each row: image and text as members of their own, the other columns as JSON.
    pub fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let find = |names: &[&str]| names.iter().find_map(|name| batch.schema_ref().index_of(name).ok());
        let pairs = matches!(self.names, Names::Provenance);
        let (image, text) = (find(&["image", "jpg", "png", "webp"]), find(&["text", "txt", "caption"]));
        let key = if pairs { None } else { find(&["key", "__key__"]) };
        // A column `json` is the JSON member itself if there are no other columns; otherwise it is one field of it.
        let alone = batch.num_columns() == 1 + [image, text, key].iter().flatten().count();
        let json = if alone { find(&["json"]) } else { None };
        let images = image.map(|at| image_bytes(batch.column(at))).transpose().map_err(wrong)?;
        let column = |at: Option<usize>| at.map(|at| strings(batch.column(at))).transpose().map_err(wrong);
        let (texts, jsons, keys) = (column(text)?, column(json)?, column(key)?);
        let rest: Vec<usize> =
            (0..batch.num_columns()).filter(|at| ![image, text, json, key].contains(&Some(*at))).collect();
        let others =
            if rest.is_empty() { Vec::new() } else { lines(&batch.project(&rest).map_err(wrong)?).map_err(wrong)? };
        for row in 0..batch.num_rows() {
            let name = match &self.names {
                Names::Provenance => self.pair_name(batch, row),
                Names::Column => keys.as_ref().and_then(|keys| keys.is_valid(row).then(|| plain(keys.value(row)))),
            };
            let name = name.filter(|name| !name.is_empty() && !name.ends_with('/'));
            let name = name.unwrap_or_else(|| format!("{:09}", self.samples));
            self.samples += 1;
            if let Some(bytes) = images.as_ref().filter(|i| i.is_valid(row)).map(|i| i.value(row)) {
                self.member(&format!("{name}.{}", extension(bytes)), bytes)?;
            }
            if let Some(text) = texts.as_ref().filter(|t| t.is_valid(row)).map(|t| t.value(row)) {
                self.member(&format!("{name}.txt"), text.as_bytes())?;
            }
            let given = jsons.as_ref().filter(|j| j.is_valid(row)).map(|j| j.value(row));
            if let Some(json) = given.or_else(|| others.get(row).map(String::as_str)) {
                self.member(&format!("{name}.json"), json.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    pub fn end(self) -> io::Result<W> {
        self.builder.into_inner()
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.builder.append_data(&mut header, name, bytes)
    }

    fn pair_name(&mut self, batch: &RecordBatch, row: usize) -> Option<String> {
        let from = batch.column_by_name("provenance")?.as_struct_opt()?;
        let file = cast(from.column_by_name("file")?, &DataType::Utf8View).ok()?;
        let number = from.column_by_name("row")?.as_primitive_opt::<Int64Type>()?.value(row);
        let source = cast(batch.column_by_name("source")?, &DataType::Utf8View).ok()?;
        let (file, source) = (file_key(file.as_string_view().value(row)), source.as_string_view().value(row));
        let name = plain(&format!("{file}-{number:09}-{source}"));
        self.same = if name == self.last { self.same + 1 } else { 0 };
        let unique = if self.same == 0 { name.clone() } else { format!("{name}-{}", self.same) };
        self.last = name;
        Some(unique)
    }
}

fn wrong(error: ArrowError) -> io::Error {
    io::Error::other(error)
}

/// Key prefix for a file's name, without slashes and dots. If another name would give the same prefix, such as
/// `a/b.parquet` and `a_b.parquet`, a digest is appended.
fn file_key(name: &str) -> String {
    let key = name.replace(['/', '.'], "_");
    if name.matches(['/', '_', '.']).count() <= usize::from(name.contains('.')) {
        return key;
    }
    format!("{key}-{}", hex::encode(&Sha256::digest(name)[..4]))
}

/// Replaces the dots in a key's last path component, where the first dot would end the key.
fn plain(key: &str) -> String {
    let base = key.rfind('/').map_or(0, |slash| slash + 1);
    format!("{}{}", &key[..base], key[base..].replace('.', "_"))
}

fn strings(column: &ArrayRef) -> Result<StringViewArray, ArrowError> {
    Ok(cast(column, &DataType::Utf8View)?.as_string_view().clone())
}

/// The rows as JSON objects.
fn lines(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let mut out = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut out);
    writer.write(batch)?;
    writer.finish()?;
    Ok(String::from_utf8_lossy(&out).lines().map(str::to_owned).collect())
}

/// Extension by the image's format; `img` if the format is unknown.
fn extension(bytes: &[u8]) -> &'static str {
    // Only the header is read, so no limit is needed.
    let any = Limits { max_bytes: u64::MAX, max_pixels: u64::MAX };
    match capfilt_udfs::image::info(bytes, &any).map(|info| info.format) {
        Ok("jpeg") => "jpg",
        Ok("tiff") => "tif",
        Ok(other) => other,
        Err(_) => "img",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{BinaryArray, Int64Array, StringArray};

    use super::*;

    #[test]
    fn files_have_keys_of_their_own() {
        assert_eq!(file_key("photos.parquet"), "photos_parquet");
        assert_eq!(file_key("photos"), "photos");
        let alike = ["a/b.parquet", "a_b.parquet", "a.b.parquet", "a/b_parquet", "a_b_parquet"];
        let keys: std::collections::BTreeSet<_> = alike.iter().map(|name| file_key(name)).collect();
        assert!(keys.len() == alike.len() && keys.iter().all(|key| !key.contains(['/', '.'])), "{keys:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut png = Vec::new();
        image::RgbImage::new(3, 2).write_to(&mut io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let columns: [(&str, ArrayRef); 4] = [
            ("key", Arc::new(StringArray::from(vec!["a.b/c.d", "e"]))),
            ("image", Arc::new(BinaryArray::from_opt_vec(vec![Some(&png), None]))),
            ("text", Arc::new(StringArray::from(vec![Some("ä"), None]))),
            ("n", Arc::new(Int64Array::from(vec![7, 8]))),
        ];
        let mut shard = Shard::new(Vec::new(), Names::Column);
        shard.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        let bytes = shard.end().unwrap();
        let sql = crate::format::contract::Reader::Sql;
        let read: Vec<_> =
            crate::format::webdataset::read::samples("x.tar".to_owned(), io::Cursor::new(bytes), vec![(0, 9)], 9, sql)
                .map(Result::unwrap)
                .collect();
        let text = |column: usize, row: usize| read[0].column(column).as_string_view().value(row).to_owned();
        assert_eq!((text(0, 0), text(2, 0), text(3, 0)), ("a.b/c_d".into(), "ä".into(), "{\"n\":7}".into()));
        assert_eq!(read[0].column(1).as_binary_view().value(0), png);
        assert!(read[0].column(1).is_null(1) && read[0].column(2).is_null(1));
    }
}
