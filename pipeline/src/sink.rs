//! Writes the pair table, a file at a time, on a thread of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, BooleanArray};
use datafusion::arrow::compute::{filter_record_batch, not, nullif};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::parquet::schema::types::ColumnPath;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::dest::Dest;
use crate::error::{Error, Result};
use crate::run::Images;
use crate::source::recorded;

/// A reader holds a row group's images in memory, and the writer its pages.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// A larger file is cut, so that a job that fails late has whole files to show.
pub(crate) const FILE_BYTES: usize = 512 << 20;
/// An image and its copy share a page, or the second is stored whole: pages are large beside an image.
const IMAGE_PAGE_BYTES: usize = 8 << 20;

/// What is written of each pair.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) images: Images,
    pub(crate) kept_only: bool,
    pub(crate) overwrite: bool,
    /// From here on a file is cut.
    pub(crate) file_bytes: usize,
}

/// What a sink has written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Whole and in their place.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
    pub(crate) pairs: u64,
}

enum Message {
    Pairs { file: usize, pairs: RecordBatch },
    Finish,
}

/// The thread's end that the job holds. Dropped, it stops the thread, which removes what is not whole.
pub(crate) struct Sink {
    sender: mpsc::Sender<Message>,
    thread: JoinHandle<(Written, Result<()>)>,
}

impl Sink {
    /// Opens `dest` for pairs of `schema`, which come from a source that recorded `source`.
    pub(crate) fn open(dest: Dest, schema: &Schema, source: &Schema, layout: Layout) -> Result<Self> {
        let mut writer = Writer::new(dest, schema, source, layout)?;
        let (sender, mut receiver) = mpsc::channel(4);
        let thread = tokio::task::spawn_blocking(move || {
            let done = writer.work(&mut receiver);
            // What the writer had open goes with it, before the job hears of the end.
            (std::mem::take(&mut writer.written), done)
        });
        Ok(Self { sender, thread })
    }

    /// Writes pairs of the source's file number `file`. False: the thread has failed, and `close` says why.
    pub(crate) async fn write(&self, file: usize, pairs: RecordBatch) -> bool {
        self.sender.send(Message::Pairs { file, pairs }).await.is_ok()
    }

    /// Ends the last file, if `whole`, else removes what was begun. What has been written comes back in both cases.
    pub(crate) async fn close(self, whole: bool) -> (Written, Result<()>) {
        if whole {
            let _ = self.sender.send(Message::Finish).await;
        }
        drop(self.sender);
        match self.thread.await {
            Ok(ended) => ended,
            Err(e) => (Written::default(), Err(Error::Internal(format!("the writing thread ended: {e}")))),
        }
    }
}

struct Part {
    writer: ArrowWriter<File>,
    path: PathBuf,
    temp: PathBuf,
}

struct Writer {
    dest: Dest,
    schema: SchemaRef,
    properties: WriterProperties,
    layout: Layout,
    /// The file of the source that the open part belongs to.
    file: usize,
    open: Option<Part>,
    next: usize,
    /// Whole, but under their temporary names until the old table goes (`--overwrite`).
    pending: Vec<(PathBuf, PathBuf)>,
    written: Written,
}

