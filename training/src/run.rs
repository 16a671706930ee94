//! A training run: tables in, checkpoint out; an interrupted run resumes where it stopped.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use capfilt_udfs::image::Limits;

use crate::card;
use crate::checkpoint::export;
use crate::data::{Augment, Buffer, Loader, LoaderOptions, Position, Sampler, Table};
use crate::error::{Error, Result};
use crate::pretrained::{Start, start};
use crate::report::{Line, Reporter};
use crate::settings::{Each, Schedule, Settings, TextChoice, TrainSettings};
use crate::state::{self, Progress};
use crate::step::StepReport;

pub use crate::summary::Summary;

/// Folder of the exported checkpoint in a run's folder.
pub const CHECKPOINT: &str = "checkpoint";
const SETTINGS: &str = "settings.toml";
const DONE: &str = "done.json";
const LOCK: &str = "lock";

/// Schedule of a run: learning rate and ITC's `alpha` of each step.
#[derive(Debug, Clone)]
pub struct Plan {
    train: TrainSettings,
    alpha: f64,
    alpha_epochs: f64,
    /// Steps per epoch.
    pub epoch_steps: f64,
    /// Total number of steps.
    pub steps: u64,
}

impl Plan {
    /// Creates the schedule. `pairs` is the number of pairs per epoch, unless the settings give one.
    pub fn new(settings: &Settings, pairs: f64) -> Self {
        let train = settings.train.clone();
        let pairs = if train.epoch_pairs > 0 { train.epoch_pairs as f64 } else { pairs };
        let epoch_steps = (pairs / (settings.data.batch * settings.data.accumulate) as f64).max(1e-9);
        let steps = if train.steps > 0 { train.steps } else { (train.epochs * epoch_steps).ceil().max(1.0) as u64 };
        Self { train, alpha: settings.loss.alpha, alpha_epochs: settings.loss.alpha_epochs, epoch_steps, steps }
    }

    /// Number of epochs completed before a step.
    pub fn epoch(&self, step: u64) -> f64 {
        step as f64 / self.epoch_steps
    }

    /// Learning rate of a step; steps are numbered from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let t = &self.train;
        if step < t.warmup_steps {
            return t.warmup_lr + (t.lr - t.warmup_lr) * step as f64 / t.warmup_steps as f64;
        }
        let whole = |epochs: f64| if t.each == Each::Epoch { epochs.floor() } else { epochs };
        let epoch = whole(self.epoch(step));
        match t.schedule {
            Schedule::Constant => t.lr,
            Schedule::Exponential => (t.lr * t.decay.powf(epoch)).max(t.min_lr),
            Schedule::Cosine => {
                let share = (epoch / self.epoch(self.steps)).min(1.0);
                t.min_lr + (t.lr - t.min_lr) * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
            }
        }
    }

    /// Share of the momentum encoders in ITC's targets.
    pub fn alpha(&self, step: u64) -> f64 {
        let ramp = if self.alpha_epochs > 0.0 { (self.epoch(step) / self.alpha_epochs).min(1.0) } else { 1.0 };
        self.alpha * ramp
    }
}

/// Pins Delta tables without a version to the version with which the run began, or else to the latest, so that a run
/// sees one version of each. A recorded version is ignored if the settings now name another table in its place.
fn pinned(settings: &Settings, out: &Path) -> Result<Settings> {
    let mut settings = settings.clone();
    let begun = std::fs::read_to_string(out.join(SETTINGS)).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let before = begun.as_ref().and_then(|begun| begun.get("data")?.get("tables")?.as_array());
    for (place, table) in settings.data.tables.iter_mut().enumerate().filter(|(_, table)| table.version.is_none()) {
        let same = before
            .and_then(|tables| tables.get(place))
            .filter(|before| before.get("path").and_then(|path| path.as_str()) == table.path.to_str());
        let version = same.and_then(|before| before.get("version")?.as_str().map(str::to_owned));
        let latest = || capfilt_tables::delta_source(&table.path, None).map_err(|e| Error::file(&table.path, e));
        table.version = match version {
            Some(version) => Some(version),
            None => latest()?.and_then(|found| found.version).map(|version| version.to_string()),
        };
    }
    Ok(settings)
}

