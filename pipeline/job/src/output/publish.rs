//! The final step: moves staged parts into place and removes the parts that they replace.

use std::fs;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
#[cfg(feature = "delta")]
use capfilt_tables::lake::delta::actions::{Added, Commit, Outcome, Replaces};
#[cfg(feature = "delta")]
use capfilt_tables::lake::delta::commit;
use capfilt_tables::pair_table::State;

use crate::options::Parts;
use crate::output::split_writer::{Writer, remove};

impl Writer {
    /// Publishes the table once every row is done.
    pub(crate) fn finish(&mut self) -> Result<()> {
        // Even a table without rows has a part.
        if !self.done.is_empty() || self.manifest.parts.is_empty() {
            self.end_part()?;
        }
        // If nothing new was written, the manifest has not been compared with other shards' yet.
        self.begin()?;
        #[cfg(feature = "delta")]
        self.announce()?;
        self.manifest.state = State::Placing;
        self.save()?;
        // Parts that are committed to a Delta log may have been compacted since, so skip them.
        for part in &self.manifest.parts[self.manifest.committed..] {
            failpoint::point("place");
            let (from, to) = (self.dest.waiting(&part.name)?, self.dest.part(&part.name));
            if from.exists() {
                fs::rename(&from, &to).map_err(|e| Error::write(&to, &e))?;
            } else if fs::metadata(&to).map(|meta| meta.len()).ok() != Some(part.bytes) {
                // Neither this run nor an earlier one has placed the part.
                return Err(Error::dest(&to, "this part of the table is lost: give --overwrite"));
            }
        }
        failpoint::point("placed");
        for name in self.replaced()? {
            remove(&self.dest.part(&name))?;
        }
        self.dest.sync()?;
        #[cfg(feature = "delta")]
        self.commit()?;
        self.dest.end_waiting();
        self.manifest.state = State::Finished;
        self.manifest.replaces = false;
        self.manifest.retried = None;
        self.manifest.commit = None;
        self.manifest.committed = self.manifest.parts.len();
        self.save()
    }

    /// Names of the parts that are replaced. A Delta table keeps the files of its older versions.
    fn replaced(&self) -> Result<Vec<String>> {
        let mut names = match &self.manifest.retried {
            _ if !self.manifest.replaces => Vec::new(),
            None => self.dest.parts()?,
            Some(_) if self.format.parts == Parts::Delta => Vec::new(),
            // Other shards keep their own parts.
            Some(old) => old.part_names().into_iter().map(str::to_owned).collect(),
        };
        let new = self.manifest.part_names();
        names.retain(|name| !new.contains(&name.as_str()));
        Ok(names)
    }

    /// Reserves the next commit's transaction version, by which the log shows whether the commit was made.
    #[cfg(feature = "delta")]
    fn announce(&mut self) -> Result<()> {
        if self.format.parts != Parts::Delta || self.manifest.commit.is_some() {
            return Ok(());
        }
        // Check before foreign files lie in the table's folder.
        if let Some(old) = &self.manifest.retried
            && let Some(reason) = commit::lacks(self.dest.path(), &old.part_names())?
        {
            return Err(self.give_up(reason));
        }
        let last = commit::transaction_version(self.dest.path(), &self.manifest.application())?;
        self.manifest.commit = Some(last.unwrap_or(0) + 1);
        Ok(())
    }

    /// Adds the new parts to the Delta log in an idempotent commit.
    #[cfg(feature = "delta")]
    fn commit(&mut self) -> Result<()> {
        let Some(app_version) = self.manifest.commit else { return Ok(()) };
        let new = self.manifest.parts[self.manifest.committed..].iter();
        let files: Vec<_> =
            new.map(|part| Added { name: part.name.clone(), bytes: part.bytes, rows: part.pairs }).collect();
        let about = serde_json::to_string(&self.manifest.job).map_err(|e| Error::Internal(e.to_string()))?;
        if files.is_empty() && !self.manifest.replaces {
            return Ok(());
        }
        let old = self.manifest.retried.as_ref().map(|old| old.part_names());
        let replaces = match &old {
            Some(old) => Replaces::Files(old),
            None if self.manifest.replaces => Replaces::All,
            None => Replaces::None,
        };
        failpoint::point("delta");
        let commit = Commit {
            schema: &self.format.recorded,
            files: &files,
            app_id: &self.manifest.application(),
            app_version,
            replaces,
            about: &about,
        };
        let outcome = commit::commit(self.dest.path(), &commit)?;
        failpoint::point("delta-done");
        match outcome {
            Outcome::Version(version) => {
                log::info!("{}: version {version} of the Delta table", self.dest.path().display());
                Ok(())
            }
            Outcome::Lacking(reason) => Err(self.give_up(reason)),
        }
    }

    /// Abandons a retry whose parts to replace are gone: the table stays as it is and counts as finished again. Parts
    /// already placed in its folder belong to no version; VACUUM removes them.
    #[cfg(feature = "delta")]
    fn give_up(&mut self, reason: String) -> Error {
        let Some(old) = self.manifest.retried.take() else { return Error::Internal(reason) };
        match self.dest.give_back(&old) {
            Ok(()) => {
                self.given_up = true;
                Error::dest(self.dest.path(), reason)
            }
            Err(error) => error,
        }
    }
}
