//! Azure Blob Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use crate::store::contract::StoreProvider;
use crate::store::problem::{Advice, Problem};
use crate::store::providers::connect::{check_endpoint, credentials, few_retries, is_on, retries, setting};

/// `az://container/key` and other forms.
pub(crate) static AZURE: StoreProvider = StoreProvider {
    schemes: &["az", "adl", "azure", "abfs", "abfss"],
    connect,
    advice: Advice {
        credentials: "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or \
                  AZURE_SKIP_SIGNATURE=true for a public container",
        allow_http: "set AZURE_ALLOW_HTTP=true where http is meant",
        bucket: "container",
    },
    ..StoreProvider::DEFAULT
};

fn connect(base: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let builder = MicrosoftAzureBuilder::from_env().with_url(base);
    check_endpoint("AZURE_ENDPOINT", builder.get_config_value(&AzureConfigKey::Endpoint))?;
    if !is_on(builder.get_config_value(&AzureConfigKey::SkipSignature)) {
        let store = builder.clone().with_retry(few_retries()).build().map_err(|e| setting(&AZURE.advice, &e))?;
        credentials(base, &AZURE.advice, Arc::clone(store.credentials()))?;
    }
    Ok(Arc::new(builder.with_retry(retries()).build().map_err(|e| setting(&AZURE.advice, &e))?))
}