impl Writer {
    fn new(dest: Dest, schema: &Schema, source: &Schema, layout: Layout) -> Result<Self> {
        let drop_image = layout.images == Images::None;
        let fields = schema.fields().iter().filter(|f| !(drop_image && f.name() == "image")).map(|field| {
            let nullable = field.is_nullable() || field.name() == "image";
            field.as_ref().clone().with_nullable(nullable)
        });
        let schema = Schema::new(fields.collect::<Vec<Field>>());
        let level = ZstdLevel::try_new(3).map_err(|e| Error::Internal(e.to_string()))?;
        let image = ColumnPath::from("image");
        let properties = WriterProperties::builder()
            .set_created_by(concat!("capfilt ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            // Arrays are written as views, to save a copy of each image; what readers are told is the plain type.
            .set_key_value_metadata(Some(vec![KeyValue::new(
                ARROW_SCHEMA_META_KEY.to_owned(),
                encode_arrow_schema(&recorded(&schema, source)),
            )]))
            // Images repeat only side by side, where zstd sees them; no query asks for the least image.
            .set_column_dictionary_enabled(image.clone(), false)
            .set_column_statistics_enabled(image.clone(), EnabledStatistics::None)
            .set_column_data_page_size_limit(image, IMAGE_PAGE_BYTES)
            .build();
        Ok(Self {
            dest,
            schema: Arc::new(schema),
            properties,
            layout,
            file: 0,
            open: None,
            next: 0,
            pending: Vec::new(),
            written: Written::default(),
        })
    }

    fn work(&mut self, messages: &mut mpsc::Receiver<Message>) -> Result<()> {
        let done = loop {
            match messages.blocking_recv() {
                Some(Message::Pairs { file, pairs }) => {
                    if let Err(error) = self.write(file, pairs) {
                        break Err(error);
                    }
                }
                Some(Message::Finish) => break self.finish(),
                None => break Err(Error::Interrupted),
            }
        };
        // No sender may wait for a thread that has stopped.
        messages.close();
        self.discard();
        done
    }

    fn write(&mut self, file: usize, pairs: RecordBatch) -> Result<()> {
        if file != self.file {
            self.end_part()?;
            self.file = file;
        }
        let pairs = self.shape(pairs).map_err(|e| Error::Internal(e.to_string()))?;
        if self.open.is_none() {
            self.open = Some(self.begin_part()?);
        }
        let Some(part) = &mut self.open else { return Ok(()) };
        part.writer.write(&pairs).map_err(|e| Error::write_parquet(&part.path, &e))?;
        self.written.pairs += pairs.num_rows() as u64;
        if part.writer.bytes_written() + part.writer.in_progress_size() >= self.layout.file_bytes {
            self.end_part()?;
        }
        Ok(())
    }

    /// The pairs and columns that are asked for.
    fn shape(&self, pairs: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let kept = pairs.column_by_name("kept").and_then(|c| c.as_boolean_opt()).cloned();
        let kept = kept.ok_or_else(|| ArrowError::SchemaError("no column kept".to_owned()))?;
        let columns = self.schema.fields().iter().map(|field| {
            let column = pairs.column_by_name(field.name());
            let column = column.ok_or_else(|| ArrowError::SchemaError(format!("no column {}", field.name())))?;
            if field.name() == "image" && self.layout.images == Images::Kept {
                let dropped: BooleanArray = not(&kept)?;
                return nullif(column, &dropped);
            }
            Ok(Arc::clone(column))
        });
        let shaped = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)?;
        if self.layout.kept_only { filter_record_batch(&shaped, &kept) } else { Ok(shaped) }
    }

    fn begin_part(&mut self) -> Result<Part> {
        let (path, temp) = self.dest.part(self.next);
        self.next += 1;
        let file = File::create(&temp).map_err(|e| Error::write(&path, &e))?;
        let options = ArrowWriterOptions::new().with_properties(self.properties.clone()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, Arc::clone(&self.schema), options);
        match writer {
            Ok(writer) => Ok(Part { writer, path, temp }),
            Err(e) => {
                let _ = fs::remove_file(&temp);
                Err(Error::write_parquet(&path, &e))
            }
        }
    }

    fn end_part(&mut self) -> Result<()> {
        let Some(part) = &mut self.open else { return Ok(()) };
        part.writer.finish().map_err(|e| Error::write_parquet(&part.path, &e))?;
        part.writer.inner().sync_all().map_err(|e| Error::write(&part.path, &e))?;
        self.written.bytes += part.writer.bytes_written() as u64;
        let (path, temp) = (part.path.clone(), part.temp.clone());
        if self.layout.overwrite {
            self.open = None;
            self.pending.push((path, temp));
            return Ok(());
        }
        fs::rename(&temp, &path).map_err(|e| Error::write(&path, &e))?;
        self.open = None;
        self.written.files.push(path);
        self.dest.sync()
    }

    fn finish(&mut self) -> Result<()> {
        if self.open.is_none() && self.next == 0 {
            // A table without rows is a table still.
            self.open = Some(self.begin_part()?);
        }
        self.end_part()?;
        if self.layout.overwrite {
            let old = self.dest.parts()?;
            for (path, temp) in std::mem::take(&mut self.pending) {
                fs::rename(&temp, &path).map_err(|e| Error::write(&path, &e))?;
                self.written.files.push(path);
            }
            for path in old.iter().filter(|path| !self.written.files.contains(path)) {
                fs::remove_file(path).map_err(|e| Error::write(path, &e))?;
            }
            self.dest.sync()?;
        }
        Ok(())
    }

    /// Removes what is not whole, or whole and not in its place.
    fn discard(&mut self) {
        let open = self.open.take().map(|part| part.temp);
        for temp in open.into_iter().chain(self.pending.drain(..).map(|(_, temp)| temp)) {
            if let Err(e) = fs::remove_file(&temp) {
                log::warn!("cannot remove {}: {e}", temp.display());
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.discard();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use datafusion::arrow::array::{Array as _, ArrayRef, BinaryViewArray, StringArray};
    use datafusion::arrow::datatypes::DataType;
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    /// Bytes that no codec makes smaller, other for each seed.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        };
        (0..length).map(|_| next()).collect()
    }

    /// Two texts for each image; the second of each is dropped where `drop_second`.
    fn pairs(images: &[Vec<u8>], drop_second: bool) -> RecordBatch {
        let image: BinaryViewArray = images.iter().flat_map(|i| [Some(i), Some(i)]).collect();
        let kept: BooleanArray = images.iter().flat_map(|_| [Some(true), Some(!drop_second)]).collect();
        let text: StringArray = images.iter().flat_map(|_| [Some("web"), Some("synthetic")]).collect();
        let columns: [(&str, ArrayRef); 3] =
            [("source", Arc::new(text)), ("kept", Arc::new(kept)), ("image", Arc::new(image))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn layout(images: Images) -> Layout {
        Layout { images, kept_only: false, overwrite: false, file_bytes: FILE_BYTES }
    }

    async fn write(folder: &Path, batches: &[RecordBatch], layout: Layout, whole: bool) -> Written {
        let source = Schema::new(vec![Field::new("image", DataType::LargeBinary, true)]);
        let dest = Dest::open(folder).unwrap();
        let sink = Sink::open(dest, &batches[0].schema(), &source, layout).unwrap();
        for batch in batches {
            assert!(sink.write(0, batch.clone()).await);
        }
        let (written, ended) = sink.close(whole).await;
        assert_eq!(ended.is_ok(), whole);
        written
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_large_file_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let batches: Vec<_> = (0..3).map(|n| pairs(&[noise(n, 100)], true)).collect();
        let written = write(folder.path(), &batches, Layout { file_bytes: 1, ..layout(Images::Kept) }, true).await;
        assert_eq!(names(folder.path()), ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]);
        assert_eq!((written.files.len(), written.pairs), (3, 6));
        for (batch, file) in batches.iter().zip(&written.files) {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
            // What other readers are told: the source's own type, and no views.
            assert_eq!(reader.schema().field_with_name("image").unwrap().data_type(), &DataType::LargeBinary);
            let rows: Vec<_> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
            let images = rows[0].column_by_name("image").unwrap().as_binary::<i64>();
            assert_eq!(images.value(0), batch.column_by_name("image").unwrap().as_binary_view().value(0));
            assert!(images.is_null(1), "a dropped pair has no image");
        }
    }

    #[tokio::test]
    async fn the_second_copy_of_an_image_costs_little() {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<_> = (0..24).map(|n| noise(n, 300_000)).collect();
        let batches: Vec<_> = images.chunks(8).map(|some| pairs(some, false)).collect();
        let written = write(folder.path(), &batches, layout(Images::All), true).await;
        let once = (24 * 300_000) as f64;
        let share = written.bytes as f64 / once;
        assert!(share < 1.1, "{share}");
    }

    #[tokio::test]
    async fn what_is_not_ended_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let batches = [pairs(&[noise(1, 100)], false), pairs(&[noise(2, 100)], false)];
        let written = write(folder.path(), &batches, layout(Images::All), false).await;
        assert!(written.files.is_empty());
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
        // Cut files that are whole stay, unless they were to replace others.
        let cut = Layout { file_bytes: 1, ..layout(Images::All) };
        assert_eq!(write(folder.path(), &batches, cut.clone(), false).await.files.len(), 2);
        let before = fs::read(folder.path().join("part-00000.parquet")).unwrap();
        let others = [pairs(&[noise(3, 100)], false), pairs(&[noise(4, 100)], false)];
        let replacing = Layout { overwrite: true, ..cut };
        assert!(write(folder.path(), &others, replacing.clone(), false).await.files.is_empty());
        assert!(before == fs::read(folder.path().join("part-00000.parquet")).unwrap());
        write(folder.path(), &others[..1], replacing, true).await;
        assert_eq!(names(folder.path()), ["part-00000.parquet"]);
        assert!(before != fs::read(folder.path().join("part-00000.parquet")).unwrap());
    }
}
