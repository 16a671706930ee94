//! A job from its source to its destination.

pub mod job;
pub(crate) mod prefetch;
pub(crate) mod resume;
