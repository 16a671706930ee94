//! Counts of a job, and its summary.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use capfilt_tables::error::{Error, Result};
use datafusion::arrow::array::{Array, AsArray, Int64Array, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type};
use datafusion::arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

/// Prefix of the error of a row that repeats an earlier one.
pub(crate) const DUPLICATE: &str = "duplicate of ";

/// Maximum number of distinct reasons; further ones are counted as "other", since a message may differ in every row.
const REASONS: usize = 1000;

/// Counts over the pairs of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// All pairs.
    pub pairs: u64,
    /// Pairs with kept = true.
    pub kept: u64,
    /// Pairs with a score.
    pub scored: u64,
    scores: f64,
}

impl Count {
    fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.kept += other.kept;
        self.scored += other.scored;
        self.scores += other.scores;
    }

    /// Share of the pairs that are kept, from 0 to 1.
    pub fn share(&self) -> f64 {
        if self.pairs == 0 { 0.0 } else { self.kept as f64 / self.pairs as f64 }
    }

    /// Mean of the finite scores; `None` if there are none.
    pub fn mean(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.scores / self.scored as f64)
    }
}

/// Counts of a job so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows of the source.
    pub rows: u64,
    /// Pairs with the text of the source.
    pub web: Count,
    /// Pairs with a caption.
    pub synthetic: Count,
    /// Rows whose image or text is unusable, or all of whose captions failed.
    pub failed: u64,
    /// Rows that repeat an earlier one.
    pub duplicates: u64,
    reasons: HashMap<String, u64>,
}

/// Errors among the texts of one row.
#[derive(Default)]
struct Verdict<'a> {
    web: Option<&'a str>,
    /// First error of a caption.
    synthetic: Option<&'a str>,
    captioned: bool,
}

impl<'a> Verdict<'a> {
    fn add(&mut self, synthetic: bool, error: Option<&'a str>) {
        match (synthetic, error) {
            (true, None) => self.captioned = true,
            (true, Some(_)) => self.synthetic = self.synthetic.or(error),
            (false, _) => self.web = self.web.or(error),
        }
    }

    /// Why the row counts as failed: its image or text is unusable, or all of its captions failed.
    fn error(&self) -> Option<&'a str> {
        self.web.or(self.synthetic.filter(|_| !self.captioned))
    }
}

/// Values of a text column of the pairs; nothing if the column is missing or of another type.
pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> impl Iterator<Item = Option<&'a str>> {
    batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).into_iter().flatten()
}

/// Source file of each pair and its row there, by the pair's provenance.
pub(crate) fn origins(pairs: &RecordBatch) -> Option<(StringViewArray, &Int64Array)> {
    let provenance = pairs.column_by_name("provenance")?.as_struct_opt()?;
    let files = cast(provenance.column_by_name("file")?, &DataType::Utf8View).ok()?;
    Some((files.as_string_view().clone(), provenance.column_by_name("row")?.as_primitive_opt()?))
}

impl Tally {
    /// Counts the pairs of `rows` rows. The pairs of a row must be complete and contiguous; their provenance names the
    /// row.
    pub(crate) fn of(rows: u64, pairs: &[RecordBatch]) -> Result<Self> {
        let mut tally = Self { rows, ..Self::default() };
        let mut last: Option<(String, i64)> = None;
        let mut row = Verdict::default();
        for batch in pairs {
            let kept = batch.column_by_name("kept").and_then(|c| c.as_boolean_opt());
            let scores = batch.column_by_name("itm_score").and_then(|c| c.as_primitive_opt::<Float32Type>());
            let (files, rows) = origins(batch).ok_or_else(|| Error::Internal("pairs without provenance".to_owned()))?;
            let origins = files.iter().map(Option::unwrap_or_default).zip(rows.values());
            let texts = texts(batch, "source").zip(texts(batch, "error"));
            for (pair, ((source, error), (file, at))) in texts.zip(origins).enumerate() {
                let synthetic = source == Some("synthetic");
                let count = if synthetic { &mut tally.synthetic } else { &mut tally.web };
                count.pairs += 1;
                count.kept += u64::from(kept.is_some_and(|k| k.is_valid(pair) && k.value(pair)));
                if let Some(score) = scores.filter(|s| s.is_valid(pair) && s.value(pair).is_finite()) {
                    count.scored += 1;
                    count.scores += f64::from(score.value(pair));
                }
                if last.as_ref().is_none_or(|(known, row)| (known.as_str(), row) != (file, at)) {
                    last = Some((file.to_owned(), *at));
                    tally.judge(&std::mem::take(&mut row));
                }
                row.add(synthetic, error);
            }
        }
        tally.judge(&row);
        Ok(tally)
    }

