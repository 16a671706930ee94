//! Cached inspections of files that are read whole to count rows and infer types.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::DataFile;
use crate::file_record::FileRecord;
use crate::format::contract::FileFormat;
use crate::format::inspect::Inspected;

/// Minimum age of a modification at the inspection: file systems have clock ticks of up to two seconds, so a younger
/// file may be modified again without a new time.
const TICK: Duration = Duration::from_secs(2);

/// Cached inspection, valid as long as the file is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// Modification time, nanoseconds since 1970; `None` for an object, for which the record's stamp says more.
    modified: Option<u64>,
    /// Stamp of the record made at the inspection.
    stamp: String,
    /// Names and types of the columns.
    columns: Vec<(String, String)>,
}

impl Memo {
    /// Memo of an inspection; `None` if only another inspection can recognise the file.
    pub(crate) fn of(format: &dyn FileFormat, place: &DataFile, looked: &Inspected) -> Option<Self> {
        let Inspected { record, written, seen } = looked;
        if !format.about().inspects_all {
            return None;
        }
        let modified = match seen {
            Some(seen) => {
                let modified = seen.modified?;
                if SystemTime::now().duration_since(modified).ok()? < TICK {
                    return None;
                }
                Some(nanos(modified)?)
            }
            None => place.stamp().map(|_| None)?,
        };
        let columns = written.fields().iter().map(|field| (field.name().clone(), field.data_type().to_string()));
        let this = Self { modified, stamp: record.stamp.clone(), columns: columns.collect() };
        // Not every type survives being written as text.
        (this.schema().as_ref() == Some(&**written)).then_some(this)
    }

    fn schema(&self) -> Option<Schema> {
        let fields = self.columns.iter().map(|(name, of)| Some(Field::new(name, of.parse::<DataType>().ok()?, true)));
        Some(Schema::new(fields.collect::<Option<Vec<Field>>>()?))
    }
}

fn nanos(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Cached inspection of a file; `None` if it must be inspected again.
pub(crate) fn remembered(
    format: &dyn FileFormat,
    file: &DataFile,
    record: &FileRecord,
    memo: Option<&Memo>,
) -> Result<Option<Inspected>> {
    let same = |written: SchemaRef, seen| Some(Inspected { record: record.clone(), written, seen });
    // Counting would download a remote tar file whole at each start.
    if let Some(schema) = format.schema().filter(|_| file.is_as(record)) {
        return Ok(same(schema, None));
    }
    let Some(memo) = memo.filter(|memo| format.about().inspects_all && memo.stamp == record.stamp) else {
        return Ok(None);
    };
    let seen = file.seen().map_err(|e| Error::source(file.shown(), e))?;
    let is_same = match &seen {
        Some(seen) => {
            seen.bytes == record.bytes && memo.modified.is_some() && seen.modified.and_then(nanos) == memo.modified
        }
        None => file.is_as(record),
    };
    Ok(memo.schema().filter(|_| is_same).and_then(|schema| same(schema.into(), seen)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::format::contract::Inspection;
    use crate::format::text::infer::Text;

    #[test]
    fn a_file_of_text_is_known_again_by_its_size_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let place = DataFile::Local(path.clone());
        let format = &Text::JsonLines;
        let written = |text: &str, ago: u64| {
            fs::write(&path, text).unwrap();
            let time = SystemTime::now() - Duration::from_secs(ago);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let look = || Inspection::default().look(format, folder.path(), &place).unwrap();
        written("{\"a\": 1, \"b\": {\"c\": [\"x\"]}, \"d\": null}\n", 9);
        let first = look();
        let memo = Memo::of(format, &place, &first).unwrap();
        let kept: Memo = serde_json::from_str(&serde_json::to_string(&memo).unwrap()).unwrap();
        let again = remembered(format, &place, &first.record, Some(&kept)).unwrap().unwrap();
        assert_eq!((&again.record, &again.written), (&first.record, &first.written));
        assert!(remembered(format, &place, &first.record, None).unwrap().is_none());
        written("{\"a\": 2, \"b\": {\"c\": [\"x\"]}, \"d\": null}\n", 8);
        assert!(remembered(format, &place, &first.record, Some(&kept)).unwrap().is_none());
        // What was written just now may be written to again.
        written("{\"a\": 1}\n", 0);
        let now = look();
        assert_eq!(Memo::of(format, &place, &now), None);
    }
}
