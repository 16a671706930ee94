//! What is kept of a look at a file of text, which is read whole to find its types and its rows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::seen::{Looked, Seen};
use super::{FileRecord, Kind, Source, SourceFile, tar};
use crate::error::{Error, Result};

/// A file that was written to so short a time before the look may be written to again without another time: clocks of file systems
/// have ticks of up to two seconds.
const TICK: Duration = Duration::from_secs(2);

/// Spares another look at a file that is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    /// When it was last written to, in nanoseconds since 1970; of an object the record's stamp tells more.
    #[serde(default)]
    modified: Option<u64>,
    /// Of the record that was made then.
    stamp: String,
    /// Names and types of its columns.
    columns: Vec<(String, String)>,
}

impl Memo {
    /// `None` where another look is the only way to know the file again.
    pub(super) fn of(
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
        // Not all types can be told in words.
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

impl Source {
    /// What spares another look at its files, by their names.
    pub(crate) fn memos(&self) -> BTreeMap<String, Memo> {
        let memo = |file: &SourceFile| Some((file.record.name.clone(), file.memo.clone()?));
        self.files.iter().filter_map(memo).collect()
    }
}

impl Kind {
    /// What is known of a file without a look at what is in it; `None` where one is needed.
    pub(super) fn remembered(self, place: &Place, record: &FileRecord, memo: Option<&Memo>) -> Result<Option<Looked>> {
        let same = |written: SchemaRef, seen| Some(Looked { record: record.clone(), written, seen });
        if self == Self::WebDataset {
            // To be counted it would come whole, at each start.
            return Ok(if tar::is_as(place, record) { same(tar::written(), None) } else { None });
        }
        let (Self::Text(_), Some(memo)) = (self, memo.filter(|memo| memo.stamp == record.stamp)) else {
            return Ok(None);
        };
        let seen = place.seen().map_err(|e| Error::source(place.shown(), e))?;
        let is_same = match &seen {
            Some(seen) => {
                seen.bytes == record.bytes && memo.modified.is_some() && seen.modified.and_then(nanos) == memo.modified
            }
            None => tar::is_as(place, record),
        };
        Ok(memo.schema().filter(|_| is_same).and_then(|schema| same(schema.into(), seen)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::seen::Looking;
    use super::super::text::Text;
    use super::*;

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
