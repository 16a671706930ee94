//! The batch job behind `capfilt run`: turns a noisy image-text table into the pair table.
//!
//! A job reads the source's files in order, unit by unit, and runs a recipe (a single SELECT over the view `web`) on
//! chunks of their rows. Several chunks are in flight, so that the engine sees large batches; results are written in
//! row order. A finished unit is never repeated: after any interruption the same job resumes behind it.

mod checkpoint;
mod differences;
mod dry_run;
mod images;
mod job_file;
mod options;
mod output;
mod recipe;
mod recorded;
mod report;
mod rows;
pub mod run;
mod select;
mod tally;
mod verdicts;

pub use capfilt_tables::{Error, Result};
pub use capfilt_udfs::ItcGate;
pub use differences::{Options, differing, flatten};
pub use dry_run::{Estimate, dry_run};
pub use job_file::{JobFile, pair, shard};
pub use options::{Combine, ImageIs, Images, Mode, OutputFormat, Pairs, Stop};
pub use options::{probability, score, source_score};
pub use recipe::builder::RecipeBuilder;
pub use recipe::params::Params;
pub use recipe::plan::{CAPFILT_SQL, PairColumn, Recipe};
pub use recorded::{Recorded, recorded};
pub use report::data::ReportOptions;
pub use report::page::report;
pub use rows::dedupe::options::Dedupe;
pub use run::job::{Done, Failure, Waits, run};
pub use run::resume::Job;
pub use select::Select;
pub use tally::counts::{Count, Summary, Tally};
pub use tally::failure_limit::FailureLimit;
pub use verdicts::Verdicts;
