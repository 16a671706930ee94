//! Client for the store of a URL, configured from the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, ObjectStore, RetryConfig};

use crate::store::aws;
use crate::store::object::wait;
use crate::store::problem::{Problem, Service};
use crate::store::url::Address;

/// Delays until a warning about missing credentials and until giving up: if none are set, the metadata service is
/// asked, which most machines lack.
const SAY_AFTER: Duration = Duration::from_secs(3);
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);

/// Creates the client for the store of `address`; fails before any request if there are no credentials.
pub(crate) fn connect(address: &Address) -> Result<Arc<dyn ObjectStore>, Problem> {
    let service = address.service;
    let setting = |e: object_store::Error| Problem::setting(service, &e);
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(15), base: 2.0 };
    let retry = RetryConfig { backoff, max_retries: 10, retry_timeout: Duration::from_secs(180) };
    // Credentials get fewer retries than objects.
    let few = RetryConfig { max_retries: 2, ..RetryConfig::default() };
    Ok(match service {
        Service::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(&address.base);
            let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
            let endpoints =
                [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::StsEndpoint];
            for (name, key) in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"].iter().zip(endpoints)
            {
                check_endpoint(name, value(key))?;
            }
            let unsigned = is_on(value(AmazonS3ConfigKey::SkipSignature));
            let keys = [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey].map(value);
            if !unsigned && keys == [None, None] {
                builder = wait(aws::completed(builder))?;
                check_endpoint("endpoint_url of the profile", builder.get_config_value(&AmazonS3ConfigKey::Endpoint))?;
            }
            if !unsigned {
                let store = builder.clone().with_retry(few).build().map_err(setting)?;
                credentials(address, Arc::clone(store.credentials()))?;
            }
            Arc::new(builder.with_retry(retry).build().map_err(setting)?)
        }
        Service::Google => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(&address.base);
            check_endpoint("GOOGLE_BASE_URL", builder.get_config_value(&GoogleConfigKey::BaseUrl))?;
            if !is_on(builder.get_config_value(&GoogleConfigKey::SkipSignature)) {
                let store = builder.clone().with_retry(few).build().map_err(setting)?;
                credentials(address, Arc::clone(store.credentials()))?;
            }
            Arc::new(builder.with_retry(retry).build().map_err(setting)?)
        }
        Service::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(&address.base);
            check_endpoint("AZURE_ENDPOINT", builder.get_config_value(&AzureConfigKey::Endpoint))?;
            if !is_on(builder.get_config_value(&AzureConfigKey::SkipSignature)) {
                let store = builder.clone().with_retry(few).build().map_err(setting)?;
                credentials(address, Arc::clone(store.credentials()))?;
            }
            Arc::new(builder.with_retry(retry).build().map_err(setting)?)
        }
        Service::Http => {
            let options = ClientOptions::new().with_allow_http(address.base.starts_with("http:"));
            let builder = HttpBuilder::new().with_url(&address.base).with_client_options(options).with_retry(retry);
            Arc::new(builder.build().map_err(setting)?)
        }
    })
}

fn is_on(value: Option<String>) -> bool {
    value.is_some_and(|value| ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str()))
}

/// Refuses an endpoint that is not a URL, on which the client would panic.
fn check_endpoint(name: &str, value: Option<String>) -> Result<(), Problem> {
    let Some(value) = value else { return Ok(()) };
    let is_url =
        url::Url::parse(&value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if is_url {
        return Ok(());
    }
    if value.is_empty() {
        return Err(Problem::new(format!("{name} is empty: unset it, or give a URL")));
    }
    let hint = match value.contains("://") {
        true => "it must begin with http:// or https:// and name a host".to_owned(),
        false => format!("write http://{value} or https://{value}"),
    };
    Err(Problem::new(format!("{name} = {value} is not a URL: {hint}")))
}

/// Waits for credentials, at most `GIVE_UP_AFTER`.
fn credentials<C>(address: &Address, provider: Arc<dyn CredentialProvider<Credential = C>>) -> Result<(), Problem>
where
    C: std::fmt::Debug + Send + Sync + 'static,
{
    let (service, base) = (address.service, address.base.clone());
    wait(async move {
        let mut asked = Box::pin(provider.get_credential());
        let got = match tokio::time::timeout(SAY_AFTER, &mut asked).await {
            Ok(got) => got,
            Err(_) => {
                log::warn!(
                    "{base}: waiting for credentials: none are set, and the metadata service of a cloud's machines does not answer"
                );
                match tokio::time::timeout(GIVE_UP_AFTER - SAY_AFTER, asked).await {
                    Ok(got) => got,
                    Err(_) => return Err(Problem::silent(service, GIVE_UP_AFTER)),
                }
            }
        };
        got.map(drop).map_err(|error| Problem::no_credentials(service, &error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url() {
        let said = |value: &str| {
            check_endpoint("AWS_ENDPOINT_URL", Some(value.to_owned())).map_err(|problem| problem.to_string())
        };
        for good in ["http://127.0.0.1:5055", "https://s3.example.org/", "http://[::1]:9000"] {
            said(good).unwrap();
        }
        for (bad, words) in [
            ("127.0.0.1:5055", "write http://127.0.0.1:5055 or https://127.0.0.1:5055"),
            ("localhost:9000", "write http://localhost:9000"),
            ("minio", "write http://minio"),
            ("", "is empty: unset it"),
            ("s3://bucket", "must begin with http:// or https://"),
            ("http://", "name a host"),
        ] {
            let said = said(bad).unwrap_err();
            assert!(said.contains("AWS_ENDPOINT_URL") && said.contains(words), "{bad}: {said}");
        }
    }
}