/// Trains, or resumes training, in the folder `out`, then exports. A finished run is left unchanged.
///
/// # Errors
/// Settings, tables and checkpoints that cannot be used, a folder with a run begun under other settings, and a gradient
/// that is not finite.
pub fn train(settings: &Settings, out: &Path) -> Result<Summary> {
    std::fs::create_dir_all(out).map_err(|e| Error::file(out, e))?;
    let _lock = lock(out)?;
    let digest = settings.digest()?;
    if let Some(done) = finished(out)? {
        if done.settings != digest {
            return Err(Error::file(out, "a run with other settings ended here (settings.toml): give another folder"));
        }
        eprintln!("{}: has ended after {} steps; nothing to do", out.display(), done.steps);
        return Ok(done);
    }
    if settings.threads > 0 {
        tch::set_num_threads(i32::try_from(settings.threads).unwrap_or(i32::MAX));
    }
    let mut began = start(settings)?;
    let began_with = card::began_with(&settings.model)?;
    if !began.drawn.is_empty() && !settings.model.start.as_os_str().is_empty() {
        eprintln!("{}: not in the checkpoint, drawn anew: {}", out.display(), began.drawn.join(", "));
    }
    let temperature = began.trainer.params().get("temp").map(|temp| temp.detach().copy());
    let pinned = pinned(settings, out)?;
    let tables = tables(&pinned)?;
    let resumed = state::load(out, &mut began.trainer, &digest)?;
    let stamps = tables.iter().map(|table| table.stamp()).collect::<Result<Vec<_>>>()?;
    if let Some(at) = resumed.as_ref().and_then(|p| stamps.iter().zip(&p.tables).position(|(now, then)| now != then)) {
        let reason = "its files are other than when the run began, so the run cannot go on as it would have: give back the old \
                      ones, or another --out";
        return Err(Error::file(tables[at].path(), reason));
    }
    write_whole(&out.join(SETTINGS), &pinned.toml()?)?;
    let pairs = |table: &Arc<Table>| match settings.data.texts {
        TextChoice::All => table.size,
        TextChoice::One => table.images as f64,
    };
    let plan = Plan::new(settings, tables.iter().map(pairs).sum());
    let begun = Begun { settings: digest, tables: stamps };
    let summary = steps(settings, out, &mut began, &tables, &plan, resumed, begun)?;

    // Without ITC the temperature was not learned and has only decayed like all parameters, so it is restored.
    if let Some(temperature) = temperature.filter(|_| !settings.loss.itc) {
        began.trainer.params().set("temp", &temperature)?;
    }
    let folder = out.join(CHECKPOINT);
    let (what, kind) = (settings.export_what()?, settings.export_kind()?);
    let Start { trainer, tokenizer_json, preprocessor, .. } = &began;
    export(&folder, trainer.config(), trainer.params(), what, tokenizer_json, preprocessor, kind)?;
    card::write(&folder, settings, trainer.config(), &tables, &summary, &began_with)?;
    // Written last: its existence marks the run as complete.
    let json = serde_json::to_string_pretty(&summary).map_err(|e| Error::file(out, e))?;
    write_whole(&out.join(DONE), &json)?;
    state::clear(out)?;
    Ok(summary)
}

/// State recorded at the start of a run, which must be unchanged when it is resumed.
struct Begun {
    /// Digest of the settings.
    settings: String,
    /// Stamp of each table.
    tables: Vec<String>,
}

/// Locks a run's folder against other processes for as long as the file is held.
fn lock(out: &Path) -> Result<File> {
    let path = out.join(LOCK);
    let lock = File::create(&path).map_err(|e| Error::file(&path, e))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::file(out, "another process is training there: let it end, or stop it"))
        }
        Err(TryLockError::Error(e)) => {
            // The file system has no locks: continue without one.
            eprintln!("cannot lock {}: {e}", path.display());
            Ok(lock)
        }
        Ok(()) => Ok(lock),
    }
}

/// Writes a file atomically.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text).map_err(|e| Error::file(&part, e))?;
    std::fs::rename(&part, path).map_err(|e| Error::file(path, e))
}

/// Adds scores to the model card of a checkpoint, replacing earlier ones of the same kind.
pub fn add_scores(checkpoint: &Path, scores: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    card::add_scores(checkpoint, scores)
}

/// Copies the model card of the source checkpoint to an export, or writes one stating that the source has none.
pub fn carry_card(from: &Path, to: &Path) -> Result<()> {
    card::carry(from, to)
}

fn finished(out: &Path) -> Result<Option<Summary>> {
    let path: PathBuf = out.join(DONE);
    if !path.exists() {
        return Ok(None);
    }
    let json = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    serde_json::from_str(&json).map(Some).map_err(|e| Error::file(&path, e))
}

