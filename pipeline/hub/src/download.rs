//! Download of files into the cache.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};

use crate::body::Body;
use crate::client::{OnProgress, Progress, Repository};
use crate::digest::Etag;
use crate::fill::create_parent;
use crate::lock::lock;
use crate::request::{Target, encode_path};
use crate::{Client, Error, Snapshot, rules};

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

/// File on its way into the cache.
struct Item<'a> {
    file: &'a str,
    target: Target,
    etag: Etag,
    size: Option<u64>,
    blob: PathBuf,
}

impl Client {
    /// Downloads `files` of a repository, in this order, as far as they are not in the cache, and then notes the commit
    /// of its name there.
    ///
    /// What an earlier run began goes on where it stopped, and a file that another process is fetching is waited for.
    /// Each is checked against the digest that the hub names before it gets its place. Dropping the future stops the
    /// download; what has come stays for the next.
    pub async fn download(
        &self,
        repository: &Repository,
        files: &[String],
        progress: OnProgress<'_>,
    ) -> Result<Snapshot, Error> {
        if let Some(file) = files.iter().find(|file| !rules::is_plain(file)) {
            return Err(Error::UnsafeFile { subject: repository.name().to_string(), file: file.clone() });
        }
        let snapshot = self.cache().snapshot_at(repository.name(), repository.commit().to_owned());
        let mut changed = false;
        for file in files {
            if !snapshot.has(file) {
                self.bring(repository, file, &snapshot.folder().join(file), progress).await?;
                changed = true;
            }
        }
        match self.cache().refer(repository.name(), repository.commit()) {
            // A cache that is complete may be read-only.
            Err(e) if !changed => log::warn!("{e}: {} is not noted in the cache", repository.pinned()),
            result => result?,
        }
        Ok(snapshot)
    }

    async fn bring(
        &self,
        repository: &Repository,
        file: &str,
        pointer: &Path,
        progress: OnProgress<'_>,
    ) -> Result<(), Error> {
        let (name, commit) = (repository.name(), repository.commit());
        let path = format!("{}/resolve/{commit}/{}", name.id(), encode_path(file));
        let target = self.http.target(&path, format!("{}: {file}", repository.pinned()))?;
        let facts = self.http.head(&target).await?;
        if facts.commit.as_deref() != Some(commit) {
            let found = facts.commit.as_deref().unwrap_or("missing");
            return Err(target
                .wrong(&format!("the header X-Repo-Commit is {found}, which is not how a Hugging Face hub answers")));
        }
        let etag = facts.etag.as_deref().and_then(Etag::parse).ok_or_else(|| {
            target.wrong(&format!(
                "the ETag {:?} is no digest to check the file by",
                facts.etag.as_deref().unwrap_or_default()
            ))
        })?;
        let blob = self.cache().model(name).join("blobs").join(etag.as_str());
        let place = blob.clone();
        let _lock = lock(&self.cache().lock_of(name, etag.as_str())).await?;
        // Whoever had the lock may have fetched it.
        if pointer.is_file() {
            return Ok(());
        }
        let fresh = !blob.is_file();
        if fresh {
            create_parent(&blob)?;
            self.fetch(&Item { file, target, etag, size: facts.size, blob: blob.clone() }, progress).await?;
        }
        // It may have to copy a large file.
        let (cache, pointer, file) = (self.cache().clone(), pointer.to_owned(), file.to_owned());
        let point = move || cache.point(&pointer, &file, &blob, fresh);
        tokio::task::spawn_blocking(point).await.unwrap_or_else(|e| Err(Error::file(&place)(std::io::Error::other(e))))
    }

