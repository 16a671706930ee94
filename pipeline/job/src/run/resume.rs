//! A job's description, and everything that is checked and opened before its first row is read.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::file_record::FileRecord;
use capfilt_tables::halt;
use capfilt_tables::pair_table::State;
use capfilt_tables::source::files::Source;
use capfilt_tables::source::known::OpenOptions;
use capfilt_tables::source::memo::Memo;
use capfilt_tables::store::revision;
use capfilt_tables::store::url::{is_url, shown, whereabouts};
use capfilt_udfs::CapfiltOptions;
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use tokio::sync::watch;

use crate::checkpoint::admission::Admission;
use crate::checkpoint::apart::check_apart;
use crate::checkpoint::contract::JobStore;
use crate::checkpoint::manifest::{Identity, Manifest, PROGRAM, results};
use crate::checkpoint::manifests;
use crate::images::loader::ImageLoader;
use crate::images::register::image_loader;
use crate::job_file::JobFile;
use crate::options::{ImageIs, Images, Mode, OutputFormat, Pairs, Stop};
use crate::output::commit::register::committer;
use crate::output::pair_files::Format;
use crate::output::split_writer;
use crate::recipe::plan::{Planned, Recipe};
use crate::rows::dedupe::duplicates::{self, Duplicates};
use crate::rows::dedupe::options::Dedupe;
use crate::rows::dedupe::pass::Look;
use crate::tally::failure_limit::FailureLimit;

/// Interval between progress messages of the deduplication pass.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A job: its options, and what their values stand for.
#[derive(Debug, Clone)]
pub struct Job {
    /// The options.
    pub options: JobFile,
    /// A Parquet, WebDataset (tar), CSV or JSON lines file, a folder of them or of images, or a glob.
    pub source: PathBuf,
    /// Destination folder.
    pub dest: PathBuf,
    /// The recipe to run.
    pub recipe: Recipe,
    /// Where that root folder is now, if it has moved since the job began.
    pub moved_root: Option<PathBuf>,
    /// Version of a Delta source: a number or a time. By default the version that an unfinished job began with, or else
    /// the latest.
    pub source_version: Option<String>,
    /// Which pairs carry their image.
    pub images: Images,
    /// What to do if the destination already has a table.
    pub mode: Mode,
    /// Size in bytes at which a file of the table is closed.
    pub file_bytes: u64,
    /// This process's shard, from 1, and the number of shards.
    pub shard: (u64, u64),
    /// Maximum number or share of failed rows; unlimited if `None`.
    pub max_failed: Option<FailureLimit>,
    /// How to find rows that repeat an earlier one; they are dropped before the models see them.
    pub dedupe: Option<Dedupe>,
}

impl Job {
    fn identity(&self, ctx: &SessionContext, loader: &dyn ImageLoader) -> Result<Identity> {
        let (settings, options) = (capfilt_udfs::options(ctx), &self.options);
        let models = settings.provenance()?;
        Ok(Identity {
            engine: PROGRAM.to_owned(),
            results: results(&models),
            recipe: self.recipe.identity(),
            models,
            captioners: digests(&settings, "captioner", &options.captioner)?,
            filters: digests(&settings, "filter", &options.filter)?,
            round: options.round,
            dedupe: self.dedupe.map(|how| how.to_string()),
            image_column: options.image_column.clone(),
            image_is: options.image_is,
            // The path as given: another machine may resolve it differently.
            path_root: options.image_root.as_ref().map(|root| match root.to_string_lossy() {
                url if is_url(&url) => shown(&url),
                _ => root.components().collect::<PathBuf>().to_string_lossy().into_owned(),
            }),
            fetch: loader.settings(),
            text_column: options.text_column.clone(),
            renames: options.renames()?.into_iter().collect(),
            kept_only: options.write_pairs == Pairs::Kept,
            images: self.images,
            format: format!("{:?}", options.table_format).to_lowercase(),
            unit_rows: options.checkpoint_rows,
            file_bytes: self.file_bytes,
            shards: self.shard.1,
        })
    }

