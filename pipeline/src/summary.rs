//! What a job counts, and how it tells.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::Float32Type;
use datafusion::arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

/// How the error of a row begins that repeats an earlier one.
pub(crate) const DUPLICATE: &str = "duplicate of ";

/// More distinct reasons than this are counted together: a message may hold what is different in every row.
const REASONS: usize = 1000;

/// Pairs of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// All of them.
    pub pairs: u64,
    /// Those with kept = true.
    pub kept: u64,
    /// Those with a score.
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

    /// Share of the pairs that is kept.
    pub fn share(&self) -> f64 {
        if self.pairs == 0 { 0.0 } else { self.kept as f64 / self.pairs as f64 }
    }

    /// Mean of the known scores.
    pub fn mean(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.scores / self.scored as f64)
    }
}

/// What a job has done so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows of the source.
    pub rows: u64,
    /// Pairs with the text of the source.
    pub web: Count,
    /// Pairs with a caption.
    pub synthetic: Count,
    /// Rows whose image or text cannot be used.
    pub failed: u64,
    /// Rows that repeat an earlier one.
    #[serde(default)]
    pub duplicates: u64,
    reasons: HashMap<String, u64>,
}

/// The texts of a column of pairs.
pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> impl Iterator<Item = Option<&'a str>> {
    batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).into_iter().flatten()
}

impl Tally {
    /// Counts the pairs of `rows` rows.
    pub(crate) fn of(rows: u64, pairs: &[RecordBatch]) -> Self {
        let mut tally = Self { rows, ..Self::default() };
        for batch in pairs {
            let kept = batch.column_by_name("kept").and_then(|c| c.as_boolean_opt());
            let scores = batch.column_by_name("itm_score").and_then(|c| c.as_primitive_opt::<Float32Type>());
            for (row, (source, error)) in texts(batch, "source").zip(texts(batch, "error")).enumerate() {
                let synthetic = source == Some("synthetic");
                let count = if synthetic { &mut tally.synthetic } else { &mut tally.web };
                count.pairs += 1;
                count.kept += u64::from(kept.is_some_and(|k| k.is_valid(row) && k.value(row)));
                if let Some(score) = scores.filter(|s| s.is_valid(row) && s.value(row).is_finite()) {
                    count.scored += 1;
                    count.scores += f64::from(score.value(row));
                }
                // An image that fails does so for each of its texts; it is one failure.
                if let Some(error) = error.filter(|e| !synthetic || *e == "no caption") {
                    if error.starts_with(DUPLICATE) {
                        tally.duplicates += 1;
                    } else {
                        tally.failed += 1;
                        tally.reason(error, 1);
                    }
                }
            }
        }
        tally
    }

    /// Adds what another has counted.
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

    /// Share of all pairs that is kept.
    pub fn share(&self) -> f64 {
        let all = self.web.pairs + self.synthetic.pairs;
        if all == 0 { 0.0 } else { (self.web.kept + self.synthetic.kept) as f64 / all as f64 }
    }

    /// Why rows have no verdict, the commonest reason first.
    pub fn reasons(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all
    }
}

/// What a finished job did.
#[derive(Debug)]
pub struct Summary {
    /// The counts.
    pub tally: Tally,
    /// Files read.
    pub files_read: usize,
    /// Files written.
    pub files: Vec<PathBuf>,
    /// Bytes written.
    pub bytes: u64,
    /// Rows written.
    pub pairs: u64,
    /// Rows of the source that an earlier run had done.
    pub before: u64,
    /// Time taken.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { rows, web, synthetic, .. } = &self.tally;
        writeln!(f, "read       {rows} rows in {}", files(self.files_read))?;
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
            let rows = if all == 1 { "row" } else { "rows" };
            writeln!(f, "unusable   {all} {rows}")?;
            for (reason, count) in reasons.iter().take(SHOWN_REASONS) {
                writeln!(f, "  {count:>8} {reason}")?;
            }
            if reasons.len() > SHOWN_REASONS {
                let rest: u64 = reasons[SHOWN_REASONS..].iter().map(|(_, count)| count).sum();
                writeln!(f, "  {rest:>8} for other reasons (SELECT error, count(*) FROM the table)")?;
            }
        }
        let megabytes = self.bytes as f64 / 1e6;
        writeln!(f, "wrote      {} pairs in {} ({megabytes:.1} MB)", self.pairs, files(self.files.len()))?;
        let seconds = self.elapsed.as_secs_f64();
        let now = rows - self.before;
        write!(f, "took       {seconds:.1} s, {:.1} rows/s", now as f64 / seconds.max(1e-3))?;
        if self.before > 0 { write!(f, "; {} rows were done before", self.before) } else { Ok(()) }
    }
}

/// Reasons that the summary names.
const SHOWN_REASONS: usize = 12;

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

#[cfg(test)]
mod tests {
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
