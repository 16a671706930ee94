//! URLs of stores: how they are distinguished from paths, and how they are displayed.

use std::path::{Path, PathBuf};

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

/// Location of a source independent of the working directory: an absolute path, or a URL without credentials.
pub fn whereabouts(source: &Path) -> PathBuf {
    let text = source.to_string_lossy();
    if is_url(&text) {
        return PathBuf::from(shown(&text));
    }
    std::path::absolute(source).unwrap_or_else(|_| source.to_owned())
}
