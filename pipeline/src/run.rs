//! A job from its source to its destination.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::watch;

use crate::dest::{self, Dest};
use crate::error::{Error, Result};
use crate::recipe::{Columns, Planned, Recipe};
use crate::sink::{FILE_BYTES, Layout, Sink};
use crate::source::{Chunk, Source};
use crate::summary::{Summary, Tally};

/// Which pairs carry their image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// Those that are kept.
    Kept,
    /// All.
    All,
    /// None: the column is left out.
    None,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// A Parquet file or a folder of them.
    pub source: PathBuf,
    /// A folder.
    pub dest: PathBuf,
    /// What runs.
    pub recipe: Recipe,
    /// The source's image column.
    pub image_column: String,
    /// The source's text column.
    pub text_column: String,
    /// Other columns, and what they are called in the pair table.
    pub renames: Vec<(String, String)>,
    /// Leave dropped pairs out.
    pub kept_only: bool,
    /// Which pairs carry their image.
    pub images: Images,
    /// Replace the pair table at the destination.
    pub overwrite: bool,
}

/// A job that failed, and what it leaves.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// Files that are whole and in their place.
    pub files: Vec<PathBuf>,
    /// The old table, which was to be replaced, is as it was.
    pub untouched: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match (self.files.as_slice(), self.files.last()) {
            ([], _) if self.untouched => write!(f, "\n  the table that was there is as it was"),
            ([only], _) => write!(f, "\n  one finished file remains: {}", only.display()),
            ([first, ..], Some(last)) => {
                let count = self.files.len();
                write!(f, "\n  {count} finished files remain: {} to {}", first.display(), name(last))
            }
            _ => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, files: Vec::new(), untouched: false }
    }
}

/// Runs `job` in `ctx`, which has the functions and their settings.
///
/// `progress` hears of the source once (its rows), then of every chunk that is done. `stop` set to true ends the job: what is
/// not whole is removed.
pub async fn run(
    ctx: &SessionContext,
    job: &Job,
    mut stop: watch::Receiver<bool>,
    progress: &dyn Fn(&Source, &Tally),
) -> Result<Summary, Failure> {
    let started = Instant::now();
    let source = Arc::new(Source::open(&job.source)?);
    dest::check(&job.source, &job.dest, job.overwrite)?;
    let workers = one_partition(ctx);
    let columns = Columns { image: &job.image_column, text: &job.text_column, renames: &job.renames };
    let planned = Arc::new(job.recipe.plan(ctx, &source, &columns).await?);

    let dest = Dest::open(&job.dest)?;
    let replaces = job.overwrite && !dest.parts()?.is_empty();
    let (images, kept_only, overwrite) = (job.images, job.kept_only, job.overwrite);
    let layout = Layout { images, kept_only, overwrite, file_bytes: FILE_BYTES };
    let sink = Sink::open(dest, &planned.schema(), source.written_schema(), layout)?;

    let rows = ctx.copied_config().batch_size();
    let mut tally = Tally::default();
    progress(&source, &tally);
    let pumped = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Err(Error::Interrupted),
        done = pump(&source, &planned, &sink, workers, rows, &mut tally, progress) => done,
    };
    let whole = matches!(pumped, Ok(true));
    let (written, closed) = sink.close(whole).await;
    // The sink's own error is why the pump stopped, if it says that the sink did.
    let error = match (pumped, closed) {
        (Ok(_), Ok(())) => {
            let elapsed = started.elapsed();
            let (files, bytes, pairs) = (written.files, written.bytes, written.pairs);
            return Ok(Summary { tally, files_read: source.files(), files, bytes, pairs, elapsed });
        }
        (Ok(_), Err(error)) | (Err(error), _) => error,
    };
    // A cancelled engine fails its queries; the cause is the wish to stop.
    let error = if *stop.borrow() { Error::Interrupted } else { error };
    Err(Failure { error, untouched: replaces && written.files.is_empty(), files: written.files })
}

/// The session's partitions become chunks under way: a chunk is planned with one partition, which keeps its rows in order.
fn one_partition(ctx: &SessionContext) -> usize {
    let state = ctx.state_ref();
    let mut state = state.write();
    let execution = &mut state.config_mut().options_mut().execution;
    let workers = execution.target_partitions;
    execution.target_partitions = 1;
    // With one chunk alone, decoding would wait for the model and the model for decoding.
    workers.max(2)
}

/// Moves every chunk from the source through the recipe to the sink. False: the sink has stopped.
async fn pump(
    source: &Arc<Source>,
    planned: &Arc<Planned>,
    sink: &Sink,
    workers: usize,
    rows: usize,
    tally: &mut Tally,
    progress: &dyn Fn(&Source, &Tally),
) -> Result<bool> {
    let mut chunks = source.read(rows);
    let mut ended = false;
    let mut under_way = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some(done) = under_way.next() => {
                let (file, rows, pairs) = flatten(done)?;
                tally.add(rows, &pairs);
                progress(source, tally);
                for batch in pairs {
                    if !sink.write(file, batch).await {
                        return Ok(false);
                    }
                }
            }
            chunk = chunks.recv(), if !ended && under_way.len() < workers => match chunk {
                Some(chunk) => under_way.push_back(SpawnedTask::spawn(work(Arc::clone(planned), chunk?)).join()),
                None => ended = true,
            },
            else => return Ok(true),
        }
    }
}

type Done = (usize, u64, Vec<RecordBatch>);

async fn work(planned: Arc<Planned>, chunk: Chunk) -> Result<Done> {
    let rows = chunk.rows.num_rows() as u64;
    Ok((chunk.file, rows, planned.run(chunk.rows).await?))
}

fn flatten<E: fmt::Display>(done: Result<Result<Done>, E>) -> Result<Done> {
    done.unwrap_or_else(|e| Err(Error::Internal(format!("a task ended: {e}"))))
}
