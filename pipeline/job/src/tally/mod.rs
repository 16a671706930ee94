//! Counts of rows and pairs.

pub(crate) mod counts;
pub(crate) mod failure_limit;