    /// Finds the rows that repeat an earlier one. Intermediate files stay in `folder`, so that a later run can resume.
    pub(crate) async fn duplicates(
        &self,
        ctx: &SessionContext,
        how: Dedupe,
        source: &Arc<Source>,
        folder: &Path,
        stop: &watch::Receiver<Stop>,
    ) -> Result<Duplicates> {
        let look = Look {
            how,
            image_column: self.options.image_column.clone(),
            named: self.options.image_is != ImageIs::Bytes,
            text_column: self.options.text_column.clone(),
            limits: capfilt_udfs::options(ctx).image_limits(),
        };
        let last = Cell::new(Instant::now());
        let tell = |rows: u64| {
            if last.get().elapsed() >= TELL_EVERY {
                last.set(Instant::now());
                log::info!("looking for duplicates: {rows} of {} rows", source.rows());
            }
        };
        duplicates::find(look, source, folder, stop, &tell).await
    }

    /// Parts of the old table whose failed rows are retried, in row order; empty unless this is a retry.
    pub(crate) fn retried(&self, store: &dyn JobStore, manifest: &Manifest) -> Result<Vec<PathBuf>> {
        let Some(old) = manifest.retried.as_deref().filter(|_| manifest.state == State::Running) else {
            return Ok(Vec::new());
        };
        if let Some(reason) = committer(self.options.table_format, &self.dest)?.lacks(old)? {
            // Parts of the old table are gone, so the retry's results can never replace them.
            store.save(old)?;
            store.clear()?;
            return Err(Error::dest(&self.dest, reason));
        }
        old.parts.iter().map(|part| store.part(part)).collect()
    }

    /// Returns the manifest to work with, whether to resume from it, and whether it is already saved unchanged.
    pub(crate) fn manifest(
        &self,
        store: &dyn JobStore,
        admission: Admission,
        identity: Identity,
        source: &mut Source,
    ) -> Result<(Manifest, bool, bool)> {
        let retry = self.mode == Mode::Retry;
        let new = |source: &Source, replaces| {
            let verdicts = self.recipe.verdicts();
            let mut manifest = Manifest::new(self.shard.0, identity, verdicts, source, replaces);
            self.relocate(&mut manifest)?;
            Ok::<_, Error>(manifest)
        };
        let mut manifest = match admission {
            Admission::Begin { replaces } => {
                return Ok((new(source, replaces)?, false, false));
            }
            Admission::BeginShard(other) => {
                source.reorder(&other.files)?;
                let mut manifest = new(source, false)?;
                manifest.columns.clone_from(&other.columns);
                return Ok((manifest, false, false));
            }
            // A stopped replacement starts over if its source has changed since.
            Admission::Continue(begun) if self.mode == Mode::Overwrite && !source.is_of(&begun.files) => {
                return Ok((new(source, true)?, false, false));
            }
            Admission::Continue(old) if retry && old.state == State::Finished => {
                let mut files = old.files.clone();
                source.take_mended(&mut files);
                source.reorder(&files)?;
                let mut manifest = new(source, true)?;
                manifest.columns.clone_from(&old.columns);
                manifest.retried = Some(old);
                return Ok((manifest, false, false));
            }
            Admission::Continue(mut begun) if retry => {
                source.reorder(&begun.files)?;
                let saved = !self.relocate(&mut begun)?;
                return Ok((*begun, true, saved));
            }
            Admission::Continue(manifest) => *manifest,
        };
        let mut saved = !self.relocate(&mut manifest)?;
        // Other programs may compact a Delta table.
        if manifest.state == State::Finished && self.options.table_format != OutputFormat::Delta {
            manifest.parts.iter().try_for_each(|part| store.part(part).map(drop))?;
        }
        // The user may have repaired a file that stopped the job. With several shards, another may already have read
        // rows of it.
        if self.shard.1 == 1 && manifest.state == State::Running {
            let begun = split_writer::left(store, &manifest)?.next;
            let begun = begun.file + usize::from(begun.row > 0);
            if source.take_over(&mut manifest.files, begun) {
                manifest.source_version = source.version;
                manifest.source_commit = revision::commit_of(&self.source);
                saved = false;
            }
        }
        if let Some(reason) = committer(self.options.table_format, &self.dest)?.lost(&manifest)? {
            return Err(Error::dest(&self.dest, reason));
        }
        source.reorder(&manifest.files)?;
        manifest.memos = source.memos();
        let Some(new) = newcomers(source, &manifest) else {
            return Ok((manifest, true, saved));
        };
        if self.mode != Mode::Update {
            let reason = format!("{new} came since the job began: `capfilt update` takes it in");
            return Err(Error::source(whereabouts(&self.source), reason));
        }
        manifest.files = source.records();
        manifest.source_version = source.version;
        manifest.source_commit = revision::commit_of(&self.source);
        manifest.state = State::Running;
        committer(self.options.table_format, &self.dest)?.recover(&mut manifest)?;
        Ok((manifest, true, false))
    }

