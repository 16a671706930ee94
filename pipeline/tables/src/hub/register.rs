//! Where snapshots of models come from in this build.

#[cfg(not(feature = "hub"))]
pub use super::cache_only::interrupt;
#[cfg(not(feature = "hub"))]
pub(super) use super::cache_only::snapshot;
#[cfg(feature = "hub")]
pub use super::client::interrupt;
#[cfg(feature = "hub")]
pub(super) use super::client::snapshot;
