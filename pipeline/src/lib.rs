//! The batch job behind `capfilt run`: turns a noisy image-text table into the pair table.
//!
//! A job reads the source's files in order, unit by unit, and runs a recipe (a single SELECT over the view `web`) on
//! chunks of their rows. Several chunks are in flight, so that the engine sees large batches; results are written in
//! row order. A finished unit is never repeated: after any interruption the same job resumes behind it.

mod apart;
mod bounded;
mod budget;
mod compose;
mod copy;
mod crash;
mod dedupe;
#[cfg(feature = "delta")]
mod delta;
mod dest;
mod dry_run;
mod earlier;
mod error;
mod external;
#[cfg(feature = "fetch")]
mod fetch;
mod halt;
mod hive;
mod load;
mod manifest;
mod manifests;
mod named;
mod params;
mod paths;
mod pictures;
mod prepare;
mod provenance;
mod recipe;
mod report;
mod restamp;
mod run;
mod script;
mod select;
mod sidecar;
mod source;
mod stage;
mod summary;
mod table;
mod verdicts;
mod webdataset;
mod write;

pub use budget::Budget;
pub use compose::{Agreement, Combine, Compose};
pub use dedupe::Dedupe;
pub use dry_run::{Estimate, dry_run};
pub use error::{Error, NOT_UTF8, Result, message};
#[cfg(feature = "fetch")]
pub use fetch::{FetchOptions, register_fetch};
pub use load::ImageIs;
pub use named::{bad_text, enable_named_tables, literal, named_table};
pub use params::Params;
pub use prepare::{Again, Images, Job};
pub use recipe::{CAPFILT_SQL, PairColumn, Recipe};
pub use report::{ReportOptions, report};
pub use run::{Done, Failure, Stop, Waits, run};
pub use script::{script, unmarked};
pub use select::Select;
use source::Lake;
pub use source::Source;
pub use summary::{Count, Summary, Tally};
pub use table::unfinished;
pub use verdicts::Verdicts;
pub use webdataset::register_webdataset;
pub use write::Parts;

/// Registers a Parquet file, a folder of them, or a Delta table (at a version or time, if given; local or in a store)
/// with SQL as `name`.
pub async fn register_pairs(
    ctx: &datafusion::prelude::SessionContext,
    name: &str,
    path: &std::path::Path,
    version: Option<&str>,
) -> Result<()> {
    capfilt_udfs::sound_scans(ctx);
    let asked = path.to_owned();
    if let Some(lake) = halt::aside(move |_| Lake::find(&asked)).await? {
        ctx.register_table(name, named::delta(ctx, lake, version.map(str::to_owned)).await?)?;
        return Ok(());
    }
    if version.is_some() {
        return Err(Error::source(path, "it is no Delta table, which alone has versions"));
    }
    ctx.register_parquet(name, literal(path), Default::default()).await?;
    Ok(())
}

/// Opens a Delta table at a version or time, or its latest version; `None` if `path` is no Delta table and no version
/// is given.
pub fn delta_source(path: &std::path::Path, version: Option<&str>) -> Result<Option<Source>> {
    let is_delta = Lake::find(path)?.is_some();
    if version.is_none() && !is_delta {
        return Ok(None);
    }
    if !is_delta {
        return Err(Error::source(path, "it is no Delta table, which alone has versions: leave the version out"));
    }
    Source::open_at(path, version).map(Some)
}

/// docs/functions.md: every SQL function and setting, in Markdown.
pub fn functions_markdown() -> String {
    let page = capfilt_udfs::docs::functions_markdown();
    #[cfg(feature = "fetch")]
    let page = page + &fetch::markdown();
    page
}
