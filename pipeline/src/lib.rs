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
mod open;
mod params;
mod paths;
mod pictures;
mod prepare;
mod provenance;
mod recipe;
mod report;
mod restamp;
mod run;
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
pub use fetch::{FetchOptions, markdown as fetch_markdown, register_fetch};
pub use load::ImageIs;
pub use named::{bad_text, enable_named_tables, literal, named_table};
pub use open::{delta_source, register_pairs};
pub use params::Params;
pub use prepare::{Again, Images, Job};
pub use recipe::{CAPFILT_SQL, PairColumn, Recipe};
pub use report::{ReportOptions, report};
pub use run::{Done, Failure, Stop, Waits, run};
pub use select::Select;
pub use source::Source;
pub use summary::{Count, Summary, Tally};
pub use table::unfinished;
pub use verdicts::Verdicts;
pub use webdataset::register_webdataset;
pub use write::Parts;
