//! Rows that need no model: duplicates, and rows whose pairs exist already.

pub(crate) mod contract;
pub(crate) mod dedupe;
pub(crate) mod previous_pairs;
