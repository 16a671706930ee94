//! File formats: how each is inspected and read.

pub(crate) mod footer;
pub(crate) mod image_folder;
pub mod parquet;
pub(crate) mod register;
pub(crate) mod rows;
pub(crate) mod sidecar;
pub(crate) mod text;
pub(crate) mod watch;
pub mod webdataset;
