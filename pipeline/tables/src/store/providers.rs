//! The list of all stores. A build without the feature `cloud` knows their URLs, and reaches none.

#[cfg(feature = "cloud")]
pub(crate) mod aws;
#[cfg(feature = "cloud")]
pub(crate) mod azure;
#[cfg(feature = "cloud")]
pub(crate) mod connect;
#[cfg(feature = "cloud")]
pub(crate) mod google;
#[cfg(feature = "cloud")]
pub(crate) mod http;
#[cfg(feature = "cloud")]
pub(crate) mod s3;

use crate::store::contract::StoreProvider;

#[cfg(feature = "cloud")]
static STORES: &[&StoreProvider] = &[&s3::S3, &google::GOOGLE, &azure::AZURE, &http::HTTP];
#[cfg(not(feature = "cloud"))]
static STORES: &[&StoreProvider] = &[&StoreProvider {
    schemes: &["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https"],
    ..StoreProvider::DEFAULT
}];

/// Store of the URLs with this scheme, in upper or lower case.
///
/// # Errors
/// A scheme of no store.
pub(crate) fn of(scheme: &str) -> Result<&'static StoreProvider, String> {
    let has = |store: &&&StoreProvider| store.schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme));
    STORES.iter().find(has).copied().ok_or_else(|| {
        let known: Vec<&str> = STORES.iter().flat_map(|store| store.schemes).copied().collect();
        let (last, others) = known.split_last().unwrap_or((&"none", &[]));
        format!("{} is not a known kind of store: use {} or {last}", scheme.to_ascii_lowercase(), others.join(", "))
    })
}
