//! Tables with a log that lists their files.

pub mod contract;
#[cfg(feature = "delta")]
pub mod delta;
pub mod location;
#[cfg(not(feature = "delta"))]
pub(crate) mod not_built;
pub mod register;
