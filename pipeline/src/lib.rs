//! The batch job behind `capfilt run`: a noisy image-text table goes in, the pair table comes out.
//!
//! A job reads the source's files in order, unit by unit, runs a recipe (one SELECT over the view `web`) on chunks of their rows,
//! several chunks at a time so that the engine sees large batches, and writes the results in the order of the rows. A unit that
//! is done stays done: the same job goes on after it, whatever stopped it.

mod budget;
mod crash;
mod dest;
mod earlier;
mod error;
#[cfg(feature = "fetch")]
mod fetch;
mod load;
mod manifest;
mod params;
mod pictures;
mod provenance;
mod recipe;
mod report;
mod run;
mod select;
mod source;
mod stage;
mod summary;
mod table;
mod webdataset;
mod write;

pub use budget::Budget;
pub use error::{Error, Result, message};
#[cfg(feature = "fetch")]
pub use fetch::{FetchOptions, register_fetch};
pub use load::ImageIs;
pub use params::Params;
pub use recipe::{CAPFILT_SQL, PairColumn, Recipe};
pub use report::{ReportOptions, report};
pub use run::{Again, Done, Failure, Images, Job, Stop, run};
pub use select::Select;
pub use source::Source;
pub use summary::{Count, Summary, Tally};
pub use table::unfinished;
pub use webdataset::register_webdataset;
pub use write::Parts;

/// docs/functions.md: every SQL function and setting, in Markdown.
pub fn functions_markdown() -> String {
    #[allow(unused_mut, reason = "without fetch there is nothing to add")]
    let mut page = capfilt_udfs::docs::functions_markdown();
    #[cfg(feature = "fetch")]
    page.push_str(&fetch::markdown());
    page
}
