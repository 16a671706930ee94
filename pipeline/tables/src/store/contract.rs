//! What a store is: how its URLs are read, and how it is reached.

use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::store::problem::{Advice, Problem};

/// A kind of store; [`crate::store::providers`] has the list of them.
pub(crate) trait StoreProvider: fmt::Debug + Sync {
    /// Schemes of its URLs, in lower case.
    fn schemes(&self) -> &'static [&'static str];

    /// Client for a store, configured from the environment. `base` is as [`Self::parse`] returns it.
    ///
    /// # Errors
    /// Missing credentials and invalid settings, before any request for an object.
    fn connect(&self, base: &str) -> Result<Arc<dyn ObjectStore>, Problem>;

    /// What a user can do about the store's errors.
    fn advice(&self) -> &'static Advice;

    /// Whether the store has folders, which can be listed, rather than single files.
    fn has_folders(&self) -> bool {
        true
    }

    /// Splits a URL into its base, scheme and bucket, and its key exactly as the store spells it, without
    /// percent-decoding. For a single file the base is the whole URL, and the key is the file's name.
    ///
    /// # Errors
    /// A URL that names nothing in the store.
    fn parse(&self, url: &str) -> Result<(String, String), String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("it names no bucket: give {scheme}://BUCKET/FOLDER"));
        }
        Ok((format!("{scheme}://{bucket}"), key.to_owned()))
    }
}
