//! What the heads of answers say.

use percent_encoding::{AsciiSet, percent_encode};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode};
use url::Url;

/// What headers say of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) commit: Option<String>,
    pub(crate) etag: Option<String>,
    /// Size of the whole file, bytes.
    pub(crate) size: Option<u64>,
    linked: bool,
}

impl Facts {
    pub(crate) fn of_size(size: Option<u64>) -> Self {
        Self { size, ..Self::default() }
    }

    /// Takes what the headers of one answer on the endpoint's host say.
    pub(crate) fn note(&mut self, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if let Some(commit) = text("x-repo-commit") {
            self.commit = Some(commit.to_owned());
        }
        if let Some(etag) = text("x-linked-etag") {
            (self.etag, self.linked) = (Some(etag.to_owned()), true);
        } else if let Some(etag) = text(ETAG.as_str()).filter(|_| !self.linked) {
            self.etag = Some(etag.to_owned());
        }
        if let Some(size) = text("x-linked-size").and_then(|size| size.parse().ok()) {
            self.size = Some(size);
        }
    }

    /// Takes the size from the last answer, unless the hub named it.
    pub(crate) fn measure(&mut self, response: &Response) {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let whole = match response.status() {
            StatusCode::PARTIAL_CONTENT => text(CONTENT_RANGE).and_then(|range| range.rsplit('/').next()),
            _ => text(CONTENT_LENGTH),
        };
        self.size = self.size.or_else(|| whole?.trim().parse().ok());
    }
}

/// Returns the target of a redirect. Bytes beyond ASCII may be unencoded there, and are percent-encoded.
pub(crate) fn location(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let to = headers.get(LOCATION)?;
    from.join(&percent_encode(to.as_bytes(), &AsciiSet::EMPTY).to_string()).ok()
}

/// Whether a redirect keeps the connection as secure as it was.
pub(crate) fn is_allowed(from: &Url, to: &Url) -> bool {
    to.scheme() == "https" || to.scheme() == "http" && from.scheme() == "http"
}

/// Seconds until requests are counted anew, of a header such as `"api";r=0;t=55`, if none is left.
pub(crate) fn window_end(header: &str) -> Option<u64> {
    let field = |name: &str| header.split(';').find_map(|part| part.trim().strip_prefix(name)?.trim().parse().ok());
    field("t=").filter(|_| field("r=") == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_secure() {
        let allowed = |from: &str, to: &str| is_allowed(&from.parse().unwrap(), &to.parse().unwrap());
        assert!(
            allowed("https://a/", "https://b/")
                && allowed("http://a/", "http://b/")
                && allowed("http://a/", "https://b/")
        );
        assert!(
            !allowed("https://a/", "http://a/")
                && !allowed("http://a/", "ftp://a/")
                && !allowed("https://a/", "file:///a")
        );
    }

    #[test]
    fn a_window_counts_only_if_it_is_used_up() {
        assert_eq!(window_end("\"api\";r=0;t=55"), Some(55));
        assert_eq!(window_end("\"api\"; r=0; t=5"), Some(5));
        assert_eq!(window_end("\"api\";r=7;t=55"), None);
        assert_eq!(window_end("nonsense"), None);
    }

    #[test]
    fn headers_of_the_hub_come_before_those_of_the_file() {
        let headers = |all: &[(&'static str, &'static str)]| {
            all.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let mut facts = Facts::default();
        facts.note(&headers(&[("x-linked-etag", "\"a\""), ("etag", "\"b\""), ("x-linked-size", "7")]));
        facts.note(&headers(&[("etag", "\"c\""), ("x-repo-commit", "d")]));
        assert_eq!((facts.etag.as_deref(), facts.size, facts.commit.as_deref()), (Some("\"a\""), Some(7), Some("d")));
    }
}
