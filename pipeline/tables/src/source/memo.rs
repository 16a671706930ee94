//! Cached inspections of text files, which are read whole to infer types and count rows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::{Place, Seen};
use crate::file_record::FileRecord;
use crate::format::watch::Looked;
use crate::format::webdataset::source;
use crate::kind::Kind;

/// Minimum age of a modification at the inspection: file systems have clock ticks of up to two seconds, so a younger
/// file may be modified again without a new time.
const TICK: Duration = Duration::from_secs(2);

/// Cached inspection, valid as long as the file is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// Modification time, nanoseconds since 1970; `None` for an object, for which the record's stamp says more.
    #[serde(default)]
    modified: Option<u64>,
    /// Stamp of the record made at the inspection.
    stamp: String,
    /// Names and types of the columns.
    columns: Vec<(String, String)>,
}

impl Memo {
    /// Memo of an inspection; `None` if only another inspection can recognise the file.
    pub(crate) fn of(
        kind: Kind,
        place: &Place,
        record: &FileRecord,
        written: &Schema,
        seen: Option<Seen>,
    ) -> Option<Self> {
        let Kind::Text(_) = kind else { return None };
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
        (this.schema().as_ref() == Some(written)).then_some(this)
    }

    fn schema(&self) -> Option<Schema> {
        let fields = self.columns.iter().map(|(name, of)| Some(Field::new(name, of.parse::<DataType>().ok()?, true)));
        Some(Schema::new(fields.collect::<Option<Vec<Field>>>()?))
    }
}

fn nanos(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

impl Kind {
    /// Cached inspection of a file; `None` if it must be inspected again.
    pub(crate) fn remembered(self, place: &Place, record: &FileRecord, memo: Option<&Memo>) -> Result<Option<Looked>> {
        let same = |written: SchemaRef, seen| Some(Looked { record: record.clone(), written, seen });
        if self == Self::WebDataset {
            // Counting would download a remote tar file whole at each start.
            return Ok(if source::is_as(place, record) { same(source::written(), None) } else { None });
        }
        let (Self::Text(_), Some(memo)) = (self, memo.filter(|memo| memo.stamp == record.stamp)) else {
            return Ok(None);
        };
        let seen = place.seen().map_err(|e| Error::source(place.shown(), e))?;
        let is_same = match &seen {
            Some(seen) => {
                seen.bytes == record.bytes && memo.modified.is_some() && seen.modified.and_then(nanos) == memo.modified
            }
            None => source::is_as(place, record),
        };
        Ok(memo.schema().filter(|_| is_same).and_then(|schema| same(schema.into(), seen)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::format::watch::Looking;
    use crate::kind::Text;

    #[test]
    fn a_file_of_text_is_known_again_by_its_size_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let place = Place::Local(path.clone());
        let kind = Kind::Text(Text::JsonLines);
        let written = |text: &str, ago: u64| {
            fs::write(&path, text).unwrap();
            let time = SystemTime::now() - Duration::from_secs(ago);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let look = || kind.looked(folder.path(), &place, &Looking::default()).unwrap();
        written("{\"a\": 1, \"b\": {\"c\": [\"x\"]}, \"d\": null}\n", 9);
        let first = look();
        let memo = Memo::of(kind, &place, &first.record, &first.written, first.seen).unwrap();
        let kept: Memo = serde_json::from_str(&serde_json::to_string(&memo).unwrap()).unwrap();
        let again = kind.remembered(&place, &first.record, Some(&kept)).unwrap().unwrap();
        assert_eq!((&again.record, &again.written), (&first.record, &first.written));
        assert!(kind.remembered(&place, &first.record, None).unwrap().is_none());
        written("{\"a\": 2, \"b\": {\"c\": [\"x\"]}, \"d\": null}\n", 8);
        assert!(kind.remembered(&place, &first.record, Some(&kept)).unwrap().is_none());
        // What was written just now may be written to again.
        written("{\"a\": 1}\n", 0);
        let now = look();
        assert_eq!(Memo::of(kind, &place, &now.record, &now.written, now.seen), None);
    }
}
