//! Google Cloud Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use crate::store::contract::StoreProvider;
use crate::store::problem::{Advice, Problem};
use crate::store::providers::connect::{check_endpoint, credentials, few_retries, is_on, retries, setting};

/// `gs://bucket/key`.
pub(crate) static GOOGLE: StoreProvider = StoreProvider {
    schemes: &["gs"],
    connect,
    advice: Advice {
        credentials: "set GOOGLE_APPLICATION_CREDENTIALS to a key file, log in with `gcloud auth application-default login`, or set \
                  GOOGLE_SKIP_SIGNATURE=true for a public bucket",
        ..Advice::UNKNOWN
    },
    ..StoreProvider::DEFAULT
};

fn connect(base: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let builder = GoogleCloudStorageBuilder::from_env().with_url(base);
    check_endpoint("GOOGLE_BASE_URL", builder.get_config_value(&GoogleConfigKey::BaseUrl))?;
    if !is_on(builder.get_config_value(&GoogleConfigKey::SkipSignature)) {
        let store = builder.clone().with_retry(few_retries()).build().map_err(|e| setting(&GOOGLE.advice, &e))?;
        credentials(base, &GOOGLE.advice, Arc::clone(store.credentials()))?;
    }
    Ok(Arc::new(builder.with_retry(retries()).build().map_err(|e| setting(&GOOGLE.advice, &e))?))
}
