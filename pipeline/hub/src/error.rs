//! Reasons for a failure.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reason for a failure; its message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that is no name of a model or a dataset.
    #[error("{name:?}: {problem}")]
    Name {
        /// The text.
        name: String,
        /// Reason why it is refused.
        problem: String,
    },
    /// Environment variable with a value that is not understood.
    #[error("{variable}: {problem}")]
    Setting {
        /// Name of the variable.
        variable: String,
        /// Reason why its value is refused.
        problem: String,
    },
    /// File or folder of the cache that cannot be read or written.
    #[error("{}: {source}{}", path.display(), hint(source))]
    File {
        /// Its path.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Disk with too little room for a file.
    #[error("{}: {needed} bytes are needed for {file} and {free} are free: free some, or set HF_HUB_CACHE to a folder \
        on another disk", path.display())]
    NoSpace {
        /// Folder on the disk.
        path: PathBuf,
        /// File in the repository.
        file: String,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Reference in the cache that names no commit.
    #[error("{}: {found:?} is no commit of 40 hex digits: delete this file and fetch again", path.display())]
    Reference {
        /// Path of the reference.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// Model that is not in the cache, or not whole, while the network must not be used.
    #[error("{name} is incomplete in the cache {}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids fetching it: fetch \
        it once without that variable", cache.display())]
    NotCached {
        /// Name of the model.
        name: String,
        /// Folder of the cache.
        cache: PathBuf,
    },
    /// Request while the network must not be used.
    #[error(
        "{subject}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids asking the hub: unset it, or use what is on this machine"
    )]
    Offline {
        /// What was to be asked for.
        subject: String,
    },
    /// Repository that may not be read; with status 401 the hub also hides that there is none.
    #[error("{subject}: gated or private (status {status}{said}): {advice}")]
    Denied {
        /// What was asked for.
        subject: String,
        /// HTTP status, 401 or 403.
        status: u16,
        /// Words of the server, after a comma.
        said: String,
        /// What to do.
        advice: &'static str,
    },
    /// Repository, revision or file that does not exist.
    #[error("{subject}: {problem} (status 404): check the spelling, and HF_TOKEN if it is private")]
    NotFound {
        /// What was asked for.
        subject: String,
        /// What there is none of.
        problem: &'static str,
    },
    /// Answer with a status that tells of a failure.
    #[error("{subject}: status {status} of {url}{}: try again later, or set HF_HUB_OFFLINE=1 to use what is cached", wait(*retry_after))]
    Status {
        /// What was asked for.
        subject: String,
        /// HTTP status.
        status: u16,
        /// Address, without its query.
        url: String,
        /// Delay that the server asks for.
        retry_after: Option<Duration>,
    },
    /// No connection, one that broke, or one that stood still for too long.
    #[error(
        "{subject}: {url}: {cause}: check the network, HF_ENDPOINT and the proxy, or set HF_HUB_OFFLINE=1 to use what is \
        cached"
    )]
    Connection {
        /// What was asked for.
        subject: String,
        /// Address, without its query.
        url: String,
        /// What happened.
        cause: String,
    },
    /// Answer that the hub would not give.
    #[error("{subject}: {url}: {problem}: check HF_ENDPOINT and the proxy")]
    Answer {
        /// What was asked for.
        subject: String,
        /// Address, without its query.
        url: String,
        /// Reason why it is refused.
        problem: String,
    },
    /// Answer about another commit than the one that was asked for.
    #[error("{subject}: the hub answers with commit {found}: check HF_ENDPOINT")]
    OtherCommit {
        /// What was asked for.
        subject: String,
        /// Commit in the answer.
        found: String,
    },
    /// Name of a file that would lead out of its folder.
    #[error("{subject}: the file name {file:?} is refused, since it is no plain path inside the repository")]
    UnsafeFile {
        /// Repository.
        subject: String,
        /// The name.
        file: String,
    },
    /// File whose content is not what the hub announced.
    #[error(
        "{subject} has the digest {found} and should have {expected}: it was damaged on its way and has been \
        deleted; fetch it again, and if that gives the same, distrust the endpoint or the proxy"
    )]
    Digest {
        /// Repository and file.
        subject: String,
        /// The file.
        file: String,
        /// Announced digest, hex.
        expected: String,
        /// Digest of what came, hex.
        found: String,
    },
    /// Model whose weights are a pickle alone, which may run any program when it is loaded.
    #[error("{subject} has its weights as a pickle alone ({}), which is not fetched unasked: name a revision with \
        safetensors, often hf:OWNER/NAME@refs/pr/N of the bot that converts models, or convert it: download the file and run `capfilt model convert SOURCE OUT`", files.join(", "))]
    PickleAlone {
        /// Name of the model.
        subject: String,
        /// Files of the pickle.
        files: Vec<String>,
    },
    /// Repository without weights.
    #[error(
        "{subject} has no weights: neither model.safetensors, nor its index with all shards, nor pytorch_model.bin: name \
        another revision or model"
    )]
    NoWeights {
        /// Name of the model.
        subject: String,
    },
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::File { path: path.to_owned(), source }
    }

    /// `Some` if a retry may help, with the delay that the server asks for, if any.
    #[cfg(feature = "fetch")]
    pub(crate) fn retry(&self) -> Option<Option<Duration>> {
        match self {
            Self::Status { status: 403 | 408 | 425 | 429 | 500..=599, retry_after, .. } => Some(*retry_after),
            Self::Connection { .. } => Some(None),
            _ => None,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space, or set HF_HUB_CACHE to a folder on another disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
            ": set HF_HUB_CACHE to a folder that can be written"
        }
        _ => "",
    }
}

fn wait(asked: Option<Duration>) -> String {
    asked.map(|asked| format!(", which asks to wait {} s", asked.as_secs())).unwrap_or_default()
}
