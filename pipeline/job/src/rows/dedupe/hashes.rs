//! The first pass: hashes of each row.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use capfilt_tables::adapt::image_bytes;
use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use capfilt_tables::halt;
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::split::{RowPosition, Units};
use capfilt_udfs::engine::blocking;
use capfilt_udfs::image::phash;
use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, BinaryViewArray, FixedSizeBinaryBuilder, UInt64Array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use crate::rows::dedupe::pass::{Look, Pass};
use crate::rows::dedupe::sorted_files::{self, NewFile};
use crate::rows::dedupe::text_sketch::{self, Sketch};

/// File name prefix.
pub(crate) const PREFIX: &str = "hashes-";
/// Row number.
pub(crate) const AT: &str = "at";
/// Hash of the image's bytes and the text; NULL if there is no image, or if its perceptual hash is used instead.
pub(crate) const KEY: &str = "key";
/// Perceptual hash; NULL if not asked for or if the image cannot be decoded.
pub(crate) const LOOKS: &str = "looks";
/// Hash of the text's set; NULL if it has no words or its image is unusable. This column and the next two exist only
/// for `texts`.
pub(crate) const TEXT: &str = "text";
/// Elements of the text's set: little-endian u32.
pub(crate) const SET: &str = "set";
/// Bands of the MinHash signature: little-endian u64.
pub(crate) const BANDS: &str = "bands";

/// Rows hashed at a time.
const ROWS: usize = 64;
/// All rows, one unit per file.
const ALL: Units = Units { rows: u64::MAX, shard: 0, shards: 1 };

/// Schema of a hash file, with the text columns if `texts`.
pub(crate) fn schema(texts: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new(AT, DataType::UInt64, false),
        Field::new(KEY, DataType::FixedSizeBinary(32), true),
        Field::new(LOOKS, DataType::UInt64, true),
    ];
    if texts {
        fields.extend([
            Field::new(TEXT, DataType::UInt64, true),
            Field::new(SET, DataType::Binary, true),
            Field::new(BANDS, DataType::Binary, true),
        ]);
    }
    Arc::new(Schema::new(fields))
}

/// Hashes of a chunk.
struct Hashed {
    file: usize,
    /// Number of rows of the file that the chunk covers.
    count: u64,
    rows: RecordBatch,
}

/// A hash file being written.
struct Open {
    file: usize,
    count: u64,
    new: NewFile,
}

impl Pass<'_> {
    /// Hashes the files of the source in order, after skipping the leading ones that are done. Returns the paths of the
    /// hash files.
    pub(crate) async fn hash(&self, tell: &dyn Fn(u64)) -> Result<Vec<PathBuf>> {
        let records = self.source.records();
        let mut how = if self.look.how.near.is_none() { "exact" } else { "near" }.to_owned();
        if let Some(least) = self.look.how.texts {
            how = format!("{how}, {}", text_sketch::way(least));
        }
        let notes = records.iter().zip(&self.starts);
        let notes: Vec<String> =
            notes.map(|(record, start)| self.note(&how, std::slice::from_ref(record), *start)).collect();
        let is_whole = |file: &usize| {
            records[*file].rows == 0 || sorted_files::note(&self.path(*file)).as_ref() == Some(&notes[*file])
        };
        let first = (0..records.len()).find(|file| !is_whole(file)).unwrap_or(records.len());
        self.hash_from(RowPosition { file: first, row: 0 }, &notes, tell).await?;
        Ok((0..records.len()).filter(|file| records[*file].rows > 0).map(|file| self.path(file)).collect())
    }

    fn path(&self, file: usize) -> PathBuf {
        self.folder.join(format!("{PREFIX}{file:08}.parquet"))
    }

    async fn hash_from(&self, from: RowPosition, notes: &[String], tell: &dyn Fn(u64)) -> Result<()> {
        let mut done = self.source.rows() - self.source.rows_of(&ALL, from);
        tell(done);
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let mut chunks = self.source.read(ALL, from, ROWS);
        let hashing = stream::poll_fn(move |context| chunks.poll_recv(context)).map(|chunk| async {
            let (chunk, look) = (chunk?, Arc::clone(&self.look));
            let start = self.starts[chunk.unit.file];
            halt::aside(move |_| hash(&chunk, start, &look)).await
        });
        let mut hashing = pin!(hashing.buffered(workers));
        let mut open: Option<Open> = None;
        while let Some(hashed) = hashing.next().await {
            let Hashed { file, count, rows } = hashed?;
            if let Some(before) = open.take_if(|open| open.file != file) {
                self.end(before)?;
            }
            let open = match &mut open {
                Some(open) => open,
                none => {
                    let new = NewFile::create(&self.path(file), &rows.schema(), Some(&notes[file]))?;
                    none.insert(Open { file, count: 0, new })
                }
            };
            open.new.write(&rows)?;
            open.count += count;
            done += rows.num_rows() as u64;
            tell(done);
        }
        open.map_or(Ok(()), |last| self.end(last))?;
        if done < self.source.rows() {
            return Err(Error::Internal("the reading thread ended before the source did".to_owned()));
        }
        Ok(())
    }

    fn end(&self, Open { file, count, new }: Open) -> Result<()> {
        if count != self.starts[file + 1] - self.starts[file] {
            let name = self.source.name(file);
            return Err(Error::Internal(format!("{count} rows of {name} were hashed, and it has others")));
        }
        failpoint::point("hashes");
        blocking(|| new.end())?;
        failpoint::point("hashes-done");
        Ok(())
    }
}

