//! Rows of CSV and JSON lines files.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use sha2::{Digest as _, Sha256};

use crate::adapt::common;
use crate::error::{Error, Result};
use crate::file::DataFile;
use crate::format::contract::{About, FileFormat, FileInfo, InSql, Inspection, Scan, Unified};
use crate::format::rows::{Batches, select};
use crate::format::text::{csv, json};
use crate::halt::Halt;
use crate::schema;

/// Format of a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Csv,
    JsonLines,
}

static CSV: About = About { in_sql: InSql::NamedRows, ..About::new("CSV", &["csv"]) };
static JSON_LINES: About =
    About { shared_extensions: &["json"], in_sql: InSql::NamedRows, ..About::new("JSON lines", &["jsonl", "ndjson"]) };

impl FileFormat for Text {
    fn about(&self) -> &'static About {
        match self {
            Self::Csv => &CSV,
            Self::JsonLines => &JSON_LINES,
        }
    }

    /// Reads the whole file to count its rows and infer types that hold all values; Null for a column without values.
    fn inspect(&self, place: &DataFile, inspection: &Inspection) -> Result<FileInfo> {
        let broken = |e: &dyn std::fmt::Display| place.error(|| format!("not {}: {e}", self.words()));
        let file = opened(place).map_err(|e| Error::source(place.shown(), e))?;
        let mut file = Digested { file, digest: Sha256::new(), bytes: 0, halt: &inspection.halt };
        let looked = after_mark(&mut file).and_then(|file| match self {
            Self::Csv => csv::look(file),
            Self::JsonLines => json::look(file),
        });
        let (schema, rows) = looked.map_err(|e| broken(&e))?;
        if let Some(name) = schema::twice(&schema) {
            return Err(broken(&format!("it has two columns {name:?}: rename one")));
        }
        // A writer of JSON lines leaves an empty file where it had no rows.
        if schema.fields().is_empty() && *self == Self::Csv {
            return Err(broken(&"it has no columns"));
        }
        let stamp = place.stamp().unwrap_or_else(|| hex::encode(&file.digest.finalize()[..8]));
        Ok(FileInfo { rows, bytes: file.bytes, stamp, schema: Arc::new(schema) })
    }

    /// Merges the schemas of separately inspected files. Fractions are read as text, so that each number can be checked
    /// for exactness before it is converted.
    fn unify(&self, files: &[SchemaRef], texts: &[&str]) -> Result<Option<Unified>, (usize, String)> {
        let written = self.agree(files, texts)?;
        let read = Arc::new(schema::with_fractions_as_texts(&written));
        Ok(Some(Unified { written, read }))
    }

    fn read(&self, place: &DataFile, scan: &Scan<'_>) -> Result<Batches, String> {
        let file = after_mark(BufReader::with_capacity(1 << 20, opened(place).map_err(|e| e.to_string())?))?;
        let schema = Arc::new(schema::as_views(scan.schema));
        let batches = match self {
            Self::Csv => csv::read(file, schema, scan.batch_rows)?,
            Self::JsonLines => json::read(file, schema, scan.batch_rows)?,
        };
        Ok(select(batches, scan.ranges))
    }
}

impl Text {
    /// Schema that files agree on. The columns `texts` become text whatever their values.
    fn agree(self, files: &[SchemaRef], texts: &[&str]) -> Result<SchemaRef, (usize, String)> {
        let mut agreed: Vec<Field> = Vec::new();
        for (number, schema) in files.iter().enumerate() {
            // Files without a header differ so: their first rows would be taken for column names.
            let is_known = |field: &Arc<Field>| agreed.iter().any(|known| known.name() == field.name());
            if self == Self::Csv && number > 0 && !schema.fields().iter().any(is_known) {
                return Err((number, "its header has no column in common with".to_owned()));
            }
            for field in schema.fields() {
                widen(&mut agreed, &in_microseconds(field)).map_err(|reason| (number, reason))?;
            }
        }
        let typed = agreed.into_iter().map(|field| {
            let data_type = match field.data_type() {
                // No file has a value.
                DataType::Null => DataType::Utf8,
                other if texts.contains(&field.name().as_str()) && !other.is_nested() => DataType::Utf8,
                other => other.clone(),
            };
            field.with_data_type(data_type).with_nullable(true)
        });
        Ok(Arc::new(Schema::new(typed.collect::<Vec<_>>())))
    }

