//! AWS credentials, region and endpoint, found as AWS's own programs find them, if the environment names no keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::{CredentialProvider, Error as StoreError};
use tokio::sync::Mutex;

use crate::store::problem::{Problem, cause};

/// Timeout and attempts for the instance metadata service, which answers within milliseconds where it exists.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
const METADATA_TRIES: u32 = 2;
/// Time before expiry at which credentials are renewed.
const BEFORE_EXPIRY: Duration = Duration::from_secs(300);

/// Completes `builder` from the profile that `AWS_PROFILE` names (or `default`) in `~/.aws`: its keys, role, SSO
/// session or process; else from a web identity or the role of a container or instance. `AWS_EC2_METADATA_DISABLED` is
/// obeyed.
pub(crate) async fn completed(builder: AmazonS3Builder) -> Result<AmazonS3Builder, Problem> {
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    // The metadata service is not asked for the region: without such a service that would take seconds.
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    let config = ProviderConfig::without_region().with_http_client(http.clone());
    let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).region(region).no_credentials();
    let found: SdkConfig = loader.load().await;
    let config = config.with_region(found.region().cloned());
    let mut metadata = imds::Client::builder()
        .configure(&config)
        .connect_timeout(METADATA_TIMEOUT)
        .read_timeout(METADATA_TIMEOUT)
        .max_attempts(METADATA_TRIES);
    // object_store's own setting for the metadata endpoint.
    if let Some(endpoint) = builder.get_config_value(&AmazonS3ConfigKey::MetadataEndpoint) {
        metadata = metadata
            .endpoint(&endpoint)
            .map_err(|e| Problem::new(format!("AWS_METADATA_ENDPOINT = {endpoint} is not a URL: {e}")))?;
    }
    let mut chain = DefaultCredentialsChain::builder().configure(config).imds_client(metadata.build());
    chain.set_region(found.region().cloned());
    let chain = chain.build().await;

    let mut builder = builder.with_credentials(Arc::new(Chain { chain, held: Mutex::default() }));
    let lacks = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_none();
    if let Some(region) = found.region().filter(|_| lacks(&builder, AmazonS3ConfigKey::Region)) {
        builder = builder.with_region(region.as_ref());
    }
    if lacks(&builder, AmazonS3ConfigKey::Endpoint)
        && lacks(&builder, AmazonS3ConfigKey::S3Endpoint)
        && let Some(endpoint) = found.endpoint_url()
    {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(builder)
}

/// Credentials of AWS's default provider chain, renewed before they expire.
#[derive(Debug)]
struct Chain {
    chain: DefaultCredentialsChain,
    held: Mutex<Option<(Arc<AwsCredential>, Option<SystemTime>)>>,
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>, StoreError> {
        let mut held = self.held.lock().await;
        if let Some((credential, expiry)) = &*held
            && expiry.is_none_or(|expiry| expiry > SystemTime::now() + BEFORE_EXPIRY)
        {
            return Ok(Arc::clone(credential));
        }
        let got = self.chain.provide_credentials().await;
        let got = got.map_err(|e| StoreError::Generic { store: "S3", source: reason(&e).into() })?;
        let credential = Arc::new(AwsCredential {
            key_id: got.access_key_id().to_owned(),
            secret_key: got.secret_access_key().to_owned(),
            token: got.session_token().map(str::to_owned),
        });
        *held = Some((Arc::clone(&credential), got.expiry()));
        Ok(credential)
    }
}

/// Message of the innermost cause: the outer ones only name the providers of the chain.
fn reason(error: &CredentialsError) -> String {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
            format!("none in the environment, in the profile {profile} or from the machine")
        }
        _ => cause(error),
    }
}