/// Hashes a chunk's rows; `start` is the number of its file's first row.
fn hash(chunk: &Chunk, start: u64, look: &Look) -> Result<Hashed> {
    let internal = |e: &dyn std::fmt::Display| Error::Internal(format!("hashes: {e}"));
    let images = match look.named {
        true => names_of(&chunk.rows, &look.image_column)?,
        false => bytes_of(&chunk.rows, &look.image_column)?,
    };
    let texts = cast(find(&chunk.rows, &look.text_column)?, &DataType::Utf8View).map_err(|e| internal(&e))?;
    let texts = texts.as_string_view();
    let count = chunk.numbers.len();
    let mut keys = FixedSizeBinaryBuilder::with_capacity(count, 32);
    let mut looks = Vec::with_capacity(count);
    let mut sketches = Vec::with_capacity(count);
    for ((image, text), number) in images.iter().zip(texts).zip(&chunk.numbers) {
        // A failed row cannot be an original, or rows that repeat it would be lost with it.
        let Some(image) = image.filter(|_| !chunk.problems.contains_key(number)) else {
            keys.append_null();
            looks.push(None);
            sketches.push(None);
            continue;
        };
        let seen = look.how.near.and_then(|_| phash(image, &look.limits).ok());
        looks.push(seen.map(i64::cast_unsigned));
        if seen.is_some() {
            keys.append_null();
        } else {
            keys.append_value(key(image, text)).map_err(|e| internal(&e))?;
        }
        let sketch = look.how.texts.zip(text).and_then(|(least, text)| {
            // A row that will fail cannot be an original, or rows that repeat its text would be lost with it.
            let is_picture = || seen.is_some() || look.how.near.is_none() && phash(image, &look.limits).is_ok();
            Sketch::of(text, least).filter(|_| is_picture())
        });
        sketches.push(sketch);
    }
    let at: UInt64Array = chunk.numbers.iter().map(|number| start + number).collect();
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(at), Arc::new(keys.finish()), Arc::new(looks.into_iter().collect::<UInt64Array>())];
    if look.how.texts.is_some() {
        columns.extend(columns_of(&sketches));
    }
    let rows = RecordBatch::try_new(schema(look.how.texts.is_some()), columns).map_err(|e| internal(&e))?;
    Ok(Hashed { file: chunk.unit.file, count: chunk.count, rows })
}

/// Text columns of a hash file.
pub(crate) fn columns_of(sketches: &[Option<Sketch>]) -> [ArrayRef; 3] {
    let sketches = || sketches.iter().map(Option::as_ref);
    let ids: UInt64Array = sketches().map(|sketch| sketch.map(|sketch| sketch.id)).collect();
    let set = |sketch: &Sketch| sketch.set.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let bands = |sketch: &Sketch| sketch.bands.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let sets: BinaryArray = sketches().map(|sketch| sketch.map(set)).collect();
    let bands: BinaryArray = sketches().map(|sketch| sketch.map(bands)).collect();
    [Arc::new(ids), Arc::new(sets), Arc::new(bands)]
}

