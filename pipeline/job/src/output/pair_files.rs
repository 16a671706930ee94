//! Pair table writers: Parquet, WebDataset and JSON lines.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::format::webdataset::write::{Names, Shard};
use capfilt_tables::schema::recorded;
use datafusion::arrow::array::{AsArray, BooleanArray, new_null_array};
use datafusion::arrow::compute::{filter_record_batch, not, nullif};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use datafusion::parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::parquet::schema::types::ColumnPath;
use tempfile::TempPath;

use crate::checkpoint::manifest::Identity;
use crate::options::{Images, OutputFormat};
use crate::output::json_lines::as_lines;

/// Row group size limit: readers hold a row group's images in memory, and the writer its pages.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Page size of the image column. zstd stores a repeated image once only if both copies share a page, so pages are much
/// larger than an image.
const IMAGE_PAGE_BYTES: usize = 8 << 20;

/// Metadata key of the job's description.
pub(crate) const JOB_KEY: &str = "capfilt.job";

/// Columns, rows and encoding of the pair table's files.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    /// In-memory schema of the pairs.
    pub(crate) schema: SchemaRef,
    /// Schema recorded in the files for readers.
    pub(crate) recorded: Schema,
    properties: WriterProperties,
    images: Images,
    kept_only: bool,
    /// File format of the table.
    pub(crate) output: OutputFormat,
}

impl Format {
    /// Format for pairs of `schema`; `source` is the recorded schema of the source.
    pub(crate) fn new(
        schema: &Schema,
        source: &Schema,
        job: &Identity,
        kept_only: bool,
        output: OutputFormat,
    ) -> Result<Self> {
        let images = job.images;
        let job = serde_json::to_string(job).map_err(|e| Error::Internal(e.to_string()))?;
        let drop_image = images == Images::None;
        // All fields are nullable: a later source file may have NULLs where earlier ones had none, and the table has
        // one schema.
        let fields = schema.fields().iter().filter(|f| !(drop_image && f.name() == "image"));
        let schema =
            Schema::new(fields.map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<Field>>());
        let recorded = recorded(&schema, source);
        let level = ZstdLevel::try_new(3).map_err(|e| Error::Internal(e.to_string()))?;
        let image = ColumnPath::from("image");
        let has_date64 = schema.flattened_fields().iter().any(|field| *field.data_type() == DataType::Date64);
        let properties = WriterProperties::builder()
            .set_created_by(concat!("capfilt ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_key_value_metadata(Some(vec![
                // In memory the columns are views, which saves a copy of each image; the recorded schema has the plain
                // types.
                KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&recorded)),
                KeyValue::new(JOB_KEY.to_owned(), job),
            ]))
            // Copies of an image are adjacent, so zstd finds them without a dictionary; nobody queries the minimum of
            // an image column.
            .set_column_dictionary_enabled(image.clone(), false)
            .set_column_statistics_enabled(image.clone(), EnabledStatistics::None)
            .set_column_data_page_size_limit(image, IMAGE_PAGE_BYTES)
            // Store Date64 as a Parquet date: other readers would see its milliseconds as a plain number.
            .set_coerce_types(has_date64)
            .build();
        Ok(Self { schema: Arc::new(schema), recorded, properties, images, kept_only, output })
    }

    /// Names and types of the columns.
    pub(crate) fn columns(&self) -> Vec<(String, String)> {
        self.schema.fields().iter().map(|field| (field.name().clone(), field.data_type().to_string())).collect()
    }

    /// Errors on the first column that the file format cannot hold; each is tested with a row of NULL.
    pub(crate) fn check(&self) -> Result<()> {
        for field in self.schema.fields() {
            let schema = Arc::new(Schema::new(vec![Arc::clone(field)]));
            let row = RecordBatch::try_new(Arc::clone(&schema), vec![new_null_array(field.data_type(), 1)]);
            let row = row.map_err(|e| Error::Internal(e.to_string()))?;
            let one = Self { schema, ..self.clone() };
            let parquet =
                one.writer(io::sink()).and_then(|mut writer| writer.write(&row).and_then(|()| writer.finish()));
            let refused = match parquet {
                Err(e) => Some(("Parquet", e.to_string())),
                Ok(_) if !self.output.is_parquet() && field.name() != "image" => {
                    LineDelimitedWriter::new(io::sink()).write(&row).err().map(|e| ("JSON", e.to_string()))
                }
                Ok(_) => None,
            };
            if let Some((what, reason)) = refused {
                let (name, of) = (field.name(), field.data_type());
                return Err(Error::Column(format!(
                    "column {name} is {of}, which {what} files cannot hold ({reason}): cast it in the recipe, or leave it out"
                )));
            }
        }
        Ok(())
    }

    /// Projects pairs to the table's columns, drops images that are not wanted, and filters if only kept pairs are.
    pub(crate) fn shape(&self, pairs: RecordBatch) -> Result<RecordBatch> {
        self.try_shape(pairs).map_err(|e| Error::Internal(e.to_string()))
    }

    fn try_shape(&self, pairs: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let kept = pairs.column_by_name("kept").and_then(|c| c.as_boolean_opt()).cloned();
        let kept = kept.ok_or_else(|| ArrowError::SchemaError("no column kept".to_owned()))?;
        let columns = self.schema.fields().iter().map(|field| {
            let column = pairs.column_by_name(field.name());
            let column = column.ok_or_else(|| ArrowError::SchemaError(format!("no column {}", field.name())))?;
            if field.name() == "image" && self.images == Images::Kept {
                let dropped: BooleanArray = not(&kept)?;
                return nullif(column, &dropped);
            }
            Ok(Arc::clone(column))
        });
        let shaped = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)?;
        if self.kept_only { filter_record_batch(&shaped, &kept) } else { Ok(shaped) }
    }

    /// Creates a file of pairs at `path`.
    pub(crate) fn create(&self, output: OutputFormat, path: &Path) -> Result<PairFile> {
        let file = File::create(path).map_err(|e| Error::write(path, &e))?;
        let own = file.try_clone().map_err(|e| Error::write(path, &e))?;
        let writer = Writer::new(self, output, BufWriter::new(own)).map_err(|e| Error::write_parquet(path, &e))?;
        let path = TempPath::try_from_path(path).map_err(|e| Error::write(path, &e))?;
        Ok(PairFile { writer, file, path, pairs: 0 })
    }

    /// Size in bytes of a table file with these pairs; nothing is written to disk.
    pub(crate) fn measure(&self, pairs: &[RecordBatch]) -> Result<u64> {
        let mut counted = Counted(0);
        let measured = Writer::new(self, self.output, &mut counted).and_then(|mut writer| {
            pairs.iter().try_for_each(|batch| writer.write(batch))?;
            writer.close()
        });
        measured.map_err(|e| Error::Internal(format!("measuring pairs: {e}")))?;
        Ok(counted.0)
    }

    /// Creates a Parquet writer to `to`.
    pub(crate) fn writer<W: io::Write + Send>(&self, to: W) -> Result<ArrowWriter<W>, ParquetError> {
        let options = ArrowWriterOptions::new().with_properties(self.properties.clone()).with_skip_arrow_metadata(true);
        ArrowWriter::try_new_with_options(to, Arc::clone(&self.schema), options)
    }
}

