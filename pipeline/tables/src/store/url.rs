//! Addresses of stores and of what is in them.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::store::problem::Service;

pub(crate) const MAGIC: [char; 3] = ['*', '?', '['];

/// Whether `text` is a URL rather than a path.
pub fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        // A one-letter scheme is a Windows drive.
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// URL for display and records; HTTP URLs lose user, password, query (it may hold a signature) and fragment.
pub fn shown(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if matches!(parsed.scheme(), "http" | "https") => {
            parsed.set_query(None);
            parsed.set_fragment(None);
            let _ = parsed.set_username("").and_then(|()| parsed.set_password(None));
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

/// A parsed URL.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) service: Service,
    /// Scheme and bucket; the whole URL for HTTP.
    pub(crate) base: String,
    /// Key exactly as the store spells it, without percent-decoding; the file name for HTTP.
    pub(crate) key: String,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let service = match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Service::S3,
            "gs" => Service::Google,
            "az" | "adl" | "azure" | "abfs" | "abfss" => Service::Azure,
            "http" | "https" => return Self::http(text),
            "file" => return Err("give the path without file://".to_owned()),
            _ => return Err(format!("{scheme} is not a known kind of store: use s3, gs, az, abfs, http or https")),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("it names no bucket: give {scheme}://BUCKET/FOLDER"));
        }
        Ok(Self { service, base: format!("{scheme}://{bucket}"), key: key.to_owned() })
    }

    fn http(text: &str) -> Result<Self, String> {
        let url = url::Url::parse(text).map_err(|e| format!("not a URL: {e}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("a user and a password are in the URL: {}", Service::Http.credentials()));
        }
        let file = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let file = percent_encoding::percent_decode_str(file).decode_utf8_lossy().into_owned();
        if file.is_empty() || file.contains('*') {
            return Err(
                "over HTTP a single file is read, folders and patterns are not: give the URL of a file".to_owned()
            );
        }
        Ok(Self { service: Service::Http, base: url.to_string(), key: file })
    }

    pub(crate) fn url(&self, key: &str) -> String {
        if self.service == Service::Http { shown(&self.base) } else { format!("{}/{key}", self.base) }
    }
}

/// Location of a source independent of the working directory: an absolute path, or a URL without credentials.
pub fn whereabouts(source: &Path) -> PathBuf {
    let text = source.to_string_lossy();
    if is_url(&text) {
        return PathBuf::from(shown(&text));
    }
    std::path::absolute(source).unwrap_or_else(|_| source.to_owned())
}
