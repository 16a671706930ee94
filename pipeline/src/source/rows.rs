//! Rows as a file's reader hands them over.

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::record_batch::RecordBatch;

use crate::sidecar::PROBLEM;

/// Some rows that follow each other, and what is wrong with them.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    /// In the order of the rows.
    pub(super) problems: Vec<Problem>,
}

/// Why a row is not what its file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The row's place in the batch.
    pub(super) row: usize,
    /// The column whose value is wrong; `None` where the row cannot be used at all.
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

/// Characters of a value that a reason shows.
const SHOWN: usize = 60;

impl Problem {
    /// A text that is not UTF-8; `lossy` is what is left of it.
    pub(super) fn not_utf8(row: usize, column: &str, lossy: &str) -> Self {
        let mut shown: String = lossy.chars().take(SHOWN).collect();
        if shown.len() < lossy.len() {
            shown += "..";
        }
        let reason = format!("column {column}: bytes that are not UTF-8: {shown:?}");
        Self { row, column: Some(column.to_owned()), reason }
    }
}

impl From<RecordBatch> for Rows {
    fn from(batch: RecordBatch) -> Self {
        Self { batch, problems: Vec::new() }
    }
}

impl Rows {
    /// Rows whose column [`PROBLEM`] says why one cannot be used.
    pub(super) fn with_problems(batch: RecordBatch) -> Self {
        let reasons = batch.column_by_name(PROBLEM).and_then(|column| column.as_string_view_opt());
        let reasons = reasons.into_iter().flatten().enumerate();
        let problem = |(row, why): (usize, Option<&str>)| Some(Problem { row, column: None, reason: why?.to_owned() });
        let problems = reasons.filter_map(problem).collect();
        Self { batch, problems }
    }

    /// `rows` of them from `start` on.
    pub(super) fn slice(&self, start: usize, rows: usize) -> Self {
        let within = self.problems.iter().filter(|problem| (start..start + rows).contains(&problem.row));
        let problems = within.map(|problem| Problem { row: problem.row - start, ..problem.clone() });
        Self { batch: self.batch.slice(start, rows), problems: problems.collect() }
    }
}
