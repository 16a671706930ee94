//! Records the options that rounds were begun with, and refuses to continue with others.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use capfilt_job::{Options, differing, flatten};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::args::rounds::Training;
use crate::console::say;
use crate::hub;
use crate::rounds::plan::{Plan, absolute};
use crate::rounds::stage::{Stage, quoted};

const OPTIONS: &str = "rounds.json";
const TEMP: &str = "rounds.json.tmp";
const LOCK: &str = "rounds.lock";
/// Format version of rounds.json.
const FORMAT: u32 = 1;
/// Settings that do not change results; capfilt-train may resume with other values.
const SPEED: [&str; 3] = ["data.threads", "train.checkpoint_steps", "train.log_steps"];

/// rounds.json: the options that the rounds in a folder were begun with, by the names of a round's subfolders. Those of a
/// stage determine it in each round, besides those of the stages before it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    format: u32,
    stages: BTreeMap<String, Options>,
}

impl Plan<'_> {
    /// Collects the options that determine the rounds' contents, but not their number, and checks them as far as
    /// possible before hours of work.
    pub(crate) fn begin(&self, stages: &[Stage]) -> Result<Begun> {
        let a = self.args;
        let mut pairs = Options::new();
        if let Some(recipe) = stages.first().map(Stage::check_run).transpose()?.flatten() {
            let text = fs::read(&recipe).with_context(|| format!("--recipe {}", recipe.display()))?;
            pairs.insert("recipe".to_owned(), hex::encode(Sha256::digest(text)));
        }
        pairs.insert("capfilt run's arguments".to_owned(), quoted(&a.run));
        pairs.insert("captioner".to_owned(), model("captioner", &a.captioner)?);
        pairs.insert("filter".to_owned(), model("filter", &a.filter)?);
        pairs.extend(table("source", &a.source)?);

        let mut med = self.settings_of(Training::Pretrain)?;
        let unset = |key: &str| med.get(key).is_some_and(String::is_empty);
        if a.start.is_none() && unset("model.start") && unset("model.tokenizer") {
            bail!(
                "a MED from nothing needs a tokenizer: give --set-train model.tokenizer=FILE, a tokenizer.json, or --start DIR, a \
                 checkpoint to begin with"
            );
        }
        let human = table("human", &a.human)?;
        if human.len() < 2 {
            bail!("--human {}: there is no such file or folder", a.human.display());
        }
        med.extend(human);
        med.insert("human-query".to_owned(), a.human_query.clone().unwrap_or_default());
        med.insert("human-share".to_owned(), a.human_share.map(|share| share.to_string()).unwrap_or_default());
        let start = a.start.as_ref().map(|start| model("start", start)).transpose()?;
        med.insert("start".to_owned(), start.unwrap_or_default());

        let mut stages = BTreeMap::from([("pairs".to_owned(), pairs), ("med".to_owned(), med)]);
        for training in [Training::Captioner, Training::Filter] {
            let [_, _, folder, _] = training.words();
            stages.insert(folder.to_owned(), self.settings_of(training)?);
        }
        Ok(Begun { format: FORMAT, stages })
    }

    /// All effective settings of a training, as printed by capfilt-train, which also validates the given ones.
    fn settings_of(&self, training: Training) -> Result<Options> {
        let [name, command, ..] = training.words();
        let mut config = Command::new(&self.trainer);
        config.arg("config").stdin(Stdio::null());
        if training != Training::Pretrain {
            config.args(["--preset", command]);
        }
        // Without any setting it prints the defaults in another form.
        config.args(["--set", "train.log_steps=1"]).args(self.settings(training));
        let output = config.output().with_context(|| format!("cannot run {}", self.trainer.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("error: ");
            bail!("settings of {name}: {said} ({}: {})", self.trainer.display(), output.status);
        }
        let printed = toml::from_str(&String::from_utf8_lossy(&output.stdout));
        let mut settings = flatten(&printed.with_context(|| format!("settings of {name}"))?);
        settings.retain(|key, _| !SPEED.contains(&key.as_str()));
        Ok(settings)
    }

    /// Creates the folder. Errors if it exists and holds other files.
    pub(crate) fn make_folder(&self) -> Result<()> {
        let place = || self.place();
        if self.dest.to_string_lossy().contains("://") {
            bail!("{}: rounds are made in a folder of this machine: give one", place());
        }
        fs::create_dir_all(&self.dest).with_context(place)?;
        if self.dest.join(OPTIONS).exists() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.dest).with_context(place)? {
            let name = entry.with_context(place)?.file_name();
            if ![LOCK, TEMP].iter().any(|own| name == *own) {
                bail!("{}: it holds {}, and no rounds: give another folder", place(), name.display());
            }
        }
        Ok(())
    }

    /// Locks the folder. The running stage inherits the lock file as its standard input, so a stage that survives a
    /// kill of this process keeps others out.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.dest.join(LOCK);
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = open.with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let of = self.place();
                bail!(
                    "{of}: another capfilt rounds works there, or a stage that one left running: wait for it, or end it"
                );
            }
            // The file system does not support locks: continue without one.
            Err(TryLockError::Error(e)) => say(&format!("warning: cannot lock {}: {e}", path.display())),
        }
        Ok(file)
    }

    /// Records the options. When resuming, errors if an option differs that a stage begun earlier depends on.
    pub(crate) fn agree(&self, stages: &[Stage], now: &Begun) -> Result<()> {
        let path = self.dest.join(OPTIONS);
        if path.exists() {
            let broken = || format!("{}: it is not this version's: give another folder", path.display());
            let text = fs::read(&path).with_context(broken)?;
            let before: Begun = serde_json::from_slice(&text).with_context(broken)?;
            if before.format != FORMAT {
                bail!(broken());
            }
            if before == *now {
                return Ok(());
            }
            let mut differences = Vec::new();
            // The list starts with the first round's stages, and each affects those after it.
            for (place, name) in ["pairs", "med", "captioner", "filter"].into_iter().enumerate() {
                if stages.iter().skip(place).any(Stage::has_begun) {
                    let [before, now] = [&before, now].map(|of| of.stages.get(name).cloned().unwrap_or_default());
                    let differing = differing(&before, &now);
                    let words = |(option, before, now)| format!("{name}: {option} was {before} and is {now}");
                    differences.extend(differing.into_iter().map(words));
                }
            }
            if !differences.is_empty() {
                let differences = differences.join("; ");
                bail!("{}: its rounds were begun otherwise: {differences}: give another folder", self.place());
            }
        }
        let temp = self.dest.join(TEMP);
        let write = || -> Result<()> {
            let mut file = File::create(&temp)?;
            file.write_all(&serde_json::to_vec_pretty(now)?)?;
            file.sync_all()?;
            fs::rename(&temp, &path)?;
            Ok(File::open(&self.dest)?.sync_all()?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Digest of a checkpoint.
fn model(option: &str, folder: &Path) -> Result<String> {
    Ok(capfilt_udfs::inspect(&hub::folder(folder)?).with_context(|| format!("--{option} {}", folder.display()))?.digest)
}

/// Path of a table, and its number of files and bytes if it exists locally.
fn table(option: &str, path: &Path) -> Result<Options> {
    let mut options = Options::from([(option.to_owned(), absolute(path).display().to_string())]);
    if let Some((files, bytes)) = size(path).with_context(|| format!("{option} {}", path.display()))? {
        options.insert(format!("{option}.files"), files.to_string());
        options.insert(format!("{option}.bytes"), bytes.to_string());
    }
    Ok(options)
}

/// Number of files of a table and their bytes, without bookkeeping; `None` if no file has this name, as for a glob.
fn size(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let Ok(about) = fs::metadata(path) else { return Ok(None) };
    if !about.is_dir() {
        return Ok(Some((1, about.len())));
    }
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(['.', '_']) {
            continue;
        }
        let (n, size) = size(&entry.path())?.unwrap_or_default();
        (files, bytes) = (files + n, bytes + size);
    }
    Ok(Some((files, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_size() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("pairs/_capfilt")).unwrap();
        for (name, text) in [("part-0.parquet", "abc"), ("_capfilt/manifest.json", "{}"), ("part-1.parquet", "de")] {
            fs::write(folder.path().join("pairs").join(name), text).unwrap();
        }
        assert_eq!(size(folder.path()).unwrap(), Some((2, 5)));
        assert_eq!(size(&folder.path().join("pairs/part-0.parquet")).unwrap(), Some((1, 3)));
        assert_eq!(size(&folder.path().join("*.parquet")).unwrap(), None);
    }
}