    /// Counts a row once, regardless of its number of texts.
    fn judge(&mut self, row: &Verdict<'_>) {
        match row.error() {
            None => {}
            Some(error) if error.starts_with(DUPLICATE) => self.duplicates += 1,
            Some(error) => {
                self.failed += 1;
                self.reason(error, 1);
            }
        }
    }

    /// Adds the counts of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.failed += other.failed;
        self.duplicates += other.duplicates;
        self.web.merge(&other.web);
        self.synthetic.merge(&other.synthetic);
        other.reasons.iter().for_each(|(reason, count)| self.reason(reason, *count));
    }

    fn reason(&mut self, reason: &str, more: u64) {
        let reason = if self.reasons.len() < REASONS || self.reasons.contains_key(reason) { reason } else { "other" };
        match self.reasons.get_mut(reason) {
            Some(count) => *count += more,
            None => drop(self.reasons.insert(reason.to_owned(), more)),
        }
    }

    /// Share of all pairs that are kept, from 0 to 1.
    pub fn share(&self) -> f64 {
        let all = self.web.pairs + self.synthetic.pairs;
        if all == 0 { 0.0 } else { (self.web.kept + self.synthetic.kept) as f64 / all as f64 }
    }

    /// Reasons why rows failed, with their counts, most frequent first.
    pub fn reasons(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all
    }
}

/// Result of a finished job.
#[derive(Debug)]
pub struct Summary {
    /// The counts.
    pub tally: Tally,
    /// Number of files read.
    pub files_read: usize,
    /// Paths of the files written.
    pub files: Vec<PathBuf>,
    /// Bytes written.
    pub bytes: u64,
    /// Pairs written.
    pub pairs: u64,
    /// Source rows done by an earlier run.
    pub before: u64,
    /// Wall time.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { rows, web, synthetic, .. } = &self.tally;
        let (megabytes, files) = (self.bytes as f64 / 1e6, several(self.files.len() as u64, "file"));
        if self.before > 0 && self.before == *rows {
            writeln!(f, "read       no new rows; {rows} were done before")?;
            return write!(f, "holds      {} pairs in {files} ({megabytes:.1} MB)", self.pairs);
        }
        writeln!(f, "read       {rows} rows in {}", several(self.files_read as u64, "file"))?;
        for (name, count) in [("web", web), ("synthetic", synthetic)] {
            if count.pairs == 0 {
                continue;
            }
            write!(f, "{name:<10} {} of {} texts kept ({:.1} %)", count.kept, count.pairs, 100.0 * count.share())?;
            match count.mean() {
                Some(mean) => writeln!(f, ", mean score {mean:.3}")?,
                None => writeln!(f)?,
            }
        }
        if self.tally.duplicates > 0 {
            writeln!(f, "duplicates {} rows repeat an earlier one", self.tally.duplicates)?;
        }
        let reasons = self.tally.reasons();
        if !reasons.is_empty() {
            let all: u64 = reasons.iter().map(|(_, count)| count).sum();
            writeln!(f, "unusable   {}", several(all, "row"))?;
            for (reason, count) in reasons.iter().take(SHOWN_REASONS) {
                writeln!(f, "  {count:>8} {reason}")?;
            }
            if reasons.len() > SHOWN_REASONS {
                let rest: u64 = reasons[SHOWN_REASONS..].iter().map(|(_, count)| count).sum();
                writeln!(f, "  {rest:>8} for other reasons (SELECT error, count(*) FROM the table)")?;
            }
        }
        writeln!(f, "wrote      {} pairs in {files} ({megabytes:.1} MB)", self.pairs)?;
        let seconds = self.elapsed.as_secs_f64();
        let now = rows - self.before;
        write!(f, "took       {seconds:.1} s, {:.1} rows/s", now as f64 / seconds.max(1e-3))?;
        if self.before > 0 { write!(f, "; {} rows were done before", self.before) } else { Ok(()) }
    }
}

