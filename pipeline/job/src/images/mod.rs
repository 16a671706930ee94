//! Loaders of a source's images, and the images that a pair table left out.

pub(crate) mod files;
pub(crate) mod inline;
pub(crate) mod loader;
pub(crate) mod original;
pub(crate) mod register;
#[cfg(feature = "fetch")]
pub(crate) mod web;