fn tables(settings: &Settings) -> Result<Vec<Arc<Table>>> {
    if settings.data.tables.is_empty() {
        return Err(Error::Option("there is nothing to train on: give --data PATH, or data.tables".into()));
    }
    let answers = settings.answers()?;
    let open = |table| {
        let table = if answers { Table::open_questions(table)? } else { Table::open(table)? };
        let (path, rows, images, lacking) = (table.path().display(), table.pairs, table.images, table.lacking());
        let what = if answers { "questions" } else { "pairs" };
        eprintln!("{path}: {rows} {what} of {images} images; {} rows without {lacking}", table.unusable);
        Ok(Arc::new(table))
    };
    settings.data.tables.iter().map(open).collect()
}

fn loader(
    settings: &Settings,
    began: &Start,
    tables: &[Arc<Table>],
    position: Position,
    skipped: u64,
) -> Result<Loader> {
    let d = &settings.data;
    let buffer = Buffer { groups: d.shuffle_buffer, bytes: d.shuffle_bytes };
    let sampler = Sampler::new(tables.to_vec(), settings.seed, d.texts, buffer)?;
    let options = LoaderOptions {
        seed: settings.seed,
        augment: Augment { crop: d.crop, flip: d.flip, randaugment: d.randaugment },
        preprocessor: began.preprocessor.clone(),
        limits: Limits { max_bytes: d.max_image_bytes, max_pixels: d.max_image_pixels },
        text_tokens: d.text_tokens.min(began.trainer.config().text.max_positions),
        clean_text: d.clean_text,
        prompt: settings.loss.prompt.clone(),
        threads: d.threads,
        // Two batches: one being collected and one waiting.
        ahead: 2 * d.batch,
    };
    Loader::start(sampler, Arc::new(began.tokenizer.clone()), options, position, skipped)
}

/// Runs all remaining steps.
fn steps(
    settings: &Settings,
    out: &Path,
    began: &mut Start,
    tables: &[Arc<Table>],
    plan: &Plan,
    resumed: Option<Progress>,
    begun: Begun,
) -> Result<Summary> {
    let first = resumed.as_ref().map_or(0, |p| p.steps);
    let (position, skipped, before) =
        resumed.map_or((Position::default(), 0, 0.0), |p| (p.position, p.skipped, p.seconds));
    let mut loader = loader(settings, began, tables, position, skipped)?;
    let mut reporter = Reporter::open(out, first, plan.steps, settings.train.log_steps)?;
    let trainer = &mut began.trainer;
    let clock = Instant::now();
    let (batch, parts) = (settings.data.batch, settings.data.accumulate);
    for step in first..plan.steps {
        let (rate, alpha) = (plan.learning_rate(step), plan.alpha(step));
        let (mut gradient, mut report) = (None, StepReport::default());
        for _ in 0..parts {
            let ready = trainer.batch(&loader.batch(batch)?);
            report.add(&trainer.accumulate(&ready, alpha, 1.0 / parts as f64, &mut gradient)?, 1.0 / parts as f64);
        }
        if let Some(gradient) = gradient {
            report.gradient_norm = trainer.apply(gradient, rate)?;
        }
        let seconds = before + clock.elapsed().as_secs_f64();
        reporter.step(&Line {
            step: step + 1,
            epoch: plan.epoch(step + 1),
            itc: report.itc,
            itm: report.itm,
            lm: report.lm,
            learning_rate: rate,
            gradient_norm: report.gradient_norm,
            temperature: report.temperature,
            pairs: (step + 1) * (batch * parts) as u64,
            skipped: loader.skipped(),
            seconds,
        })?;
        if (step + 1) % settings.train.checkpoint_steps == 0 && step + 1 < plan.steps {
            let (position, skipped, queue_at) = (loader.position().clone(), loader.skipped(), trainer.queue_at);
            let Begun { settings, tables } = &begun;
            let (settings, tables) = (settings.clone(), tables.clone());
            reporter.flush()?;
            let progress = Progress { steps: step + 1, position, skipped, queue_at, seconds, settings, tables };
            state::save(out, trainer, &progress)?;
        }
    }
    if loader.skipped() > 0 {
        eprintln!("{} images could not be used; the last: {}", loader.skipped(), loader.last_reason());
    }
    let last = reporter.finish()?;
    Ok(Summary {
        steps: plan.steps,
        pairs: plan.steps * (batch * parts) as u64,
        skipped: loader.skipped(),
        itc: last.itc,
        itm: last.itm,
        lm: last.lm,
        seconds: before + clock.elapsed().as_secs_f64(),
        settings: begun.settings,
    })
}

#[cfg(test)]
mod tests;
