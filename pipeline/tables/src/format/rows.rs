//! Rows returned by file readers.

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::format::sidecar::PROBLEM;

/// Consecutive rows and their problems.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Values.
    pub batch: RecordBatch,
    /// Problems, sorted by row.
    pub problems: Vec<Problem>,
}

/// Defect of a row: a value, or all of it, could not be read as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Index of the row in the batch.
    pub row: usize,
    /// Column whose value is wrong; `None` if the whole row is unusable.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// Maximum number of characters of a value that a reason quotes.
const SHOWN: usize = 60;

impl Problem {
    /// Problem of a text that is not UTF-8; `lossy` is its lossy conversion.
    pub(crate) fn not_utf8(row: usize, column: &str, lossy: &str) -> Self {
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
    /// Takes the problems from the column [`PROBLEM`], which says why a row is unusable.
    pub(crate) fn with_problems(batch: RecordBatch) -> Self {
        let reasons = batch.column_by_name(PROBLEM).and_then(|column| column.as_string_view_opt());
        let reasons = reasons.into_iter().flatten().enumerate();
        let problem = |(row, why): (usize, Option<&str>)| Some(Problem { row, column: None, reason: why?.to_owned() });
        let problems = reasons.filter_map(problem).collect();
        Self { batch, problems }
    }

    /// Slice of `rows` rows from `start`.
    pub(crate) fn slice(&self, start: usize, rows: usize) -> Self {
        let within = self.problems.iter().filter(|problem| (start..start + rows).contains(&problem.row));
        let problems = within.map(|problem| Problem { row: problem.row - start, ..problem.clone() });
        Self { batch: self.batch.slice(start, rows), problems: problems.collect() }
    }
}

/// Batches of a file's rows, in order; an error ends them.
pub type Batches = Box<dyn Iterator<Item = Result<Rows, String>> + Send>;

/// Rows of `ranges` (first row and number of rows, sorted) of a file that is read from its beginning.
pub fn select(
    mut batches: impl Iterator<Item = Result<Rows, String>> + Send + 'static,
    ranges: &[(u64, u64)],
) -> Batches {
    let (mut at, ranges) = (0, ranges.to_vec());
    let parts = std::iter::from_fn(move || {
        // Nothing is read behind the last range.
        ranges.last().filter(|(start, rows)| at < start + rows)?;
        let batch = match batches.next()? {
            Ok(batch) => batch,
            Err(e) => return Some(vec![Err(e)]),
        };
        let first = at;
        at += batch.batch.num_rows() as u64;
        let begun = ranges.partition_point(|(start, rows)| start + rows <= first);
        let within = ranges[begun..].iter().take_while(|(start, _)| *start < at).map(|(start, rows)| {
            let (from, to) = (first.max(*start), at.min(start + rows));
            Ok(batch.slice((from - first) as usize, (to - from) as usize))
        });
        Some(within.collect())
    });
    Box::new(parts.flatten())
}