    fn words(self) -> &'static str {
        match self {
            Self::Csv => "a CSV file with a header",
            Self::JsonLines => "a file with a JSON object on each line",
        }
    }
}

/// Widens `fields` to hold `field` too.
fn widen(fields: &mut Vec<Field>, field: &Field) -> Result<(), String> {
    use DataType::{Float64, Int64, Null, Timestamp, Utf8};
    use TimeUnit::Nanosecond;
    let Some(known) = fields.iter_mut().find(|known| known.name() == field.name()) else {
        fields.push(field.clone());
        return Ok(());
    };
    let both = match (known.data_type(), field.data_type()) {
        (a, b) if a == b => return Ok(()),
        (Null, other) | (other, Null) => other.clone(),
        (Int64, Float64) | (Float64, Int64) => Float64,
        // Nanoseconds only reach from 1677 to 2262, so they cannot hold every microsecond value.
        (Timestamp(a, zone), Timestamp(b, other)) if zone == other && (*a == Nanosecond) == (*b == Nanosecond) => {
            Timestamp(*a.max(b), zone.clone())
        }
        (a, b) if !(a.is_nested() || b.is_nested()) => Utf8,
        (a, b) => {
            let both = common(a, b);
            both.ok_or_else(|| format!("its {} is {b}, not {a} as in", field.name()))?
        }
    };
    *known = known.clone().with_data_type(both);
    Ok(())
}

/// Converts seconds and milliseconds to microseconds, as neither Parquet nor Delta stores seconds.
fn in_microseconds(field: &Field) -> Field {
    match field.data_type() {
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, zone) => {
            field.clone().with_data_type(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        _ => field.clone(),
    }
}

/// Reader of a file, decompressed if its name ends so. Jobs refuse compressed files before.
fn opened(file: &DataFile) -> io::Result<Box<dyn Read + Send>> {
    let shown = file.shown();
    let ending = shown.extension().unwrap_or_default().to_string_lossy();
    let input = BufReader::new(file.open()?);
    match ending.parse() {
        Ok(FileCompressionType::UNCOMPRESSED) | Err(_) => Ok(Box::new(input)),
        Ok(compression) => compression.convert_read(input).map_err(io::Error::other),
    }
}

/// Reader of what follows a byte order mark, which some editors write.
fn after_mark(mut file: impl Read) -> Result<impl Read, String> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let mut begin = Vec::new();
    file.by_ref().take(MARK.len() as u64).read_to_end(&mut begin).map_err(|e| e.to_string())?;
    if begin == MARK {
        begin.clear();
    }
    Ok(Cursor::new(begin).chain(file))
}

/// Reader that digests a file as it is read.
struct Digested<'a> {
    file: Box<dyn Read + Send>,
    digest: Sha256,
    bytes: u64,
    halt: &'a Halt,
}

