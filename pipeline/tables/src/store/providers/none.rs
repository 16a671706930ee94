//! Stores in a build without clients for them.

use std::sync::Arc;

use object_store::ObjectStore;

use crate::store::contract::StoreProvider;
use crate::store::problem::{Advice, Problem};

/// All stores.
#[derive(Debug)]
pub(crate) struct NotBuilt;

impl StoreProvider for NotBuilt {
    fn schemes(&self) -> &'static [&'static str] {
        &["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https"]
    }

    fn connect(&self, _: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
        Err(Problem::new("this capfilt is built without the feature cloud, which URLs need: give a path"))
    }

    fn advice(&self) -> &'static Advice {
        &Advice::UNKNOWN
    }
}
