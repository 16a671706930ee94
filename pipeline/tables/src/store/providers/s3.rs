//! Amazon S3, and stores that speak its protocol.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use crate::store::contract::StoreProvider;
use crate::store::object::wait;
use crate::store::problem::{Advice, Problem};
use crate::store::providers::aws;
use crate::store::providers::connect::{check_endpoint, credentials, few_retries, is_on, retries, setting};

/// `s3://bucket/key`.
pub(crate) static S3: StoreProvider = StoreProvider {
    schemes: &["s3", "s3a"],
    connect,
    advice: Advice {
        credentials: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws (`aws sso login` renews one \
                  of SSO), or AWS_SKIP_SIGNATURE=true for a public bucket",
        ..Advice::UNKNOWN
    },
    ..StoreProvider::DEFAULT
};

fn connect(base: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let mut builder = AmazonS3Builder::from_env().with_url(base);
    let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let endpoints = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::StsEndpoint];
    for (name, key) in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"].iter().zip(endpoints) {
        check_endpoint(name, value(key))?;
    }
    let unsigned = is_on(value(AmazonS3ConfigKey::SkipSignature));
    let keys = [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey].map(value);
    if !unsigned && keys == [None, None] {
        builder = wait(aws::completed(builder)).flatten()?;
        check_endpoint("endpoint_url of the profile", builder.get_config_value(&AmazonS3ConfigKey::Endpoint))?;
    }
    if !unsigned {
        let store = builder.clone().with_retry(few_retries()).build().map_err(|e| setting(&S3.advice, &e))?;
        credentials(base, &S3.advice, Arc::clone(store.credentials()))?;
    }
    Ok(Arc::new(builder.with_retry(retries()).build().map_err(|e| setting(&S3.advice, &e))?))
}
