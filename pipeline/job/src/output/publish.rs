//! The final step: moves waiting parts into place, removes the parts that they replace, and commits.

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use capfilt_tables::pair_table::State;

use crate::output::split_writer::SplitWriter;

impl SplitWriter {
    /// Publishes the table once every row is done.
    pub(crate) fn finish(&mut self) -> Result<()> {
        // Even a table without rows has a part.
        if !self.done.is_empty() || self.manifest.parts.is_empty() {
            self.end_part()?;
        }
        // If nothing new was written, the manifest has not been compared with other shards' yet.
        self.begin()?;
        if let Some(reason) = self.committer.announce(&mut self.manifest)? {
            return Err(self.give_up(reason));
        }
        self.manifest.state = State::Placing;
        self.save()?;
        // Parts that are committed may have been compacted since, so skip them.
        for part in &self.manifest.parts[self.manifest.committed..] {
            failpoint::point("place");
            self.store.publish(part)?;
        }
        failpoint::point("placed");
        for name in self.replaced()? {
            self.store.remove_part(&name)?;
        }
        self.store.settle()?;
        if let Some(reason) = self.committer.commit(&self.manifest, &self.format.recorded)? {
            return Err(self.give_up(reason));
        }
        self.manifest.state = State::Finished;
        if self.manifest.replaces || self.manifest.parts.len() > self.manifest.committed {
            self.manifest.last_commit = self.manifest.commit;
        }
        self.manifest.replaces = false;
        self.manifest.retried = None;
        self.manifest.commit = None;
        self.manifest.committed = self.manifest.parts.len();
        self.save()
    }

    /// Names of the parts whose files are removed, because the new ones replace them.
    fn replaced(&self) -> Result<Vec<String>> {
        let mut names = match &self.manifest.retried {
            _ if !self.manifest.replaces => Vec::new(),
            None => self.store.parts()?,
            Some(_) if self.committer.keeps_replaced() => Vec::new(),
            // Other shards keep their own parts.
            Some(old) => old.part_names().into_iter().map(str::to_owned).collect(),
        };
        let new = self.manifest.part_names();
        names.retain(|name| !new.contains(&name.as_str()));
        Ok(names)
    }

    /// Abandons a retry whose parts to replace are gone: the table stays as it is and counts as finished again. Parts
    /// already placed in its folder belong to no version; VACUUM removes them.
    fn give_up(&mut self, reason: String) -> Error {
        let Some(old) = self.manifest.retried.take() else { return Error::Internal(reason) };
        match self.store.save(&old).and_then(|()| self.store.clear()) {
            Ok(()) => {
                self.given_up = true;
                Error::dest(self.store.table(), reason)
            }
            Err(error) => error,
        }
    }
}