    /// Records the job's description and where its source and its images are now. Returns whether anything changed.
    fn relocate(&self, manifest: &mut Manifest) -> Result<bool> {
        let file =
            serde_json::to_value(self.options.recorded()).map(Some).map_err(|e| Error::Internal(e.to_string()))?;
        let (source, path_root) = (whereabouts(&self.source), self.current_image_root().map(whereabouts));
        let changed = (&file, &source, &path_root) != (&manifest.file, &manifest.source, &manifest.path_root);
        (manifest.file, manifest.source, manifest.path_root) = (file, source, path_root);
        Ok(changed)
    }

    /// Files in the order this shard's job gave them, followed by further files in the order of another shard: a file's
    /// number determines which shard processes its rows.
    fn known(&self, mut all: Vec<Manifest>) -> (Vec<FileRecord>, BTreeMap<String, Memo>) {
        let mut memos = BTreeMap::new();
        for manifest in &mut all {
            memos.append(&mut manifest.memos);
        }
        let own = all.iter().position(|manifest| manifest.shard == self.shard.0);
        let mut known = own.map(|own| all.swap_remove(own).files).unwrap_or_default();
        if own.is_none() || self.mode != Mode::Retry {
            let most = all.into_iter().map(|manifest| manifest.files).max_by_key(Vec::len).unwrap_or_default();
            known.extend(most.into_iter().skip(known.len()));
        }
        (known, memos)
    }

