//! Models and datasets of the Hugging Face hub by name, in the cache that Python's huggingface_hub uses.
//!
//! [`Cache`] finds what is there without the network. With the feature `fetch` a [`Client`] fetches what is not, and
//! reads datasets in place; with `store` a [`DatasetStore`] is an object store over one.

mod cache;
mod environment;
mod error;
mod name;
mod rules;
mod wanted;

#[cfg(feature = "fetch")]
mod answer;
#[cfg(feature = "fetch")]
mod body;
#[cfg(feature = "fetch")]
mod client;
#[cfg(feature = "fetch")]
mod dataset;
#[cfg(feature = "fetch")]
mod digest;
#[cfg(feature = "fetch")]
mod download;
#[cfg(feature = "fetch")]
mod fill;
#[cfg(feature = "fetch")]
mod lock;
#[cfg(feature = "fetch")]
mod request;
#[cfg(feature = "fetch")]
mod settings;
#[cfg(feature = "store")]
mod store;

pub use cache::{Cache, Snapshot};
pub use environment::Environment;
pub use error::Error;
pub use name::{Dataset, Name};
pub use wanted::{Wanted, wanted};

#[cfg(feature = "fetch")]
pub use client::{Client, OnProgress, Progress, Repository};
#[cfg(feature = "fetch")]
pub use dataset::{Entry, OpenDataset, Tree};
#[cfg(feature = "fetch")]
pub use settings::Settings;
#[cfg(feature = "store")]
pub use store::DatasetStore;
