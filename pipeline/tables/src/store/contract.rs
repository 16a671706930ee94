//! What a store is: how its URLs are read, and how it is reached.

use std::sync::Arc;

use object_store::ObjectStore;

use crate::store::problem::{Advice, Problem};

/// A kind of store; [`crate::store::providers`] has the list of them.
#[derive(Debug)]
pub(crate) struct StoreProvider {
    /// Schemes of its URLs, in lower case.
    pub(crate) schemes: &'static [&'static str],
    /// Client for the store at a base that `parse` returned, configured from the environment. Missing credentials and
    /// invalid settings are errors, before any request for an object.
    pub(crate) connect: fn(&str) -> Result<Arc<dyn ObjectStore>, Problem>,
    /// What a user can do about the store's errors.
    pub(crate) advice: Advice,
    /// Whether the store has folders, which can be listed, rather than single files.
    pub(crate) has_folders: bool,
    /// Splits a URL into its base, scheme and bucket, and its key exactly as the store spells it, without
    /// percent-decoding. For a single file the base is the whole URL, and the key is the file's name. A URL that names
    /// nothing in the store is an error.
    pub(crate) parse: fn(&str) -> Result<(String, String), String>,
    /// Fixes the version that a URL stands for in this process. `None` removes the fixed version: the next opening takes
    /// the newest. Only stores with moving names, such as branches, need it.
    pub(crate) pin: fn(&str, Option<&str>) -> Result<(), String>,
    /// Version that a URL stands for, if the store has versions and this process has opened it.
    pub(crate) version: fn(&str) -> Option<String>,
}

impl StoreProvider {
    /// A store with buckets and folders, and without a client.
    pub(crate) const DEFAULT: Self = Self {
        schemes: &[],
        connect: |_| Err(Problem::new("this capfilt is built without this store")),
        advice: Advice::UNKNOWN,
        has_folders: true,
        parse: |url| {
            let (scheme, rest) = url.split_once("://").unwrap_or_default();
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(format!("it names no bucket: give {scheme}://BUCKET/FOLDER"));
            }
            Ok((format!("{scheme}://{bucket}"), key.to_owned()))
        },
        pin: |_, _| Ok(()),
        version: |_| None,
    };
}
