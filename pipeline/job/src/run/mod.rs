//! A job from its source to its destination.

pub(crate) mod apply;
mod from_file;
pub mod job;
pub(crate) mod local;
pub(crate) mod prefetch;
pub(crate) mod resume;
pub(crate) mod runner;
