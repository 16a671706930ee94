//! A job from its source to its destination.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use capfilt_udfs::CapfiltOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::dest::{Dest, Found};
use crate::earlier::{Earlier, merge};
use crate::error::{Error, Result};
use crate::load::{ImageIs, Loaded, Loader, mark};
use crate::manifest::{Identity, Manifest, State};
use crate::provenance::Provenance;
use crate::recipe::{Columns, Planned, Recipe};
use crate::source::{Chunk, Position, Source, Units};
use crate::stage::{End, Pairs, Stage, Written};
use crate::summary::{Summary, Tally};
use crate::table;
use crate::write::{Format, Parts};

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
    /// A Parquet, WebDataset (tar), CSV or JSON lines file, a folder of them or of images, or a glob.
    pub source: PathBuf,
    /// A folder.
    pub dest: PathBuf,
    /// What runs.
    pub recipe: Recipe,
    /// The source's column of images, or of their URLs or paths.
    pub image_column: String,
    /// Which of these it is.
    pub image_is: ImageIs,
    /// Which version of a Delta table is the source: a number or a time; the latest, or the one that an unfinished job began
    /// with, where there is none.
    pub source_version: Option<String>,
    /// The source's text column.
    pub text_column: String,
    /// Other columns, and what they are called in the pair table.
    pub renames: Vec<(String, String)>,
    /// Leave dropped pairs out.
    pub kept_only: bool,
    /// Which pairs carry their image.
    pub images: Images,
    /// What files the pair table is made of.
    pub parts: Parts,
    /// What to do where the destination has a table.
    pub again: Again,
    /// Rows of the source that are written whole, and done anew after a kill.
    pub unit_rows: u64,
    /// Size from which on a file of the table is ended, bytes.
    pub file_bytes: u64,
    /// This process's shard, from 1, and how many there are.
    pub shard: (u64, u64),
    /// How many rows may fail.
    pub max_failed: Option<Budget>,
    /// Which round of bootstrapping it is, from 1.
    pub round: u32,
    /// Captioners that the recipe calls beside the session's: `$captioner_2` and so on.
    pub captioners: Vec<String>,
    /// Filters that the recipe calls beside the session's: `$filter_2` and so on.
    pub filters: Vec<String>,
}

/// What to do where there is a table already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Refuse, or go on where it is unfinished.
    No,
    /// Replace it.
    Overwrite,
    /// Add what the source has got since.
    Update,
    /// Do the rows again whose image could not be had.
    RetryFailed,
}

/// How a job is asked to end before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is not.
    No,
    /// After the unit in hand.
    AtUnit,
    /// At once.
    Now,
}

/// How far a job is.
#[derive(Debug)]
pub struct Done<'a> {
    /// Rows of the source that are this job's.
    pub rows: u64,
    /// Those among them that an earlier run has done.
    pub before: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// All that is done.
    pub tally: &'a Tally,
}

