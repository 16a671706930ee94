//! The list of all stores. A build without the features `cloud` and `hub` knows their URLs, and reaches none.

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
#[cfg(feature = "hub")]
pub(crate) mod hugging_face;
#[cfg(feature = "cloud")]
pub(crate) mod s3;

use crate::store::contract::StoreProvider;
#[cfg(any(not(feature = "cloud"), not(feature = "hub")))]
use crate::store::problem::Problem;

#[cfg(feature = "cloud")]
static CLOUD: &[&StoreProvider] = &[&s3::S3, &google::GOOGLE, &azure::AZURE, &http::HTTP];
#[cfg(not(feature = "cloud"))]
static CLOUD: &[&StoreProvider] = &[&StoreProvider {
    schemes: &["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https"],
    connect: |_| Err(Problem::new("this capfilt is built without the feature cloud, which URLs need: give a path")),
    ..StoreProvider::DEFAULT
}];
#[cfg(feature = "hub")]
static HUB: &[&StoreProvider] = &[&hugging_face::HUGGING_FACE];
#[cfg(not(feature = "hub"))]
static HUB: &[&StoreProvider] = &[&StoreProvider {
    schemes: &["hf"],
    connect: |_| Err(Problem::new("this capfilt is built without the feature hub, which datasets of the hub need")),
    ..StoreProvider::DEFAULT
}];

/// Store of the URLs with this scheme, in upper or lower case.
///
/// # Errors
/// A scheme of no store.
pub(crate) fn of(scheme: &str) -> Result<&'static StoreProvider, String> {
    let has = |store: &&&StoreProvider| store.schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme));
    CLOUD.iter().chain(HUB).find(has).copied().ok_or_else(|| {
        let known: Vec<&str> = CLOUD.iter().chain(HUB).flat_map(|store| store.schemes).copied().collect();
        let (last, others) = known.split_last().unwrap_or((&"none", &[]));
        format!("{} is not a known kind of store: use {} or {last}", scheme.to_ascii_lowercase(), others.join(", "))
    })
}
