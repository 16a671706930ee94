//! Client for models of the hub: it finds them, and downloads files that the cache lacks.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::request::{Http, encode_revision};
use crate::{Cache, Error, Name, Settings, Snapshot, Wanted, rules, wanted};

/// Client of a hub, with the cache that it fills.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) http: Arc<Http>,
    cache: Cache,
}

/// How far a file has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// File in the repository.
    pub file: &'a str,
    /// Bytes that are there, those of earlier runs too.
    pub done: u64,
    /// Size of the file in bytes, if the hub states it.
    pub total: Option<u64>,
}

/// Receives the progress of a download, several times a MiB, and must return soon.
pub type OnProgress<'a> = &'a (dyn Fn(Progress<'_>) + Send + Sync);

/// Model as the hub knows it: the commit of its name, and the files there.
#[derive(Clone, Debug)]
pub struct Repository {
    name: Name,
    commit: String,
    files: Vec<String>,
}

impl Repository {
    /// Name that was asked for.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Commit, 40 hex digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Files of the commit; names that lead out of the repository are left out.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Name with the commit for its revision: `hf:OWNER/NAME@COMMIT`.
    pub fn pinned(&self) -> Name {
        self.name.at(&self.commit)
    }
}

/// Answer about a revision.
#[derive(Deserialize)]
pub(crate) struct Revision {
    pub(crate) sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    /// Makes a client of the environment; see [`Settings::from_env`] and [`Cache::from_env`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(Settings::from_env()?, Cache::from_env()?)
    }

    /// Makes a client. Without TLS on this machine that is an [`Error::Connection`].
    pub fn new(settings: Settings, cache: Cache) -> Result<Self, Error> {
        Ok(Self { http: Arc::new(Http::new(settings)?), cache })
    }

    /// Cache that is filled.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Asks the hub for the commit of a name and the files there. That it is not there, may not be read or cannot be
    /// reached is an error, and so is [`Error::Offline`].
    pub async fn resolve(&self, name: &Name) -> Result<Repository, Error> {
        self.resolve_within(name, self.http.settings.retries).await
    }

    async fn resolve_within(&self, name: &Name, retries: u32) -> Result<Repository, Error> {
        let path = format!("api/models/{}/revision/{}", name.id(), encode_revision(name.revision()));
        let revision: Revision = self.revision(&path, name, retries).await?;
        let safe = |file: &String| {
            let safe = rules::is_plain(file);
            if !safe {
                log::warn!("{name}: the file name {file:?} is left out: it is no plain path inside the repository");
            }
            safe
        };
        if name.commit().is_some_and(|commit| commit != revision.sha) {
            return Err(Error::OtherCommit { subject: name.to_string(), found: revision.sha });
        }
        let files = revision.siblings.into_iter().map(|sibling| sibling.rfilename).filter(safe).collect();
        Ok(Repository { name: name.clone(), commit: revision.sha, files })
    }

    /// Answer about a revision, with a commit that is one.
    pub(crate) async fn revision(
        &self,
        path: &str,
        subject: &impl fmt::Display,
        retries: u32,
    ) -> Result<Revision, Error> {
        let target = self.http.target(path, subject.to_string())?;
        let (revision, _): (Revision, _) = self.http.json(&target, retries).await?;
        if rules::is_commit(&revision.sha) {
            Ok(revision)
        } else {
            Err(target.wrong(&format!("{:?} is no commit", revision.sha)))
        }
    }

    /// Finds a checkpoint in the cache or fetches it: its small files, and its weights as safetensors, or as a pickle
    /// where there is nothing else and `pickle` allows it.
    ///
    /// A commit whose files are in the cache as safetensors is used without asking the hub. For any other name the hub
    /// is asked first; if it cannot be reached, the cached commit is used and a warning is logged. Offline, what is not
    /// whole in the cache is [`Error::NotCached`].
    pub async fn checkpoint(&self, name: &Name, pickle: bool, progress: OnProgress<'_>) -> Result<Snapshot, Error> {
        let settings = &self.http.settings;
        let cached = self.cached(name, pickle)?;
        let (cached, settled) = match cached {
            Some((snapshot, is_pickle)) => (Some(snapshot), name.commit().is_some() && !is_pickle),
            None => (None, false),
        };
        if settings.offline || settled {
            let cache = self.cache.root().to_owned();
            return cached.ok_or_else(|| Error::NotCached { name: name.to_string(), cache });
        }
        let retries = if cached.is_some() { 0 } else { settings.retries };
        let repository = match (self.resolve_within(name, retries).await, cached) {
            (Ok(repository), _) => repository,
            (Err(e), Some(cached)) if e.retry().is_some() => {
                log::warn!("{e}: using what the cache has, commit {}", cached.commit());
                return Ok(cached);
            }
            (Err(e), _) => return Err(e),
        };
        let subject = repository.pinned().to_string();
        let files = match wanted(repository.files()) {
            Wanted::Safetensors(files) => files,
            Wanted::PickleAlone(files) if pickle => files,
            Wanted::PickleAlone(files) => {
                let files = files.into_iter().filter(|file| file.ends_with(".bin")).collect();
                return Err(Error::PickleAlone { subject, files });
            }
            Wanted::Nothing => return Err(Error::NoWeights { subject }),
        };
        self.download(&repository, &files, progress).await
    }

    /// Snapshot of a name, if all files of a checkpoint are there, and whether its weights are a pickle. Python's client
    /// caches only the files that a program asks for.
    fn cached(&self, name: &Name, pickle: bool) -> Result<Option<(Snapshot, bool)>, Error> {
        let Some(snapshot) = self.cache.snapshot(name)? else { return Ok(None) };
        let has = |one_of: &[&str]| one_of.iter().any(|file| snapshot.has(file));
        let is_whole = has(&["config.json"])
            && has(&["tokenizer.json", "vocab.txt"])
            && has(&["preprocessor_config.json", "processor_config.json"]);
        let is_pickle = match wanted(&snapshot.files()?) {
            Wanted::Safetensors(_) => false,
            Wanted::PickleAlone(_) if pickle => true,
            _ => return Ok(None),
        };
        Ok(is_whole.then_some((snapshot, is_pickle)))
    }
}
