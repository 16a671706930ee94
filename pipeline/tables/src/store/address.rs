//! Addresses of stores and of what is in them.

use crate::store::contract::StoreProvider;
use crate::store::providers;
use crate::store::url::shown;

/// A parsed URL.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) provider: &'static StoreProvider,
    /// Scheme and bucket; the whole URL of a single file.
    pub(crate) base: String,
    /// Key exactly as the store spells it, without percent-decoding; the name of a single file.
    pub(crate) key: String,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, _) = text.split_once("://").unwrap_or_default();
        if scheme.eq_ignore_ascii_case("file") {
            return Err("give the path without file://".to_owned());
        }
        let provider = providers::of(scheme)?;
        let (base, key) = (provider.parse)(text)?;
        Ok(Self { provider, base, key })
    }

    pub(crate) fn url(&self, key: &str) -> String {
        if self.provider.has_folders { format!("{}/{key}", self.base) } else { shown(&self.base) }
    }
}