/// A sink that counts bytes.
struct Counted(u64);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes pairs as one kind of file.
enum Writer<W: io::Write + Send> {
    Parquet(Box<ArrowWriter<W>>),
    WebDataset(Box<Shard<W>>),
    JsonLines(LineDelimitedWriter<W>),
}

impl<W: io::Write + Send> Writer<W> {
    fn new(format: &Format, output: OutputFormat, to: W) -> Result<Self, ParquetError> {
        Ok(match output {
            OutputFormat::Parquet | OutputFormat::Delta => Self::Parquet(Box::new(format.writer(to)?)),
            OutputFormat::WebDataset => Self::WebDataset(Box::new(Shard::new(to, Names::Provenance))),
            OutputFormat::JsonLines => Self::JsonLines(LineDelimitedWriter::new(to)),
        })
    }

    fn write(&mut self, pairs: &RecordBatch) -> Result<(), ParquetError> {
        match self {
            Self::Parquet(writer) => writer.write(pairs)?,
            Self::WebDataset(shard) => shard.write(pairs)?,
            Self::JsonLines(lines) => {
                as_lines(pairs).and_then(|pairs| lines.write(&pairs))?;
            }
        }
        Ok(())
    }

    /// Ends and flushes the file. The Parquet writer's `into_inner` would hide the cause of a failed write.
    fn close(self) -> Result<(), ParquetError> {
        match self {
            Self::Parquet(writer) => drop(writer.close()?),
            Self::WebDataset(shard) => shard.end()?.flush()?,
            Self::JsonLines(mut lines) => {
                lines.finish()?;
                lines.into_inner().flush()?;
            }
        }
        Ok(())
    }
}

/// An open file of pairs, removed if dropped before `end`.
pub(crate) struct PairFile {
    writer: Writer<BufWriter<File>>,
    file: File,
    /// Removed if dropped.
    path: TempPath,
    pairs: u64,
}

impl PairFile {
    /// Adds pairs of the format's schema.
    pub(crate) fn write(&mut self, pairs: &RecordBatch) -> Result<()> {
        self.pairs += pairs.num_rows() as u64;
        self.writer.write(pairs).map_err(|e| Error::write_parquet(&self.path, &e))
    }