impl Read for Digested<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.halt.check().map_err(io::Error::other)?;
        let read = self.file.read(into)?;
        self.digest.update(&into[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray as _;
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;
    use crate::format::contract::Reader;
    use crate::format::rows::Rows;

    #[test]
    fn ranges_are_cut_from_either_kind() {
        let folder = tempfile::tempdir().unwrap();
        let csv: String = (0..10).map(|n| format!("{n},\"row, {n}\"\n")).collect();
        let lines: String = (0..10).map(|n| format!("{{\"id\": {n}, \"text\": \"row, {n}\"}}\n\n")).collect();
        for (kind, name, text) in [
            (Text::Csv, "a.csv", format!("\u{feff}\"id\",text\n{csv}")),
            (Text::JsonLines, "a.jsonl", format!("\u{feff}{lines}")),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, &text).unwrap();
            let path = DataFile::Local(path);
            let found = kind.inspect(&path, &Inspection::default()).unwrap();
            assert_eq!((found.rows, found.bytes), (10, text.len() as u64), "{name}");
            assert_eq!(found.schema.field(0).data_type(), &DataType::Int64);
            let reader = Reader::Job { max_image_bytes: u64::MAX };
            let ranges = [(1, 4), (6, 1), (7, 3)];
            let scan = Scan { schema: &found.schema, ranges: &ranges, batch_rows: 3, reader };
            let batches = kind.read(&path, &scan).unwrap();
            let rows: Vec<Rows> = batches.collect::<Result<_, _>>().unwrap();
            let ids: Vec<i64> = rows
                .iter()
                .flat_map(|rows| rows.batch.column(0).as_primitive::<Int64Type>().values().to_vec())
                .collect();
            assert_eq!(ids, [1, 2, 3, 4, 6, 7, 8, 9], "{name}");
        }
    }

    /// Agreed type of a column that has these types in different files.
    fn agreed(kind: Text, types: &[DataType]) -> Result<DataType, (usize, String)> {
        let files: Vec<SchemaRef> =
            types.iter().map(|t| Arc::new(Schema::new(vec![Field::new("x", t.clone(), true)])) as SchemaRef).collect();
        kind.agree(&files, &[]).map(|schema| schema.field(0).data_type().clone())
    }

    #[test]
    fn files_agree_on_types_that_hold_the_values_of_all() {
        use DataType::{Boolean, Float64, Int64, Null, Utf8};
        for kind in [Text::Csv, Text::JsonLines] {
            assert_eq!(agreed(kind, &[Null, Int64, Null]), Ok(Int64));
            assert_eq!(agreed(kind, &[Int64, Float64]), Ok(Float64));
            assert_eq!(agreed(kind, &[Float64, Boolean, Int64]), Ok(Utf8));
            assert_eq!(agreed(kind, &[Null]), Ok(Utf8));
        }
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        assert_eq!(agreed(Text::Csv, std::slice::from_ref(&seconds)), Ok(micros.clone()));
        assert_eq!(agreed(Text::Csv, &[seconds.clone(), micros.clone()]), Ok(micros));
        assert_eq!(agreed(Text::Csv, &[nanos.clone(), nanos.clone()]), Ok(nanos.clone()));
        assert_eq!(agreed(Text::Csv, &[nanos, seconds]), Ok(Utf8));
        let list = DataType::new_list(Utf8, true);
        assert_eq!(agreed(Text::JsonLines, &[Utf8, list]).unwrap_err().0, 1);
    }

    #[test]
    fn objects_may_lack_what_others_have() {
        let schema = |names: &[&str]| -> SchemaRef {
            Arc::new(Schema::new(names.iter().map(|n| Field::new(*n, DataType::Utf8, true)).collect::<Vec<_>>()))
        };
        let files = [schema(&["a", "b"]), schema(&["c", "a"])];
        assert_eq!(Text::JsonLines.agree(&files, &[]).unwrap().fields().len(), 3);
        assert_eq!(Text::Csv.agree(&files, &[]).unwrap().fields().len(), 3);
        let others = [schema(&["a", "b"]), schema(&["1", "2"])];
        assert_eq!(Text::Csv.agree(&others, &[]).unwrap_err().0, 1);
    }

    #[test]
    fn what_is_neither_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, text, words) in [
            (Text::Csv, "a,b\n1,2,3\n", "not a CSV file"),
            (Text::Csv, "a,b,a\n1,2,3\n", "two columns \"a\""),
            (Text::Csv, "", "no columns"),
            (Text::JsonLines, "[1, 2", "not a file with a JSON object"),
            (Text::Csv, "a,b\n1,\"2\n3\"\n4\n", "line 4 has 1 field, and the header 2"),
            (Text::JsonLines, "\n{\"a\": 1,}\n{\n", "line 2: trailing comma at column 9"),
            (Text::JsonLines, "[{\"a\": 1}, {\"a\": 2}", "the array that it begins with is not closed"),
            (Text::JsonLines, "[{\"a\": 1}]\n[{\"a\": 2}]\n", "something follows the array that it begins with"),
        ] {
            let path = folder.path().join("x");
            std::fs::write(&path, text).unwrap();
            let error = kind.inspect(&DataFile::Local(path), &Inspection::default()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
