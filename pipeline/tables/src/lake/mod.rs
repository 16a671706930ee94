//! Tables with a log that lists their files.

#[cfg(feature = "delta")]
pub mod delta;
pub mod location;