/// A job that failed, and what it leaves.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// Rows that are done and need not be done again, and all rows.
    pub done: (u64, u64),
    /// The old table, which was to be replaced, is as it was.
    pub untouched: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let (done, all) = self.done;
        if done > 0 {
            write!(f, "\n  {done} of {all} rows are done: the same command goes on from there")?;
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

impl Job {
    pub(crate) fn units(&self) -> Units {
        let (shard, shards) = self.shard;
        Units { rows: self.unit_rows, shard: shard - 1, shards }
    }

    fn identity(&self, ctx: &SessionContext) -> Result<Identity> {
        let options = ctx.copied_config().options().extensions.get::<CapfiltOptions>().cloned().unwrap_or_default();
        Ok(Identity {
            engine: concat!("capfilt ", env!("CARGO_PKG_VERSION")).to_owned(),
            recipe: self.recipe.annotated(),
            models: options.provenance()?,
            captioners: digests(&options, "captioner", &self.captioners)?,
            filters: digests(&options, "filter", &self.filters)?,
            round: self.round,
            image_column: self.image_column.clone(),
            image_is: format!("{:?}", self.image_is).to_lowercase(),
            text_column: self.text_column.clone(),
            renames: self.renames.iter().cloned().collect(),
            kept_only: self.kept_only,
            images: format!("{:?}", self.images).to_lowercase(),
            format: format!("{:?}", self.parts).to_lowercase(),
            unit_rows: self.unit_rows,
            file_bytes: self.file_bytes,
            shards: self.shard.1,
        })
    }

    /// The parts of the table whose failed rows are to be done again.
    fn retried(&self, dest: &Dest, source: &mut Source) -> Result<Vec<PathBuf>> {
        let refuse = |why: &str| Err(Error::dest(&self.dest, format!("--retry-failed {why}")));
        if self.kept_only {
            return refuse("finds failed rows by their pairs, and --kept-only leaves them out");
        }
        if self.parts != Parts::Parquet {
            return refuse("is for tables of Parquet files");
        }
        if self.shard.1 != 1 {
            return refuse("is for tables of one shard");
        }
        if let Some(manifest) = dest.begun() {
            source.reorder(&manifest.files)?;
            if source.files() > manifest.files.len() {
                return refuse("is for the rows that the table has, and the source has new files: give --update first");
            }
        }
        let mut names = dest.parts()?;
        names.sort();
        Ok(names.iter().map(|name| dest.part(name)).collect())
    }

    /// The manifest to go on with, whether there is something to go on from, and whether it is on disk as it is.
    pub(crate) fn manifest(
        &self,
        found: Found,
        identity: Identity,
        source: &mut Source,
    ) -> Result<(Manifest, bool, bool)> {
        let root = std::path::absolute(&self.source).unwrap_or_else(|_| self.source.clone());
        let new = |source: &Source, replaces| Manifest::new(self.shard.0, identity, source, root, replaces);
        let mut manifest = match found {
            Found::Nothing { replaces } => {
                return Ok((new(source, replaces), false, false));
            }
            Found::Shards(other) => {
                source.reorder(&other.files)?;
                return Ok((new(source, false), false, false));
            }
            Found::Begun(manifest) => *manifest,
        };
        source.reorder(&manifest.files)?;
        let new = source.files() - manifest.files.len();
        if new == 0 {
            return Ok((manifest, true, true));
        }
        if self.again != Again::Update {
            let name = source.name(manifest.files.len());
            let more = if new > 1 { format!(" and {} more", new - 1) } else { String::new() };
            let reason = format!("{name}{more} came since the job began: give --update, which takes it in");
            return Err(Error::source(&self.source, reason));
        }
        manifest.files = source.records();
        manifest.source_version = source.version();
        manifest.state = State::Running;
        Ok((manifest, true, false))
    }

    /// Opens the source and plans the recipe.
    pub(crate) async fn prepare(&self, ctx: &SessionContext) -> Result<Prepared> {
        let version = match &self.source_version {
            Some(version) => Some(version.clone()),
            None => table::begun_with(&self.dest, self.again)?,
        };
        let source = Source::open_at(&self.source, version.as_deref())?;
        source.check_apart(&self.dest)?;
        let workers = one_partition(ctx);
        let columns = Columns {
            image: &self.image_column,
            image_is: self.image_is,
            text: &self.text_column,
            renames: &self.renames,
        };
        let planned = self.recipe.plan(ctx, &source, &columns).await?;
        let identity = self.identity(ctx)?;
        let loader = Loader::new(ctx, self.image_is, &self.image_column, source.root())?;
        Ok(Prepared { source, workers, planned, identity, loader })
    }

    /// How the pairs are written.
    pub(crate) fn format(&self, planned: &Planned, source: &Source, manifest: &Manifest) -> Result<Format> {
        let about = serde_json::to_string(&manifest.job).map_err(|e| Error::Internal(e.to_string()))?;
        let written = source.written_schema();
        let format = Format::new(&planned.schema(), written, self.images, self.kept_only, self.parts, &about)?;
        #[cfg(feature = "delta")]
        if self.parts == Parts::Delta {
            crate::delta::check_schema(&self.dest, &format.recorded)?;
        }
        #[cfg(not(feature = "delta"))]
        if self.parts == Parts::Delta {
            return Err(Error::Option(
                "this capfilt is built without the feature delta, which --format delta needs".to_owned(),
            ));
        }
        if self.parts != Parts::Delta && table::is_delta(&self.dest) {
            return Err(Error::dest(&self.dest, "it is a Delta table: give --format delta or another folder"));
        }
        Ok(format)
    }
}

/// What a job needs before its destination is looked at.
pub(crate) struct Prepared {
    pub(crate) source: Source,
    /// Chunks that are under way together.
    pub(crate) workers: usize,
    pub(crate) planned: Planned,
    pub(crate) identity: Identity,
    pub(crate) loader: Loader,
}

/// Runs `job` in `ctx`, which has the functions and their settings.
///
/// `progress` hears of every chunk that is done. `stop` ends the job early; what is done stays, and the same job goes on from
/// there.
pub async fn run(
    ctx: &SessionContext,
    job: &Job,
    stop: watch::Receiver<Stop>,
    progress: &dyn Fn(&Done<'_>),
) -> Result<Summary, Failure> {
    let started = Instant::now();
    let Prepared { mut source, workers, planned, identity, loader } = job.prepare(ctx).await?;
    let dest = Dest::open(&job.dest, job.shard.0, job.shard.1)?;
    let found = dest.look(&identity, job.again)?;
    let parts = if job.again == Again::RetryFailed { job.retried(&dest, &mut source)? } else { Vec::new() };
    let (manifest, begun, saved) = job.manifest(found, identity, &mut source)?;
    let replaces = manifest.replaces;
    let format = job.format(&planned, &source, &manifest)?;
    let provenance = Provenance::new(&manifest.job, planned.decoding());
    let units = job.units();
    let pairs = Arc::clone(&format.schema);
    let (stage, left) = Stage::open(dest, format, units, manifest, begun, saved)?;

    let source = Arc::new(source);
    let before = left.tally.rows;
    let rows = before + source.rows_of(&units, left.next);
    let retry = job.again == Again::RetryFailed;
    let earlier = retry.then(|| Earlier::new(Arc::clone(&source), pairs, parts));
    let work = Arc::new(Work { planned, provenance, source: Arc::clone(&source) });
    let mut pump =
        Pump { work, stage: &stage, workers, tally: left.tally, before, rows, progress, budget: job.max_failed };
    let batch = ctx.copied_config().batch_size();
    let pumped = pump.run(loader.load(source.read(units, left.next, batch), earlier), &stop).await;
    let tally = std::mem::take(&mut pump.tally);
    let end = match &pumped {
        Ok(end) => *end,
        Err(_) => End::Broken,
    };
    let (written, closed) = stage.close(end).await;
    let Written { files, bytes, pairs, rows: done, placing } = written;
    let untouched = replaces && !placing;
    // The stage's own error is why the pump stopped, if it says that the stage did.
    let error = match (pumped, closed) {
        (Ok(End::Whole), Ok(())) => {
            let elapsed = started.elapsed();
            return Ok(Summary { tally, files_read: source.files(), files, bytes, pairs, before, elapsed });
        }
        (Ok(_), Ok(())) => Error::Interrupted,
        (Ok(_), Err(error)) | (Err(error), _) => error,
    };
    // A cancelled engine fails its queries; the cause is the wish to stop.
    let error = if *stop.borrow() == Stop::Now { Error::Interrupted } else { error };
    Err(Failure { error, untouched, done: (done, rows) })
}

/// What models beside the session's are.
fn digests(options: &CapfiltOptions, role: &str, models: &[String]) -> Result<Vec<String>> {
    let digest = |model: &String| {
        let of = options.clone().with(role, model)?.provenance()?;
        Ok(if role == "filter" { of.filter } else { of.captioner }.unwrap_or_default())
    };
    models.iter().map(digest).collect()
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

/// What turns rows into pairs.
pub(crate) struct Work {
    pub(crate) planned: Planned,
    pub(crate) provenance: Provenance,
    pub(crate) source: Arc<Source>,
}

impl Work {
    pub(crate) async fn on(self: Arc<Self>, loaded: Loaded) -> Result<Pairs> {
        let Loaded { chunk: Chunk { unit, row, count, rows, numbers, earlier, .. }, images, problems } = loaded;
        let made = if numbers.is_empty() {
            Vec::new()
        } else {
            let provenance = self.provenance.of(self.source.name(unit.file), &numbers);
            mark(self.planned.run(&rows, images, provenance).await?, &problems)?
        };
        let mut all: Vec<u64> = earlier.iter().map(|(row, _)| *row).collect();
        all.dedup();
        let earlier_rows = all.len() as u64;
        let batches = merge(made, earlier)?;
        let rows = numbers.len() as u64 + earlier_rows;
        let tally = Tally::of(rows, &batches);
        Ok(Pairs { unit, row, rows: count, batches, tally })
    }
}

/// Moves every chunk from the source through the recipe to the stage.
struct Pump<'a> {
    work: Arc<Work>,
    stage: &'a Stage,
    workers: usize,
    tally: Tally,
    before: u64,
    rows: u64,
    progress: &'a dyn Fn(&Done<'_>),
    budget: Option<Budget>,
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
        let mut stop_now = std::pin::pin!({
            let mut stop = stop.clone();
            async move {
                if stop.wait_for(|stop| *stop == Stop::Now).await.is_err() {
                    // Nobody is left who could ask.
                    std::future::pending::<()>().await;
                }
            }
        });
        loop {
            if let Some(end) = end
                && under_way.is_empty()
            {
                if end == End::Whole {
                    // A reader that ended early is not one that read all.
                    if self.tally.rows < self.rows {
                        return Err(Error::Internal("the reading thread ended before the source did".to_owned()));
                    }
                    self.check_budget(true)?;
                }
                return Ok(end);
            }
            tokio::select! {
                biased;
                () = &mut stop_now => return Err(Error::Interrupted),
                Some(done) = under_way.next() => {
                    let pairs: Pairs = flatten(done)?;
                    self.tally.merge(&pairs.tally);
                    self.tell();
                    self.check_budget(false)?;
                    if !self.stage.write(pairs).await {
                        return Ok(End::Broken);
                    }
                }
                chunk = chunks.recv(), if end.is_none() && under_way.len() < self.workers => match chunk.transpose()? {
                    Some(next) if *stop.borrow() != Stop::No && last != Some(next.chunk.unit) => end = Some(End::AtUnit),
                    Some(next) => {
                        last = Some(next.chunk.unit);
                        under_way.push_back(SpawnedTask::spawn(Arc::clone(&self.work).on(next)).join());
                    }
                    None => end = Some(End::Whole),
                },
            }
        }
    }

    fn tell(&self) {
        let bytes = self.work.source.bytes();
        (self.progress)(&Done { rows: self.rows, before: self.before, bytes, tally: &self.tally });
    }

    fn check_budget(&self, at_end: bool) -> Result<()> {
        match self.budget {
            Some(budget) if budget.is_spent(&self.tally, at_end) => Err(budget.error(&self.tally)),
            _ => Ok(()),
        }
    }
}

pub(crate) fn flatten<E: fmt::Display>(done: Result<Result<Pairs>, E>) -> Result<Pairs> {
    done.unwrap_or_else(|e| Err(Error::Internal(format!("a task ended: {e}"))))
}