/// SHA-256 over an image and its text; a missing text differs from an empty one.
fn key(image: &[u8], text: Option<&str>) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(Sha256::digest(image));
    if let Some(text) = text {
        digest.update([1_u8]);
        digest.update(text.as_bytes());
    }
    digest.finalize().into()
}

fn find<'a>(rows: &'a RecordBatch, column: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(column).ok_or_else(|| Error::Column(format!("the source has no column {column:?}")))
}

/// Image names (URLs or paths) as bytes.
fn names_of(rows: &RecordBatch, column: &str) -> Result<BinaryViewArray> {
    let wrong = |e: &dyn std::fmt::Display| Error::Column(format!("column {column}: a URL or path must be Utf8: {e}"));
    let names = cast(find(rows, column)?, &DataType::Utf8View).map_err(|e| wrong(&e))?;
    Ok(names.as_string_view().clone().to_binary_view())
}

/// Image bytes.
fn bytes_of(rows: &RecordBatch, column: &str) -> Result<BinaryViewArray> {
    let wrong = |e: &dyn std::fmt::Display| {
        Error::Column(format!("column {column}: --dedupe takes images as bytes or a struct {{bytes, path}}: {e}"))
    };
    match find(rows, column)? {
        texts if texts.data_type().is_string() => Err(wrong(&format!("it is {}", texts.data_type()))),
        images => image_bytes(images).map_err(|e| wrong(&e)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use capfilt_udfs::image::Limits;
    use datafusion::arrow::array::{BinaryArray, StringArray};

    use super::*;

    #[test]
    fn equal_rows_have_equal_keys() {
        let rows = [
            (Some("a"), Some("x")),
            (Some("a"), Some("x")),
            (Some("a"), Some("y")),
            (Some("a"), None),
            (Some("a"), None),
            (Some("a"), Some("")),
            (Some("b"), Some("x")),
            (None, Some("x")),
            (Some("a"), Some("x")),
        ];
        let image: ArrayRef = Arc::new(rows.iter().map(|(image, _)| image.map(str::as_bytes)).collect::<BinaryArray>());
        let text: ArrayRef = Arc::new(rows.iter().map(|(_, text)| *text).collect::<StringArray>());
        let rows = RecordBatch::try_from_iter_with_nullable([("image", image, true), ("text", text, true)]).unwrap();
        let chunk = Chunk {
            unit: RowPosition { file: 3, row: 0 },
            row: 10,
            count: 9,
            rows,
            numbers: (10..19).collect(),
            problems: BTreeMap::from([(18, "column text: bytes that are not UTF-8".to_owned())]),
            previous: Vec::new(),
        };
        // None of the images can be decoded: keys are always computed, text columns are NULL.
        for how in ["exact", "near", "texts", "near,texts"] {
            let look = Look {
                how: how.parse().unwrap(),
                image_column: "image".to_owned(),
                named: false,
                text_column: "text".to_owned(),
                limits: Limits::default(),
            };
            let hashed = hash(&chunk, 100, &look).unwrap();
            assert_eq!((hashed.file, hashed.count), (3, 9));
            assert_eq!(
                sorted_files::numbers(&hashed.rows, 0).unwrap().values().to_vec(),
                (110..119).collect::<Vec<u64>>()
            );
            let keys: Vec<_> = hashed.rows.column(1).as_fixed_size_binary().iter().collect();
            assert_eq!((keys[0], keys[3], keys[7], keys[8]), (keys[1], keys[4], None, None));
            assert_eq!(keys.iter().flatten().collect::<BTreeSet<_>>().len(), 5);
            assert_eq!(hashed.rows.columns().len(), if how.contains("texts") { 6 } else { 3 });
            for column in 2..hashed.rows.num_columns() {
                assert_eq!(hashed.rows.column(column).null_count(), 9);
            }
        }
    }
}