/// Number of reasons that the summary lists.
const SHOWN_REASONS: usize = 12;

/// Such as `1 file` or `2 files`.
pub(crate) fn several(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, StringArray, StringViewArray, StructArray};

    use super::*;

    #[test]
    fn reasons_are_sorted_and_bounded() {
        let mut tally = Tally::default();
        for n in 0..2 * REASONS {
            tally.reason(&format!("reason {n}"), 1);
        }
        let mut more = Tally::default();
        more.reason("reason 7", 1);
        tally.merge(&more);
        let reasons = tally.reasons();
        assert_eq!(reasons.len(), REASONS + 1);
        assert_eq!(reasons[0], ("other", REASONS as u64));
        assert_eq!(reasons[1], ("reason 7", 2));
    }

    /// Pairs given as (file, row, source, error).
    fn pairs(of: &[(&str, i64, &str, Option<&str>)]) -> RecordBatch {
        let files: ArrayRef = Arc::new(StringViewArray::from_iter_values(of.iter().map(|pair| pair.0)));
        let rows: ArrayRef = Arc::new(of.iter().map(|pair| pair.1).collect::<Int64Array>());
        let provenance = StructArray::try_from(vec![("file", files), ("row", rows)]).unwrap();
        let sources: StringArray = of.iter().map(|pair| Some(pair.2)).collect();
        let errors: StringArray = of.iter().map(|pair| pair.3).collect();
        let columns: [(&str, ArrayRef); 3] =
            [("source", Arc::new(sources)), ("error", Arc::new(errors)), ("provenance", Arc::new(provenance))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn a_row_fails_once_however_many_texts_it_has() {
        const WEB: &str = "web";
        const SYNTHETIC: &str = "synthetic";
        let (broken, none) = (Some("broken image"), Some("no caption"));
        let tally = Tally::of(
            6,
            &[
                // One caption of two is usable; no caption is; the image is broken; and the same in a file with
                // captions only.
                pairs(&[
                    ("a", 0, WEB, None),
                    ("a", 0, SYNTHETIC, none),
                    ("a", 0, SYNTHETIC, None),
                    ("a", 1, WEB, None),
                ]),
                pairs(&[("a", 1, SYNTHETIC, none), ("a", 1, SYNTHETIC, none), ("a", 2, WEB, broken)]),
                pairs(&[("a", 2, SYNTHETIC, broken), ("b", 2, SYNTHETIC, broken), ("b", 2, SYNTHETIC, broken)]),
                pairs(&[("b", 3, WEB, Some("no text")), ("b", 3, SYNTHETIC, none)]),
                pairs(&[("b", 4, WEB, Some("duplicate of 3")), ("b", 4, SYNTHETIC, Some("duplicate of 3"))]),
            ],
        );
        let tally = tally.unwrap();
        assert_eq!((tally.rows, tally.failed, tally.duplicates), (6, 4, 1));
        assert_eq!(tally.reasons(), [("broken image", 2), ("no caption", 1), ("no text", 1)]);
        assert_eq!((tally.web.pairs, tally.synthetic.pairs), (5, 9));
    }

    #[test]
    fn an_empty_job_has_a_summary() {
        let summary = Summary {
            tally: Tally::default(),
            files_read: 1,
            files: vec![],
            bytes: 0,
            pairs: 0,
            before: 0,
            elapsed: Duration::ZERO,
        };
        assert!(summary.to_string().starts_with("read       0 rows in 1 file\nwrote      0 pairs in 0 files"));
    }
}
