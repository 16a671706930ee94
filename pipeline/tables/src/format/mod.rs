//! File formats: how each is inspected and read.

pub mod contract;
pub(crate) mod footer;
pub(crate) mod image_folder;
pub(crate) mod inspect;
pub mod parquet;
pub(crate) mod passed;
pub mod register;
pub mod rows;
pub(crate) mod sidecar;
pub(crate) mod text;
pub(crate) mod watch;
pub mod webdataset;
