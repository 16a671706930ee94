//! The last step: parts that wait go to their places, and those that they replace go.

use std::fs;

use super::{Writer, remove};
use crate::crash;
#[cfg(feature = "delta")]
use crate::delta::{self, Added, Commit, Outcome, Replaces};
use crate::error::{Error, Result};
use crate::manifest::State;
use crate::write::Parts;

impl Writer {
    /// Every row is done: the table appears.
    pub(super) fn finish(&mut self) -> Result<()> {
        // A table without rows is a table still.
        if !self.done.is_empty() || self.manifest.parts.is_empty() {
            self.end_part()?;
        }
        // Where nothing new was written, other shards have not been looked at.
        self.begin()?;
        #[cfg(feature = "delta")]
        self.announce()?;
        self.manifest.state = State::Placing;
        self.save()?;
        // What a Delta log has may have been compacted since.
        for part in &self.manifest.parts[self.manifest.committed..] {
            crash::point("place");
            let (from, to) = (self.dest.waiting(&part.name)?, self.dest.part(&part.name));
            if from.exists() {
                fs::rename(&from, &to).map_err(|e| Error::write(&to, &e))?;
            } else if fs::metadata(&to).map(|meta| meta.len()).ok() != Some(part.bytes) {
                // Not even an earlier run has put it in its place.
                return Err(Error::dest(&to, "this part of the table is lost: give --overwrite"));
            }
        }
        crash::point("placed");
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

    /// The parts that are none any more. Older versions of a Delta table still have theirs.
    fn replaced(&self) -> Result<Vec<String>> {
        let mut names = match &self.manifest.retried {
            _ if !self.manifest.replaces => Vec::new(),
            None => self.dest.parts()?,
            Some(_) if self.format.parts == Parts::Delta => Vec::new(),
            // Other shards have theirs.
            Some(old) => old.part_names().into_iter().map(str::to_owned).collect(),
        };
        let new = self.manifest.part_names();
        names.retain(|name| !new.contains(&name.as_str()));
        Ok(names)
    }

    /// Gives the commit that is to come its number, by which the log knows whether it was made.
    #[cfg(feature = "delta")]
    fn announce(&mut self) -> Result<()> {
        if self.format.parts != Parts::Delta || self.manifest.commit.is_some() {
            return Ok(());
        }
        // Before files lie in the table's folder that are none of its own.
        if let Some(old) = &self.manifest.retried
            && let Some(reason) = delta::lacks(self.dest.path(), &old.part_names())?
        {
            return Err(self.give_up(reason));
        }
        let last = delta::transaction_version(self.dest.path(), &self.manifest.application())?;
        self.manifest.commit = Some(last.unwrap_or(0) + 1);
        Ok(())
    }

    /// Names the new parts in the Delta log, in one commit that is made once, however often it is tried.
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
        crash::point("delta");
        let commit = Commit {
            schema: &self.format.recorded,
            files: &files,
            app_id: &self.manifest.application(),
            app_version,
            replaces,
            about: &about,
        };
        let outcome = delta::commit(self.dest.path(), &commit)?;
        crash::point("delta-done");
        match outcome {
            Outcome::Version(version) => {
                log::info!("{}: version {version} of the Delta table", self.dest.path().display());
                Ok(())
            }
            Outcome::Lacking(reason) => Err(self.give_up(reason)),
        }
    }

    /// Ends a retry that has nothing to replace any more: the table stays as it is, and is a finished one again. Parts that lie
    /// in its folder by then are in no version; VACUUM takes them.
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
