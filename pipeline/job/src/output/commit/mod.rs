//! How parts become a table for its readers.

pub(crate) mod contract;
#[cfg(feature = "delta")]
pub(crate) mod delta;
pub(crate) mod folder;
pub(crate) mod register;
