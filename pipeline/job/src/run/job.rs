//! A job from its source to its destination.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::split::Position;
use datafusion::common::runtime::SpawnedTask;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::watch;

use crate::checkpoint::job_folder::Dest;
use crate::options::{Again, Stop};
use crate::output::split_writer::{End, Pairs, WriterThread, Written};
use crate::recipe::provenance::Provenance;
use crate::rows::contract::RowFilter;
use crate::rows::previous_pairs::PreviousPairs;
use crate::run::apply::{Work, flatten};
use crate::run::prefetch::{Loaded, prefetch};
use crate::run::resume::{Job, Prepared};
use crate::tally::counts::{Summary, Tally};
use crate::tally::failure_limit::Budget;

/// Progress of a job.
#[derive(Debug)]
pub struct Done<'a> {
    /// Source rows that this job processes.
    pub rows: u64,
    /// Rows among them that an earlier run has done.
    pub before: u64,
    /// Size of the source in bytes.
    pub bytes: u64,
    /// Counts over all rows done.
    pub tally: &'a Tally,
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
        if done > 0 && matches!(self.error, Error::TooManyFailed { .. }) {
            write!(
                f,
                "\n  {done} of {all} rows are done: with a larger --max-failed, or without, the same command goes on from there"
            )?;
        } else if done > 0 {
            write!(f, "\n  {done} of {all} rows are done: the same command goes on from there")?;
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
    progress: &dyn Fn(&Done<'_>),
) -> Result<Summary, Failure> {
    let started = Instant::now();
    let Prepared { mut source, workers, planned, identity, loader } = tokio::select! {
        biased;
        () = asked(&stop, Stop::AtUnit) => return Err(Error::Halted("its source was looked at").into()),
        prepared = job.prepare(ctx) => prepared?,
    };
    let dest = Dest::open(&job.dest, job.shard.0, job.shard.1)?;
    let found = dest.look(&identity, job.again)?;
    let (mut manifest, begun, saved) = job.manifest(&dest, found, identity, &mut source)?;
    let replaces = manifest.replaces;
    if !replaces {
        dest.agree(&manifest)?;
    }
    let format = job.format(&planned, &source, &mut manifest)?;
    let parts = job.retried(&dest, &manifest)?;
    let provenance = Provenance::new(&manifest.job, planned.decoding());
    let units = job.units();
    let pairs = Arc::clone(&format.schema);
    let (writer, left) = WriterThread::open(dest, format, units, manifest, begun, saved)?;

    let source = Arc::new(source);
    let before = left.tally.rows;
    let rows = before + source.rows_of(&units, left.next);
    let mut filters: Vec<Box<dyn RowFilter>> = Vec::new();
    if let Some(how) = job.dedupe {
        match job.duplicates(ctx, how, &source, &stop).await {
            Ok(duplicates) => filters.push(Box::new(duplicates)),
            Err(error) => {
                let (written, _) = writer.close(End::Broken).await;
                return Err(Failure { error, untouched: replaces, done: (written.rows, rows) });
            }
        }
    }
    if job.again == Again::RetryFailed {
        filters.push(Box::new(PreviousPairs::new(Arc::clone(&source), pairs, parts)));
    }
    let work = Arc::new(Work { planned, provenance, source: Arc::clone(&source) });
    let mut pump = Pump {
        work,
        writer: &writer,
        workers,
        tally: left.tally,
        before,
        rows,
        bytes: source.bytes(),
        progress,
        budget: job.max_failed,
        waits: Waits::default(),
    };
    let batch = ctx.copied_config().batch_size();
    let pumped = pump.run(prefetch(source.read(units, left.next, batch), filters, loader), &stop).await;
    let tally = std::mem::take(&mut pump.tally);
    let end = match &pumped {
        Ok(end) => *end,
        Err(_) => End::Broken,
    };
    let (written, closed) = writer.close(end).await;
    let Written { files, bytes, pairs, rows: done, placing } = written;
    let untouched = replaces && !placing;
    // If the writer failed, its error explains why the pump stopped.
    let error = match (pumped, closed) {
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

/// Resolves once the job is asked to stop in the way `how` or immediately; pends forever if the sender is gone.
async fn asked(stop: &watch::Receiver<Stop>, how: Stop) {
    let mut stop = stop.clone();
    let is_asked = |stop: &Stop| *stop == Stop::Now || *stop == how;
    if stop.wait_for(is_asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Moves every chunk from the source through the recipe to the writer.
struct Pump<'a> {
    work: Arc<Work>,
    writer: &'a WriterThread,
    workers: usize,
    tally: Tally,
    before: u64,
    rows: u64,
    /// Size of the source, computed once: summing over the files for every chunk would be slow if there are as many.
    bytes: u64,
    progress: &'a dyn Fn(&Done<'_>),
    budget: Option<Budget>,
    waits: Waits,
}

impl Pump<'_> {
    async fn run(
        &mut self,
        mut chunks: tokio::sync::mpsc::Receiver<Result<Loaded>>,
        stop: &watch::Receiver<Stop>,
    ) -> Result<End> {
        self.tell();
        let mut under_way = FuturesOrdered::new();
        let mut last: Option<Position> = None;
        let mut end = None;
        let mut stop_now = std::pin::pin!(asked(stop, Stop::Now));
        let mut stop_at_unit = std::pin::pin!(asked(stop, Stop::AtUnit));
        loop {
            if let Some(end) = end
                && under_way.is_empty()
            {
                if end == End::Whole {
                    // The reader may have ended early without an error.
                    if self.tally.rows < self.rows {
                        return Err(Error::Internal("the reading thread ended before the source did".to_owned()));
                    }
                    self.check_budget(true)?;
                }
                return Ok(end);
            }
            let (idle, began) = (under_way.is_empty(), Instant::now());
            tokio::select! {
                biased;
                () = &mut stop_now => return Err(Error::Interrupted),
                // No unit is in progress, and the first may come late if its file must be read from its beginning.
                () = &mut stop_at_unit, if end.is_none() && last.is_none() => end = Some(End::AtUnit),
                Some(done) = under_way.next() => {
                    let pairs: Pairs = flatten(done)?;
                    self.tally.merge(&pairs.tally);
                    self.tell();
                    self.check_budget(false)?;
                    let began = Instant::now();
                    if !self.writer.write(pairs).await {
                        return Ok(End::Broken);
                    }
                    self.waits.table += began.elapsed();
                }
                chunk = chunks.recv(), if end.is_none() && under_way.len() < self.workers => match chunk.transpose()? {
                    Some(next) if *stop.borrow() != Stop::No && last != Some(next.chunk.unit) => end = Some(End::AtUnit),
                    Some(next) => {
                        if idle {
                            self.waits.rows += began.elapsed();
                        }
                        last = Some(next.chunk.unit);
                        under_way.push_back(SpawnedTask::spawn(Arc::clone(&self.work).on(next)).join());
                    }
                    None => end = Some(End::Whole),
                },
            }
        }
    }

    fn tell(&self) {
        let Self { rows, before, bytes, waits, .. } = *self;
        (self.progress)(&Done { rows, before, bytes, tally: &self.tally, waits });
    }

    fn check_budget(&self, at_end: bool) -> Result<()> {
        match self.budget {
            Some(budget) if budget.is_spent(&self.tally, at_end) => Err(budget.error(&self.tally)),
            _ => Ok(()),
        }
    }
}
