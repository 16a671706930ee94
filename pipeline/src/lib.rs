//! The batch job behind `capfilt run`: a noisy image-text table goes in, the pair table comes out.
//!
//! A job reads Parquet files in order, runs a recipe (one SELECT over the view `web`) on chunks of their rows, several chunks
//! at a time so that the engine sees large batches, and writes the results in the order of the rows.

mod dest;
mod error;
mod params;
mod recipe;
mod run;
mod sink;
mod source;
mod summary;

pub use error::{Error, Result, message};
pub use params::Params;
pub use recipe::{CAPFILT_SQL, PairColumn, Recipe};
pub use run::{Failure, Images, Job, run};
pub use source::Source;
pub use summary::{Count, Summary, Tally};
