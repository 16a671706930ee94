//! State from which an interrupted run resumes, written atomically.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::data::Position;
use crate::error::{Error, Result};
use crate::step::Trainer;

/// Progress of a run, apart from its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps taken.
    pub steps: u64,
    /// Position of the sampler.
    #[serde(flatten)]
    pub position: Position,
    /// Pairs skipped because their image could not be used.
    pub skipped: u64,
    /// Index of the oldest features in the queues.
    pub queue_at: i64,
    /// Seconds of training.
    pub seconds: f64,
    /// [`crate::settings::Settings::digest`]; a run cannot be resumed with other settings.
    pub settings: String,
    /// [`crate::data::Table::stamp`] of each table; a run cannot be resumed with other files.
    #[serde(default)]
    pub tables: Vec<String>,
}

const PREFIX: &str = "state-";
const TENSORS: &str = "tensors.safetensors";
const PROGRESS: &str = "progress.json";

/// State folders in a run's folder, sorted with the newest last, and the remains of interrupted writes.
fn folders(run: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut whole, mut parts) = (vec![], vec![]);
    for entry in std::fs::read_dir(run).map_err(|e| Error::file(run, e))? {
        let path = entry.map_err(|e| Error::file(run, e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        match name.strip_prefix(PREFIX) {
            Some(tail) if tail.ends_with(".part") => parts.push(path),
            Some(_) => whole.push(path),
            None => {}
        }
    }
    whole.sort();
    Ok((whole, parts))
}

/// Writes a state beside the run's earlier ones, then removes those.
pub fn save(run: &Path, trainer: &Trainer, progress: &Progress) -> Result<()> {
    let whole = run.join(format!("{PREFIX}{:09}", progress.steps));
    let part = whole.with_extension("part");
    let failed = |e| Error::file(&part, e);
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(failed)?;
    }
    std::fs::create_dir_all(&part).map_err(failed)?;
    Tensor::write_safetensors(&tensors(trainer), part.join(TENSORS))?;
    let json = serde_json::to_string_pretty(progress).map_err(|e| Error::file(&part, e))?;
    std::fs::write(part.join(PROGRESS), json).map_err(failed)?;
    for name in [TENSORS, PROGRESS] {
        File::open(part.join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
    }
    let (older, _) = folders(run)?;
    if whole.exists() {
        std::fs::remove_dir_all(&whole).map_err(|e| Error::file(&whole, e))?;
    }
    std::fs::rename(&part, &whole).map_err(failed)?;
    File::open(run).and_then(|dir| dir.sync_all()).map_err(|e| Error::file(run, e))?;
    older.iter().filter(|path| **path != whole).try_for_each(|path| remove(path))
}

/// Restores a trainer from the newest state in the run's folder; `None` if there is no state.
///
/// # Errors
/// A state that cannot be read or belongs to other settings.
pub fn load(run: &Path, trainer: &mut Trainer, settings: &str) -> Result<Option<Progress>> {
    let (whole, parts) = folders(run)?;
    parts.iter().try_for_each(|path| remove(path))?;
    let Some(newest) = whole.last() else { return Ok(None) };
    let path = newest.join(PROGRESS);
    let json = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let progress: Progress = serde_json::from_str(&json).map_err(|e| Error::file(&path, e))?;
    if progress.settings != settings {
        return Err(Error::file(
            run,
            "the run was begun with other settings (settings.toml there): give the same, or another folder",
        ));
    }
    let path = newest.join(TENSORS);
    let stored = Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, e))?;
    for (name, own) in tensors(trainer) {
        let Some((_, tensor)) = stored.iter().find(|(stored, _)| *stored == name) else {
            return Err(Error::file(&path, format!("it has no tensor {name}")));
        };
        if tensor.size() != own.size() {
            return Err(Error::file(&path, format!("{name} has shape {:?}, not {:?}", tensor.size(), own.size())));
        }
        no_grad(|| own.shallow_clone().copy_(tensor));
    }
    trainer.queue_at = progress.queue_at;
    trainer.adamw.steps = progress.steps;
    Ok(Some(progress))
}

/// Removes all states once the run has finished.
pub fn clear(run: &Path) -> Result<()> {
    let (whole, parts) = folders(run)?;
    whole.iter().chain(&parts).try_for_each(|path| remove(path))
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).map_err(|e| Error::file(path, e))
}

/// Tensors of the trainer's state by name.
fn tensors(trainer: &Trainer) -> Vec<(String, Tensor)> {
    let mut all = vec![
        ("parameters", trainer.params.flat()),
        ("adamw.mean", &trainer.adamw.mean),
        ("adamw.square", &trainer.adamw.square),
    ];
    // Omitted where there are none, as in an answerer: safetensors hardly supports empty tensors.
    if !trainer.momentum.is_empty() {
        all.push(("momentum", trainer.momentum.flat()));
    }
    if trainer.options.queue > 0 {
        all.push(("queue.images", &trainer.queues.images));
        all.push(("queue.texts", &trainer.queues.texts));
        all.push(("queue.ids", &trainer.queue_ids));
    }
    all.into_iter().map(|(name, tensor)| (name.to_string(), tensor.shallow_clone())).collect()
}
