//! The ordered files of one schema that a job reads, and their rows in chunks.

pub(crate) mod changes;
pub mod chunk;
pub mod cursor;
pub(crate) mod discover;
pub mod files;
pub mod known;
pub mod memo;
pub(crate) mod versioned;
