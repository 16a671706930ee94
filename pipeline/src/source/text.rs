//! Rows of CSV files and of files with a JSON object a line.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::csv::{self, reader::Format};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json;
use datafusion::arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use super::place::{Input, Place};
use super::{Batches, FileRecord, schema};
use crate::error::{Error, Result};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Csv,
    JsonLines,
}

impl Text {
    /// Reads the whole file: its rows, and types that hold all of them.
    pub(super) fn look(self, root: &Path, place: &Place) -> Result<(FileRecord, SchemaRef)> {
        let broken = |e: &dyn std::fmt::Display| place.error(|| format!("not {}: {e}", self.words()));
        let file = place.open().map_err(|e| Error::source(place.shown(), e))?;
        let mut file = Digested { file, digest: Sha256::new(), bytes: 0 };
        let (found, rows) = match self {
            Self::Csv => format().infer_schema(BufReader::new(&mut file), None),
            Self::JsonLines => json::reader::infer_json_schema(BufReader::new(&mut file), None),
        }
        .map_err(|e| broken(&plain(&e)))?;
        // A column without any value can hold what other files have.
        let typed = found.fields().iter().map(|field| match field.data_type() {
            DataType::Null => field.as_ref().clone().with_data_type(DataType::Utf8),
            _ => field.as_ref().clone(),
        });
        let schema = Schema::new(typed.collect::<Vec<Field>>());
        if schema.fields().is_empty() {
            return Err(broken(&"it has no columns"));
        }
        let stamp = place.stamp().unwrap_or_else(|| hex::encode(&file.digest.finalize()[..8]));
        Ok((FileRecord { name: place.name(root), bytes: file.bytes, stamp, rows: rows as u64 }, Arc::new(schema)))
    }

    /// The rows of `ranges`, as [`super::Kind::read`] has them.
    pub(super) fn read(
        self,
        place: &Place,
        written: &Schema,
        ranges: &[(u64, u64)],
        most: usize,
    ) -> Result<Batches, String> {
        let file = BufReader::with_capacity(1 << 20, place.open().map_err(|e| e.to_string())?);
        let schema = Arc::new(schema::as_views(written));
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>> = match self {
            Self::Csv => {
                let builder = csv::ReaderBuilder::new(schema).with_format(format()).with_batch_size(most);
                Box::new(builder.build_buffered(file).map_err(|e| plain(&e))?)
            }
            Self::JsonLines => {
                let builder = json::ReaderBuilder::new(schema).with_batch_size(most);
                Box::new(builder.build(file).map_err(|e| plain(&e))?)
            }
        };
        Ok(Box::new(Selected { batches, at: 0, ranges: ranges.to_vec().into(), rest: None }))
    }

    fn words(self) -> &'static str {
        match self {
            Self::Csv => "a CSV file with a header",
            Self::JsonLines => "a file with a JSON object on each line",
        }
    }
}

fn format() -> Format {
    Format::default().with_header(true)
}

/// Arrow's words without the name of the variant.
fn plain(error: &ArrowError) -> String {
    match error {
        ArrowError::CsvError(text) | ArrowError::JsonError(text) | ArrowError::ParseError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A file that is digested while it is read.
struct Digested {
    file: Box<dyn Input>,
    digest: Sha256,
    bytes: u64,
}

impl Read for Digested {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.digest.update(&into[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// The rows of some ranges of batches that follow each other.
struct Selected {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>,
    /// The number of the next batch's first row.
    at: u64,
    ranges: VecDeque<(u64, u64)>,
    rest: Option<(u64, RecordBatch)>,
}

impl Iterator for Selected {
    type Item = Result<RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let &(start, rows) = self.ranges.front()?;
        loop {
            let (at, batch) = match self.rest.take() {
                Some(rest) => rest,
                None => match self.batches.next()? {
                    Ok(batch) => {
                        let at = self.at;
                        self.at += batch.num_rows() as u64;
                        (at, batch)
                    }
                    Err(e) => return Some(Err(plain(&e))),
                },
            };
            let end = at + batch.num_rows() as u64;
            if end <= start {
                continue;
            }
            // Both lie within the batch.
            let from = start.max(at);
            let to = end.min(start + rows);
            let part = batch.slice((from - at) as usize, (to - from) as usize);
            if to < start + rows {
                self.ranges[0] = (to, start + rows - to);
            } else {
                self.ranges.pop_front();
                if end > to {
                    self.rest = Some((to, batch.slice((to - at) as usize, (end - to) as usize)));
                }
            }
            return Some(Ok(part));
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray as _;
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn ranges_are_cut_from_either_kind() {
        let folder = tempfile::tempdir().unwrap();
        let csv: String = (0..10).map(|n| format!("{n},\"row, {n}\"\n")).collect();
        let lines: String = (0..10).map(|n| format!("{{\"id\": {n}, \"text\": \"row, {n}\"}}\n\n")).collect();
        for (kind, name, text) in [(Text::Csv, "a.csv", format!("id,text\n{csv}")), (Text::JsonLines, "a.jsonl", lines)]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, &text).unwrap();
            let path = Place::Local(path);
            let (record, schema) = kind.look(folder.path(), &path).unwrap();
            assert_eq!((record.rows, record.bytes), (10, text.len() as u64), "{name}");
            assert_eq!(schema.field(0).data_type(), &DataType::Int64);
            let batches = kind.read(&path, &schema, &[(1, 4), (6, 1), (7, 3)], 3).unwrap();
            let rows: Vec<RecordBatch> = batches.collect::<Result<_, _>>().unwrap();
            let ids: Vec<i64> =
                rows.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
            assert_eq!(ids, [1, 2, 3, 4, 6, 7, 8, 9], "{name}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, text, words) in [
            (Text::Csv, "a,b\n1,2,3\n", "not a CSV file"),
            (Text::Csv, "", "no columns"),
            (Text::JsonLines, "[1, 2", "not a file with a JSON object"),
        ] {
            let path = folder.path().join("x");
            std::fs::write(&path, text).unwrap();
            let error = kind.look(folder.path(), &Place::Local(path)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
