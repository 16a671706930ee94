//! Delta tables.

use std::path::PathBuf;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use capfilt_tables::lake::delta::actions::{Added, Commit, Outcome, Replaces};
use capfilt_tables::lake::delta::commit;
use datafusion::arrow::datatypes::Schema;

use crate::checkpoint::manifest::Manifest;
use crate::output::commit::contract::Committer;

/// A Delta table: its log says which parts are in it.
pub(crate) struct DeltaCommitter {
    pub(crate) table: PathBuf,
}

impl DeltaCommitter {
    /// Transaction version of the shard's last commit.
    fn last(&self, manifest: &Manifest) -> Result<Option<i64>> {
        commit::transaction_version(&self.table, &application(manifest))
    }
}

/// Application id of the shard's transactions in the log.
fn application(manifest: &Manifest) -> String {
    format!("capfilt-{}-{}-of-{}", manifest.job.digest(), manifest.shard, manifest.job.shards)
}

impl Committer for DeltaCommitter {
    fn check(&self, schema: &Schema) -> Result<()> {
        commit::check_table(&self.table, schema)
    }

    fn lacks(&self, old: &Manifest) -> Result<Option<String>> {
        commit::lacks(&self.table, &old.part_names())
    }

    fn lost(&self, manifest: &Manifest) -> Result<Option<String>> {
        if manifest.committed == 0 || manifest.replaces {
            return Ok(None);
        }
        let lost = match manifest.last_commit {
            Some(known) => self.last(manifest)?.is_none_or(|last| last < known),
            // Of an older manifest.
            None => !commit::has_versions(&self.table)?,
        };
        let reason = "its log in _delta_log lacks a commit of this job, whose rows another commit would leave out: restore the log, or give \
                      --overwrite";
        Ok(lost.then(|| reason.to_owned()))
    }

    fn recover(&self, manifest: &mut Manifest) -> Result<()> {
        if let Some(number) = manifest.commit.take()
            && self.last(manifest)?.is_some_and(|last| last >= number)
        {
            manifest.committed = manifest.parts.len();
            manifest.last_commit = Some(number);
            manifest.replaces = false;
        }
        Ok(())
    }

    /// Reserves the transaction version of the next commit, by which the log shows whether the commit was made.
    fn announce(&self, manifest: &mut Manifest) -> Result<Option<String>> {
        if manifest.commit.is_some() {
            return Ok(None);
        }
        if let Some(old) = &manifest.retried
            && let Some(reason) = self.lacks(old)?
        {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.lost(manifest)? {
            return Err(Error::dest(&self.table, reason));
        }
        manifest.commit = Some(self.last(manifest)?.unwrap_or(0) + 1);
        Ok(None)
    }

    fn keeps_replaced(&self) -> bool {
        true
    }

    /// Adds the new parts to the log in an idempotent commit.
    fn commit(&self, manifest: &Manifest, schema: &Schema) -> Result<Option<String>> {
        let Some(app_version) = manifest.commit else { return Ok(None) };
        let new = manifest.parts[manifest.committed..].iter();
        let files: Vec<_> =
            new.map(|part| Added { name: part.name.clone(), bytes: part.bytes, rows: part.pairs }).collect();
        let about = serde_json::to_string(&manifest.job).map_err(|e| Error::Internal(e.to_string()))?;
        if files.is_empty() && !manifest.replaces {
            return Ok(None);
        }
        let old = manifest.retried.as_ref().map(|old| old.part_names());
        let replaces = match &old {
            Some(old) => Replaces::Files(old),
            None if manifest.replaces => Replaces::All,
            None => Replaces::None,
        };
        failpoint::point("delta");
        let app_id = &application(manifest);
        let commit = Commit { schema, files: &files, app_id, app_version, replaces, about: &about };
        let outcome = commit::commit(&self.table, &commit)?;
        failpoint::point("delta-done");
        Ok(match outcome {
            Outcome::Version(version) => {
                log::info!("{}: version {version} of the Delta table", self.table.display());
                None
            }
            Outcome::Lacking(reason) => Some(reason),
        })
    }
}