    /// Opens the source, which may take minutes, on a separate thread; dropping the future stops it.
    async fn open(&self, ctx: &SessionContext) -> Result<Source> {
        let all = if self.mode == Mode::Overwrite { Vec::new() } else { manifests::manifests(&self.dest)? };
        let begun = manifests::begun_with(&all, self.shard.0, &whereabouts(&self.source), self.mode);
        let begun_version = || Some(begun?.source_version?.to_string());
        let version = self.source_version.clone().or_else(begun_version);
        let commit = begun.and_then(|begun| begun.source_commit.clone());
        let (known, memos) = self.known(all);
        let limit = Some(capfilt_udfs::options(ctx).image_limits().max_bytes);
        let mut texts = vec![self.options.text_column.clone()];
        if self.options.image_is != ImageIs::Bytes {
            texts.push(self.options.image_column.clone());
        }
        let (source, alone) = (self.source.clone(), self.mode == Mode::Retry);
        let open = move |halt: &halt::Halt| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (version, halt) = (version.as_deref(), Some(halt));
            let reading =
                OpenOptions { version, known: &known, memos: Some(&memos), alone, texts: &texts, limit, halt };
            revision::pin(&source, commit.as_deref())?;
            Source::open_as(&source, reading)
        };
        halt::aside(open).await
    }

    /// Opens the source and plans the recipe. Writes nothing, so it can be dropped at any point.
    pub(crate) async fn prepare(&self, ctx: &SessionContext) -> Result<Prepared> {
        // If the first picture of a text could not be fetched, all rows that repeat the text would be lost with it.
        let is_named = self.options.image_is != ImageIs::Bytes;
        if is_named && self.dedupe.is_some_and(|how| how.near.is_some() || how.texts.is_some()) {
            let reason = "--dedupe near and texts look at pictures, and the source has only their names: give exact";
            return Err(Error::Option(reason.to_owned()));
        }
        let source = self.open(ctx).await?;
        check_apart(&source, &self.dest)?;
        // A recipe sees only `web`; the caller's session keeps its own tables and partitioning.
        let (ctx, workers) = (&own_session(ctx), ctx.copied_config().target_partitions());
        let planned = self.recipe.plan(ctx, &source, &self.options).await?;
        let loader = self.loader(ctx, &source).await?;
        let identity = self.identity(ctx, &*loader)?;
        // With a single chunk in flight, decoding and inference would take turns instead of overlapping.
        Ok(Prepared { source, workers: workers.max(2), planned, identity, loader })
    }

    fn current_image_root(&self) -> Option<&Path> {
        self.moved_root.as_deref().or(self.options.image_root.as_deref())
    }

    /// Returns the loader of the source's images.
    pub(crate) async fn loader(&self, ctx: &SessionContext, source: &Source) -> Result<Arc<dyn ImageLoader>> {
        let root = self.current_image_root().unwrap_or(&source.root);
        image_loader(ctx, &self.options, root).await
    }

    /// Returns the output format. Errors if the columns differ from those the job began with: new text files may add
    /// columns or change their types.
    pub(crate) fn format(&self, planned: &Planned, source: &Source, manifest: &mut Manifest) -> Result<Format> {
        let (kept_only, output) = (self.options.write_pairs == Pairs::Kept, self.options.table_format);
        let format = Format::new(&planned.schema(), &source.written, &manifest.job, kept_only, output)?;
        if self.options.table_format == OutputFormat::JsonLines && planned.schema().field_with_name("caption").is_ok() {
            let reason = "JSON lines call the text caption, and the source has a column of that name: give --rename caption=caption_before";
            return Err(Error::Column(reason.to_owned()));
        }
        format.check()?;
        let columns = format.columns();
        let (long, short) = if columns.len() < manifest.columns.len() {
            (&manifest.columns, &columns)
        } else {
            (&columns, &manifest.columns)
        };
        let differing = long.iter().enumerate().find(|(at, column)| short.get(*at) != Some(column));
        match differing {
            // Readers of the table, and jobs that continue it, rely on a single schema.
            Some((_, (name, _))) if !manifest.columns.is_empty() => {
                let advice = if self.mode == Mode::Overwrite { "give" } else { "give --overwrite or" };
                let reason = format!(
                    "what the source has by now, or a setting, changes the table's column {name}: {advice} another folder"
                );
                return Err(Error::dest(&self.dest, reason));
            }
            _ => manifest.columns = columns,
        }
        committer(self.options.table_format, &self.dest)?.check(&format.recorded)?;
        Ok(format)
    }
}

/// Everything a job needs before its destination is inspected.
pub(crate) struct Prepared {
    pub(crate) source: Source,
    /// Maximum number of chunks in flight.
    pub(crate) workers: usize,
    pub(crate) planned: Planned,
    pub(crate) identity: Identity,
    pub(crate) loader: Arc<dyn ImageLoader>,
}

/// Describes the source's files that are not in `manifest`; `None` if there are none. The source is in the manifest's
/// order.
fn newcomers(source: &Source, manifest: &Manifest) -> Option<String> {
    let known = manifest.files.len();
    match source.files() - known {
        0 => None,
        1 => Some(source.location_of(known)),
        new => Some(format!("{} and {} more", source.location_of(known), new - 1)),
    }
}

/// Digests of the models beside the session's own, which is the first.
fn digests(options: &CapfiltOptions, role: &str, models: &[String]) -> Result<Vec<String>> {
    let digest = |model: &String| {
        let of = options.clone().with(role, model)?.provenance()?;
        Ok(if role == "filter" { of.filter } else { of.captioner }.unwrap_or_default())
    };
    models.iter().skip(1).map(digest).collect()
}

/// A session with the functions and settings of `ctx` but none of its tables, and with a single partition, which
/// preserves the row order of a chunk.
fn own_session(ctx: &SessionContext) -> SessionContext {
    let state = ctx.state();
    let config = state.config().clone().with_target_partitions(1).with_create_default_catalog_and_schema(true);
    let state = SessionStateBuilder::new_from_existing(state)
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .with_config(config)
        .build();
    SessionContext::new_with_state(state)
}
