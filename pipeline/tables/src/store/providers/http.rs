//! Single files on web servers.

use std::sync::Arc;

use object_store::http::HttpBuilder;
use object_store::{ClientOptions, ObjectStore};

use crate::store::contract::StoreProvider;
use crate::store::problem::{Advice, Problem};
use crate::store::providers::connect::{retries, setting};

/// `https://host/path/file`.
pub(crate) static HTTP: StoreProvider = StoreProvider {
    schemes: &["http", "https"],
    connect,
    advice: Advice {
        credentials: "capfilt sends none over HTTP: download the file, or give a URL that needs none",
        ..Advice::UNKNOWN
    },
    has_folders: false,
    parse,
    ..StoreProvider::DEFAULT
};

fn connect(base: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let options = ClientOptions::new().with_allow_http(base.starts_with("http:"));
    let builder = HttpBuilder::new().with_url(base).with_client_options(options).with_retry(retries());
    Ok(Arc::new(builder.build().map_err(|e| setting(&HTTP.advice, &e))?))
}

fn parse(url: &str) -> Result<(String, String), String> {
    let url = url::Url::parse(url).map_err(|e| format!("not a URL: {e}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("a user and a password are in the URL: {}", HTTP.advice.credentials));
    }
    let file = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let file = percent_encoding::percent_decode_str(file).decode_utf8_lossy().into_owned();
    if file.is_empty() || file.contains('*') {
        return Err("over HTTP a single file is read, folders and patterns are not: give the URL of a file".to_owned());
    }
    Ok((url.to_string(), file))
}
