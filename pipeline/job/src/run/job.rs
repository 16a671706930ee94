//! A job from its source to its destination.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capfilt_tables::error::{Error, Result};
use datafusion::prelude::SessionContext;
use tokio::sync::watch;

use crate::checkpoint::admission::{admit, check_agreement};
use crate::checkpoint::register;
use crate::options::{Mode, Stop, asked};
use crate::output::split_writer::{End, Pairs, WriterThread, Written};
use crate::recipe::provenance::Provenance;
use crate::rows::contract::RowFilter;
use crate::rows::previous_pairs::PreviousPairs;
use crate::run::apply::Work;
use crate::run::local::LocalRunner;
use crate::run::prefetch::prefetch;
use crate::run::resume::{Job, Prepared};
use crate::run::runner::{PairSink, Runner as _};
use crate::tally::counts::{Summary, Tally};
use crate::tally::failure_limit::FailureLimit;

/// Progress of a job.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Source rows that this job processes.
    pub rows: u64,
    /// Rows among them that an earlier run has done.
    pub before: u64,
    /// Size of the source in bytes.
    pub bytes: u64,
    /// Counts over all rows done.
    pub tally: Tally,
    /// Time this run has spent waiting.
    pub waits: Waits,
}

/// Time in which a job was blocked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Waits {
    /// Idle for lack of rows: nothing was in flight while the source was read and its images were fetched or loaded.
    pub rows: Duration,
    /// Blocked on output: finished pairs waited for earlier pairs to be written (backpressure).
    pub table: Duration,
}

/// A failed job and the state it leaves.
#[derive(Debug)]
pub struct Failure {
    /// Cause of the failure.
    pub error: Error,
    /// Rows that are done and need not be repeated, and total rows.
    pub done: (u64, u64),
    /// Whether an old table that was to be replaced is unchanged.
    pub untouched: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let (done, all) = self.done;
        let limit = match self.error {
            Error::TooManyFailed { .. } => "with a larger --max-failed or without it, ",
            _ => "",
        };
        if done > 0 {
            write!(f, "\n  {done} of {all} rows are done: {limit}the same command goes on from there")?;
        } else if matches!(self.error, Error::Interrupted) {
            write!(f, "\n  no unit is done yet: the same command begins anew")?;
        }
        if self.untouched {
            write!(f, "\n  the table that was there is as it was")?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, done: (0, 0), untouched: false }
    }
}

/// Runs `job` in the session `ctx`, which has the functions and their settings.
///
/// `progress` is called for every finished chunk. `stop` ends the job early; finished units stay, and the same job
/// resumes after them.
pub async fn run(
    ctx: &SessionContext,
    job: &Job,
    stop: watch::Receiver<Stop>,
    progress: &dyn Fn(&Done),
) -> Result<Summary, Failure> {
    let started = Instant::now();
    let Prepared { mut source, workers, planned, identity, loader } = tokio::select! {
        biased;
        () = asked(&stop, Stop::AtUnit) => return Err(Error::Halted("its source was looked at").into()),
        prepared = job.prepare(ctx) => prepared?,
    };
    let store = register::open(&job.dest, job.shard)?;
    let admission = admit(&*store, &identity, job.mode)?;
    let (mut manifest, begun, saved) = job.manifest(&*store, admission, identity, &mut source)?;
    let replaces = manifest.replaces;
    if !replaces {
        check_agreement(&*store, &manifest)?;
    }
    let format = job.format(&planned, &source, &mut manifest)?;
    let parts = job.retried(&*store, &manifest)?;
    let provenance = Provenance::new(&manifest.job, planned.decoding.clone());
    let units = manifest.units();
    let pairs = Arc::clone(&format.schema);
    let dedupe_folder = store.dedupe_folder();
    let (writer, left) = WriterThread::open(store, format, manifest, begun, saved)?;

    let source = Arc::new(source);
    let before = left.tally.rows;
    let rows = before + source.rows_of(&units, left.next);
    let mut filters: Vec<Box<dyn RowFilter>> = Vec::new();
    if let Some(how) = job.dedupe {
        match job.duplicates(ctx, how, &source, &dedupe_folder, &stop).await {
            Ok(duplicates) => filters.push(Box::new(duplicates)),
            Err(error) => {
                let (written, _) = writer.close(End::Broken).await;
                return Err(Failure { error, untouched: replaces, done: (written.rows, rows) });
            }
        }
    }
    if job.mode == Mode::Retry {
        filters.push(Box::new(PreviousPairs::new(Arc::clone(&source), pairs, parts)));
    }
    let work = Arc::new(Work { planned, provenance, source: Arc::clone(&source), workers });
    let mut output = Output {
        writer: &writer,
        done: Done { rows, before, bytes: source.bytes(), tally: left.tally, waits: Waits::default() },
        progress,
        limit: job.max_failed,
    };
    let batch = ctx.copied_config().batch_size();
    progress(&output.done);
    let chunks = prefetch(source.read(units, left.next, batch), filters, loader);
    let mut ran = LocalRunner { workers }.run(&work, chunks, &stop, &mut output).await;
    if let Ok(End::Whole) = ran {
        ran = output.check_whole().map(|()| End::Whole);
    }
    let tally = std::mem::take(&mut output.done.tally);
    let (written, closed) = writer.close(*ran.as_ref().unwrap_or(&End::Broken)).await;
    let Written { files, bytes, pairs, rows: done, placing } = written;
    let untouched = replaces && !placing;
    // If the writer failed, its error explains why the runner stopped.
    let error = match (ran, closed) {
        (Ok(End::Whole), Ok(())) => {
            let elapsed = started.elapsed();
            return Ok(Summary { tally, files_read: source.files(), files, bytes, pairs, before, elapsed });
        }
        (Ok(_), Ok(())) => Error::Interrupted,
        (Ok(_), Err(error)) | (Err(error), _) => error,
    };
    // A cancelled engine fails its queries, but the actual cause is the request to stop.
    let error = if *stop.borrow() == Stop::Now { Error::Interrupted } else { error };
    Err(Failure { error, untouched, done: (done, rows) })
}

/// Counts pairs, reports progress and passes the pairs to the writer.
struct Output<'a> {
    writer: &'a WriterThread,
    done: Done,
    progress: &'a dyn Fn(&Done),
    limit: Option<FailureLimit>,
}

impl PairSink for Output<'_> {
    async fn take(&mut self, pairs: Pairs) -> Result<bool> {
        self.done.tally.merge(&pairs.tally);
        (self.progress)(&self.done);
        self.check_limit(false)?;
        let began = Instant::now();
        let taken = self.writer.write(pairs).await;
        self.done.waits.table += began.elapsed();
        Ok(taken)
    }

    fn idle(&mut self, time: Duration) {
        self.done.waits.rows += time;
    }
}

impl Output<'_> {
    fn check_whole(&self) -> Result<()> {
        // The reader may have ended early without an error.
        if self.done.tally.rows < self.done.rows {
            return Err(Error::Internal("the reading thread ended before the source did".to_owned()));
        }
        self.check_limit(true)
    }

    fn check_limit(&self, at_end: bool) -> Result<()> {
        match self.limit {
            Some(limit) if limit.is_spent(&self.done.tally, at_end) => Err(limit.error(&self.done.tally)),
            _ => Ok(()),
        }
    }
}
