//! Contract of committers.

use capfilt_tables::error::Result;
use datafusion::arrow::datatypes::Schema;

use crate::checkpoint::manifest::Manifest;

/// Publishes the parts in a table's folder as the table. The default methods are those of a table that is all files in its
/// folder.
///
/// A job calls `check` before its first row. When all rows are done, it calls `announce`, moves the new parts into the
/// folder, and calls `commit`; after a kill at any point it does so again, or calls `recover` if it has more rows by then.
pub(crate) trait Committer: Send {
    /// Errors if the table cannot have the columns of `schema`, or if the folder holds a table of another kind.
    fn check(&self, schema: &Schema) -> Result<()>;

    /// Returns why the parts of `old`, which a retry replaces, can no longer be replaced, if that is so.
    fn lacks(&self, _old: &Manifest) -> Result<Option<String>> {
        Ok(None)
    }

    /// Returns why the table no longer has what the manifest says was committed, if that is so.
    fn lost(&self, _manifest: &Manifest) -> Result<Option<String>> {
        Ok(None)
    }

    /// Resolves in the manifest whether its announced commit was made before a kill, so that further parts can be added.
    fn recover(&self, _manifest: &mut Manifest) -> Result<()> {
        Ok(())
    }

    /// Announces the commit in the manifest, which is saved before new files lie in the table's folder. Returns what
    /// [`Self::lacks`] does.
    fn announce(&self, _manifest: &mut Manifest) -> Result<Option<String>> {
        Ok(None)
    }

    /// Whether the files of parts that a retry replaces stay, for readers of older versions.
    fn keeps_replaced(&self) -> bool {
        false
    }

    /// Commits the new parts, which have columns of `schema` and are durable, unless that is done already. Returns why
    /// there is no commit if the parts that it replaces are gone.
    fn commit(&self, _manifest: &Manifest, _schema: &Schema) -> Result<Option<String>> {
        Ok(None)
    }
}
