//! Digests of checkpoints in the user's cache: hashing the weights takes as long as loading them.

use std::fs::{self, File, Metadata};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::error::Result;

/// Age that a file's times must have for a digest to be kept: a change within the resolution of the file system's clock
/// would leave them as they are.
const SETTLED: Duration = Duration::from_secs(2);

/// Folder of what this project keeps in the user's cache: `CAPFILT_CACHE`, else `capfilt` in `XDG_CACHE_HOME` or in
/// `~/.cache`; `None` without a home.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CAPFILT_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("capfilt")))
        .or_else(|| Some(set("HOME")?.join(".cache/capfilt")))
}

/// The digest of content that `weights` and `other` determine: the one kept in `folder` if the files of weights are
/// unchanged by device, inode, size, and times of modification and of change, else that of `compute`.
///
/// `other` is a digest of everything else. A cache that cannot be read or written is no error.
pub(crate) fn cached(
    folder: Option<&Path>,
    other: &[u8],
    weights: &[&File],
    now: SystemTime,
    compute: impl FnOnce() -> Result<[u8; 32]>,
) -> Result<[u8; 32]> {
    let Some((folder, name)) = folder.zip(digest_name(other, weights, now)) else { return compute() };
    let kept = folder.join(&name);
    let read = fs::read_to_string(&kept).ok().and_then(|text| hex::decode(text.trim()).ok()?.try_into().ok());
    if let Some(digest) = read {
        return Ok(digest);
    }
    let digest = compute()?;
    // A file that was changed meanwhile has another key.
    if digest_name(other, weights, now).as_ref() == Some(&name)
        && let Err(e) = keep(folder, &kept, &digest)
    {
        log::debug!("{}: the digest is not kept: {e}", kept.display());
    }
    Ok(digest)
}

/// Name of the digest's file; `None` if a file was changed just now, or its system does not say when.
fn digest_name(other: &[u8], weights: &[&File], now: SystemTime) -> Option<String> {
    let mut sha = Sha256::new();
    // Raised when a digest is computed in another way.
    sha.update(b"1");
    sha.update(other);
    for file in weights {
        sha.update(state(&file.metadata().ok()?, now)?);
    }
    Some(hex::encode(sha.finalize()))
}

#[cfg(unix)]
fn state(of: &Metadata, now: SystemTime) -> Option<[u8; 56]> {
    use std::os::unix::fs::MetadataExt as _;

    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let last = of.mtime().max(of.ctime());
    if now < Duration::from_secs(u64::try_from(last).ok()?) + SETTLED {
        return None;
    }
    let numbers = [
        of.dev(),
        of.ino(),
        of.size(),
        of.mtime() as u64,
        of.mtime_nsec() as u64,
        of.ctime() as u64,
        of.ctime_nsec() as u64,
    ];
    let mut bytes = [0; 56];
    numbers.iter().zip(bytes.chunks_exact_mut(8)).for_each(|(number, to)| to.copy_from_slice(&number.to_le_bytes()));
    Some(bytes)
}

#[cfg(not(unix))]
fn state(_: &Metadata, _: SystemTime) -> Option<[u8; 56]> {
    None
}

/// Writes the digest under another name first, so that no other process reads half of it.
fn keep(folder: &Path, path: &Path, digest: &[u8; 32]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = File::create(&part).and_then(|mut file| file.write_all(hex::encode(digest).as_bytes()));
    written.and_then(|()| fs::rename(&part, path)).inspect_err(|_| drop(fs::remove_file(&part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_kept_until_a_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, path) = (dir.path().join("digests"), dir.path().join("weights"));
        fs::write(&path, "weights").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let of = |other: &[u8], after: Duration, n: u8| {
            cached(Some(&folder), other, &[&file], SystemTime::now() + after, || Ok([n; 32])).unwrap()
        };
        let later = 2 * SETTLED;
        assert_eq!(of(b"config", Duration::ZERO, 1), [1; 32]);
        assert_eq!(of(b"config", later, 2), [2; 32], "that of a file just written is not kept");
        assert_eq!(of(b"config", later, 3), [2; 32], "it is kept");
        assert_eq!(of(b"another config", later, 4), [4; 32]);
        // Other content of the same size, with the time of modification set back, as by `cp --preserve` or tar.
        let modified = file.metadata().unwrap().modified().unwrap();
        fs::write(&path, "WEIGHTS").unwrap();
        file.set_modified(modified).unwrap();
        assert_eq!(of(b"config", later, 5), [5; 32]);
        for kept in fs::read_dir(&folder).unwrap() {
            fs::write(kept.unwrap().path(), "half").unwrap();
        }
        assert_eq!(of(b"config", later, 6), [6; 32], "a damaged entry is not used");
        assert_eq!(of(b"config", later, 7), [6; 32], "but replaced");
        let nowhere = path.join("no folder");
        let unkept = cached(Some(&nowhere), b"config", &[&file], SystemTime::now() + later, || Ok([8; 32])).unwrap();
        assert_eq!(unkept, [8; 32]);
    }
}
