//! Resolution of checkpoint settings, and facts about a checkpoint that planning needs without loading it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use super::checkpoint::Checkpoint;
use super::config::BlipConfig;
use super::generation_config::PartialGeneration;
use super::med::{Med, ModelKey};
use super::session::OrtMed;
use crate::error::{Error, Result};

static NAMES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
static HUB: OnceLock<HubResolver> = OnceLock::new();

/// Prefix of a model's name on the Hugging Face hub: `hf:OWNER/NAME@REVISION`.
const HUB_PREFIX: &str = "hf:";

/// Finds the checkpoint folder of a model's name on the hub, which begins with `hf:`. It may download the model, so it
/// may block for long; an error says what to do.
pub type HubResolver = fn(&str) -> std::result::Result<PathBuf, String>;

/// Registers `name` for the checkpoint in `dir` in this process, for example for `SET capfilt.captioner = 'name'`.
pub fn register_checkpoint(name: impl Into<String>, dir: impl Into<PathBuf>) {
    NAMES.lock().unwrap_or_else(|e| e.into_inner()).insert(name.into(), dir.into());
}

/// Sets how names on the hub are resolved in this process, which itself has no access to the network. The first call
/// counts.
pub fn set_hub_resolver(resolver: HubResolver) {
    HUB.get_or_init(|| resolver);
}

/// Folder of a registered name, of a name on the hub, or else `name` as a folder; absolute, with links resolved.
pub fn checkpoint_dir(name: &str) -> Result<PathBuf> {
    let names = || NAMES.lock().unwrap_or_else(|e| e.into_inner());
    let registered = names().get(name).cloned();
    let dir = match registered {
        Some(dir) => dir,
        None if name.starts_with(HUB_PREFIX) => {
            let resolver = HUB.get().ok_or_else(|| {
                let reason =
                    "this program does not read names on the hub: `capfilt model fetch NAME` prints the folder to give";
                Error::checkpoint(name, reason)
            })?;
            resolver(name).map_err(|reason| Error::checkpoint(name, reason))?
        }
        None => PathBuf::from(name),
    };
    let missing = |e: std::io::Error| {
        let known: Vec<String> = names().keys().cloned().collect();
        let known = if known.is_empty() { String::new() } else { format!(" (registered names: {})", known.join(", ")) };
        let repository = name.split('/').count() == 2 && !name.starts_with(['.', '/', '~']) && !name.ends_with('/');
        let fetch = if repository { format!("; a repository of the hub is named hf:{name}") } else { String::new() };
        Error::checkpoint(
            &dir,
            format!("{e}; give the folder of a BLIP checkpoint in Hugging Face layout{fetch}{known}"),
        )
    };
    let dir = dir.canonicalize().map_err(missing)?;
    if !dir.is_dir() {
        return Err(Error::checkpoint(dir, "no folder; give the folder that holds config.json and model.safetensors"));
    }
    Ok(dir)
}

/// Decoding options in the checkpoint's generation_config.json.
pub fn generation_defaults(dir: &Path) -> Result<PartialGeneration> {
    PartialGeneration::read(dir)
}

/// Width of the checkpoint's ITC embeddings.
pub fn projection_dim(dir: &Path) -> Result<usize> {
    Ok(BlipConfig::read(dir)?.projection)
}

/// Loads a checkpoint on ONNX Runtime.
pub fn load(key: &ModelKey) -> Result<Arc<dyn Med>> {
    let checkpoint = Arc::new(Checkpoint::open(&key.checkpoint)?);
    Ok(Arc::new(OrtMed::in_room(checkpoint, &key.device, key.precision, key.threads, key.room)?))
}