    /// Fetches a blob into `ETAG.incomplete`, checks it and renames it.
    async fn fetch(&self, item: &Item<'_>, progress: OnProgress<'_>) -> Result<(), Error> {
        let mut partial = item.blob.clone().into_os_string();
        partial.push(".incomplete");
        let partial = PathBuf::from(partial);
        let at = |e| Error::file(&partial)(e);
        let have = fs::metadata(&partial).await.map_or(0, |metadata| metadata.len());
        // Too long to be the beginning of this file.
        let have = if item.size.is_some_and(|size| have > size) { 0 } else { have };
        check_space(item, have)?;
        // Bytes go to their places and nothing is cut off before the end: should a file system not keep the lock, two
        // writers write the same.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&partial).await.map_err(at)?;
        let mut writer = Writer { file: BufWriter::with_capacity(BUFFER, file), at: 0 };
        let copied = self.copy(item, have, &mut writer, progress).await;
        // Also after an error, so that the next run goes on from here.
        writer.file.flush().await.map_err(at)?;
        copied.map_err(|e| e.or(at))?;
        let file = writer.file.into_inner();
        if file.metadata().await.map_err(at)?.len() > writer.at {
            file.set_len(writer.at).await.map_err(at)?;
        }
        // Before the rename, or a power cut could leave a blob of that name without its content.
        file.sync_data().await.map_err(at)?;
        drop(file);
        let (etag, path) = (item.etag.clone(), partial.clone());
        let found = tokio::task::spawn_blocking(move || etag.of_file(&path)).await.map_err(std::io::Error::other);
        let found = match found.flatten() {
            // Where the file system has no locks, another process may have renamed it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && item.blob.is_file() => return Ok(()),
            found => found.map_err(at)?,
        };
        if found != item.etag.as_str() {
            fs::remove_file(&partial).await.map_err(at)?;
            if have > 0 {
                // The partial file of an earlier run or of another program may hold other bytes.
                return Box::pin(self.fetch(item, progress)).await;
            }
            let (subject, file) = (item.target.subject.clone(), item.file.to_owned());
            return Err(Error::Digest { subject, file, expected: item.etag.as_str().to_owned(), found });
        }
        match fs::rename(&partial, &item.blob).await {
            // Where the file system has no locks, another process may have renamed it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && item.blob.is_file() => Ok(()),
            renamed => renamed.map_err(Error::file(&item.blob)),
        }
    }

    async fn copy(
        &self,
        item: &Item<'_>,
        have: u64,
        writer: &mut Writer,
        progress: OnProgress<'_>,
    ) -> Result<(), Failure> {
        writer.go_to(have).await?;
        let report = |done| progress(Progress { file: item.file, done, total: item.size });
        report(have);
        let mut body = Body::new(Arc::clone(&self.http), item.target.clone(), have, None, item.size);
        while let Some((at, bytes)) = body.next().await? {
            writer.go_to(at).await?;
            writer.file.write_all(&bytes).await?;
            writer.at += bytes.len() as u64;
            report(writer.at);
        }
        Ok(())
    }
}

/// File and the place of its next byte.
struct Writer {
    file: BufWriter<File>,
    at: u64,
}

impl Writer {
    async fn go_to(&mut self, at: u64) -> std::io::Result<()> {
        if at != self.at {
            self.file.seek(SeekFrom::Start(at)).await?;
            self.at = at;
        }
        Ok(())
    }
}

/// Failure of either side of a copy.
#[derive(Debug)]
enum Failure {
    Fetch(Error),
    Write(std::io::Error),
}

impl Failure {
    fn or(self, write: impl FnOnce(std::io::Error) -> Error) -> Error {
        match self {
            Self::Fetch(e) => e,
            Self::Write(e) => write(e),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fetch(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}

/// Refuses to begin what cannot end. A file system that does not tell its room is believed to have some.
#[cfg(unix)]
fn check_space(item: &Item<'_>, have: u64) -> Result<(), Error> {
    let folder = item.blob.parent().unwrap_or(&item.blob);
    let needed = item.size.unwrap_or(0).saturating_sub(have);
    match rustix::fs::statvfs(folder) {
        Ok(disk) if disk.f_blocks > 0 && disk.f_bavail.saturating_mul(disk.f_frsize) < needed => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            Err(Error::NoSpace { path: folder.to_owned(), file: item.file.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_space(_: &Item<'_>, _: u64) -> Result<(), Error> {
    Ok(())
}
