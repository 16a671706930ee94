//! WebDataset shards as a file format: a row for each sample.

use std::io::{self, BufReader};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::file::DataFile;
use crate::format::contract::{About, FileFormat, FileInfo, FileWriter, Inspection, Scan};
use crate::format::rows::{Batches, Rows};
use crate::format::webdataset::read::{self, Counted};
use crate::format::webdataset::write::{Names, Shard};

/// Tar files of samples.
#[derive(Debug)]
pub(crate) struct WebDataset;

static ABOUT: About = About { inspects_all: false, ..About::new("WebDataset", &["tar"]) };

impl FileFormat for WebDataset {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    /// Schema without views, for output files.
    fn schema(&self) -> Option<SchemaRef> {
        let plain = read::SCHEMA.fields().iter().map(|field| {
            let to = if field.data_type() == &DataType::BinaryView { DataType::Binary } else { DataType::Utf8 };
            field.as_ref().clone().with_data_type(to)
        });
        Some(Arc::new(Schema::new(plain.collect::<Vec<Field>>())))
    }

    /// Counts the samples by the members' headers.
    fn inspect(&self, file: &DataFile, inspection: &Inspection) -> Result<FileInfo> {
        let unread = |e: io::Error| Error::source(file.shown(), e);
        let (bytes, input) = (file.bytes().map_err(unread)?, file.open().map_err(unread)?);
        let found = read::count(input, &inspection.halt).map_err(|e| file.error(|| e.to_string()))?;
        let Counted { samples: rows, digest, passed, goes_on } = found;
        if goes_on {
            log::warn!(
                "{}: bytes follow the end of its archive, as in tars joined by cat, and are not read: give each tar as a file",
                file.shown().display()
            );
        }
        inspection.pass(file, passed);
        let stamp = file.stamp().unwrap_or(digest);
        Ok(FileInfo { rows, bytes, stamp, schema: self.schema().unwrap_or_else(|| Arc::clone(&read::SCHEMA)) })
    }

    fn read(&self, file: &DataFile, scan: &Scan<'_>) -> Result<Batches, String> {
        let input = BufReader::new(file.open().map_err(|e| e.to_string())?);
        let name = file.shown().display().to_string();
        let batches = read::samples(name, input, scan.ranges.to_vec(), scan.batch_rows, scan.reader);
        Ok(Box::new(batches.map(|batch| batch.map(Rows::with_problems).map_err(|e| e.to_string()))))
    }

    fn writer(&self) -> Option<Box<dyn FileWriter>> {
        Some(Box::new(Shard::new(Vec::new(), Names::Column)))
    }
}

impl FileWriter for Shard<Vec<u8>> {
    fn write(&mut self, batch: &RecordBatch) -> io::Result<Vec<u8>> {
        Self::write(self, batch)?;
        Ok(std::mem::take(self.builder.get_mut()))
    }

    fn end(self: Box<Self>) -> io::Result<Vec<u8>> {
        Self::end(*self)
    }
}