    /// Adds a key-value pair to the metadata of a Parquet file.
    pub(crate) fn note(&mut self, key: &str, value: String) {
        if let Writer::Parquet(writer) = &mut self.writer {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
    }

    /// Closes and syncs the file, which keeps its name. Returns its number of pairs and its size in bytes.
    pub(crate) fn end(self) -> Result<(u64, u64)> {
        let Self { writer, file, path, pairs } = self;
        let end = || {
            writer.close()?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        };
        let bytes = end().map_err(|e| Error::write_parquet(&path, &e))?;
        path.keep().map_err(|e| Error::write(&e.path, &e.error))?;
        Ok((pairs, bytes))
    }
}

/// Reads pairs of the in-memory schema `schema`, `rows` at a time.
pub(crate) fn read(path: &Path, schema: &SchemaRef, rows: usize) -> Result<ParquetRecordBatchReader> {
    let broken = |e: &dyn std::fmt::Display| Error::dest(path, format!("cannot read: {e}"));
    let file = File::open(path).map_err(|e| broken(&e))?;
    let options = ArrowReaderOptions::new().with_schema(Arc::clone(schema));
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options);
    reader.and_then(|reader| reader.with_batch_size(rows).build()).map_err(|e| broken(&e))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array as _, ArrayRef, BinaryViewArray, StringArray};

    use super::*;
    use crate::checkpoint::manifest::identity;

    /// Incompressible bytes, different for each seed.
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

    /// Two texts for each image; the second of each is dropped.
    fn pairs(images: &[Vec<u8>]) -> RecordBatch {
        let image: BinaryViewArray = images.iter().flat_map(|i| [Some(i), Some(i)]).collect();
        let kept: BooleanArray = images.iter().flat_map(|_| [Some(true), Some(false)]).collect();
        let text: StringArray = images.iter().flat_map(|_| [Some("web"), Some("synthetic")]).collect();
        let columns: [(&str, ArrayRef); 3] =
            [("source", Arc::new(text)), ("kept", Arc::new(kept)), ("image", Arc::new(image))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// Writes the pairs. Returns the file's rows, schema and size.
    fn written(batches: &[RecordBatch], images: Images, kept_only: bool) -> (RecordBatch, Schema, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.parquet");
        let source = Schema::new(vec![Field::new("image", DataType::LargeBinary, true)]);
        let job = Identity { images, ..identity() };
        let format = Format::new(&batches[0].schema(), &source, &job, kept_only, OutputFormat::Parquet).unwrap();
        let mut file = format.create(OutputFormat::Parquet, &path).unwrap();
        for batch in batches {
            file.write(&format.shape(batch.clone()).unwrap()).unwrap();
        }
        let (_, bytes) = file.end().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let schema = reader.schema().as_ref().clone();
        let rows: Vec<_> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
        (datafusion::arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap(), schema, bytes)
    }

    #[test]
    fn dropped_pairs_carry_no_image() {
        let batch = pairs(&[noise(1, 100)]);
        let (rows, schema, _) = written(std::slice::from_ref(&batch), Images::Kept, false);
        // Readers see the source's own type, not a view.
        assert_eq!(schema.field_with_name("image").unwrap().data_type(), &DataType::LargeBinary);
        let images = rows.column_by_name("image").unwrap().as_binary::<i64>();
        assert_eq!(images.value(0), batch.column_by_name("image").unwrap().as_binary_view().value(0));
        assert!(images.is_null(1));
        assert_eq!(written(std::slice::from_ref(&batch), Images::Kept, true).0.num_rows(), 1);
        assert!(written(&[batch], Images::None, false).0.column_by_name("image").is_none());
    }

    #[test]
    fn the_second_copy_of_an_image_costs_little() {
        let images: Vec<_> = (0..24).map(|n| noise(n, 300_000)).collect();
        let batches: Vec<_> = images.chunks(8).map(pairs).collect();
        let (_, _, bytes) = written(&batches, Images::All, false);
        let share = bytes as f64 / (24 * 300_000) as f64;
        assert!(share < 1.1, "{share}");
    }

    #[test]
    fn a_full_disk_is_named_in_every_format() {
        struct FullDisk;
        impl io::Write for FullDisk {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let row =
            [("source", text("web")), ("text", text("a")), ("kept", Arc::new(BooleanArray::from(vec![true])) as _)];
        let row = RecordBatch::try_from_iter(row).unwrap();
        for output in [OutputFormat::Parquet, OutputFormat::JsonLines] {
            let job = Identity { images: Images::None, ..identity() };
            let format = Format::new(&row.schema(), &row.schema(), &job, false, output).unwrap();
            let written = Writer::new(&format, output, FullDisk);
            let written = written.and_then(|mut writer| writer.write(&row).and_then(|()| writer.close()));
            let said = Error::write_parquet(Path::new("x"), &written.err().unwrap()).to_string();
            assert!(said.contains("the disk is full"), "{output:?}: {said}");
        }
    }

    #[test]
    fn what_is_not_ended_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.parquet");
        let batch = pairs(&[noise(1, 100)]);
        let job = identity();
        let format = Format::new(&batch.schema(), &batch.schema(), &job, false, OutputFormat::Parquet).unwrap();
        drop(format.create(OutputFormat::Parquet, &path).unwrap());
        assert!(!path.exists());
    }
}
