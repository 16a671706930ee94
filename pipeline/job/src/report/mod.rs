//! `capfilt report`: a single self-contained page about a job's results.

pub(crate) mod data;
pub(crate) mod gallery;
pub(crate) mod page;
pub(crate) mod queries;
pub(crate) mod thumbnail;
