//! Tables that a caller opens by their path.

use std::path::Path;

use datafusion::prelude::SessionContext;

use crate::error::Result;
use crate::halt;
use crate::lake::register::{find, no_versions};
use crate::source::files::Source;
use crate::sql::named::literal;

/// Registers a Parquet file, a folder of them, or a Delta table (at a version or time, if given; local or in a store)
/// with SQL as `name`.
pub async fn register_pairs(ctx: &SessionContext, name: &str, path: &Path, version: Option<&str>) -> Result<()> {
    capfilt_udfs::sound_scans(ctx);
    let asked = path.to_owned();
    if let Some((table, lake)) = halt::aside(move |_| find(&asked)).await? {
        ctx.register_table(name, table.in_sql(ctx, lake, version.map(str::to_owned)).await?)?;
        return Ok(());
    }
    if version.is_some() {
        return Err(no_versions(path));
    }
    ctx.register_parquet(name, literal(path), Default::default()).await?;
    Ok(())
}

/// Opens a Delta table at a version or time, or its latest version; `None` if `path` is not a Delta table and no version
/// is given.
pub fn delta_source(path: &Path, version: Option<&str>) -> Result<Option<Source>> {
    match (find(path)?, version) {
        (Some(_), _) => Source::open_at(path, version).map(Some),
        (None, Some(_)) => Err(no_versions(path)),
        (None, None) => Ok(None),
    }
}
