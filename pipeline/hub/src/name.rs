//! Names of models and datasets.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::rules::{self, check_id, is_commit, is_plain};

/// Kinds of repositories in `hf://KIND/..`.
const KINDS: [&str; 5] = ["models", "datasets", "spaces", "kernels", "buckets"];

/// Name of a model: `hf:OWNER/NAME[@REV]`, `hf://OWNER/NAME[@REV]` or `hf://models/OWNER/NAME[@REV]`.
///
/// REV is a branch, a tag, a reference such as `refs/pr/5`, or a commit of 40 hex digits. In `hf://` a slash in REV is
/// written `%2F` except in `refs/pr/N` and `refs/convert/NAME`, as huggingface_hub reads it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Name {
    id: String,
    revision: String,
}

impl Name {
    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Revision, `main` if none was given.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Revision, if it is a commit.
    pub fn commit(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(&*self.revision)
    }

    /// The same model at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { id: self.id.clone(), revision: commit.to_owned() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}@{}", self.id, self.revision.replace('%', "%25"))
    }
}

impl FromStr for Name {
    type Err = Error;

    /// Parses a name. A malformed one is [`Error::Name`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (id, revision) = if let Some(uri) = text.strip_prefix("hf://") {
                let location = match kind(uri) {
                    (None | Some("models"), location) => location,
                    (Some(kind), _) => return Err(format!("this names one of the {kind}, where a model is expected")),
                };
                let (id, revision, path) = split(location)?;
                if !path.is_empty() {
                    return Err(format!(
                        "{path:?} is too much: a model is hf://OWNER/NAME[@REV], with %2F for a slash in REV"
                    ));
                }
                (id, revision)
            } else if let Some(short) = text.strip_prefix("hf:") {
                short.split_once('@').map_or((short.to_owned(), None), |(id, rev)| (id.to_owned(), Some(rev)))
            } else {
                return Err("a model of the hub is written hf:OWNER/NAME or hf:OWNER/NAME@REV".to_owned());
            };
            check_id(&id)?;
            Ok(Self { id, revision: rules::revision(revision)? })
        };
        parse().map_err(|problem| Error::Name { name: text.to_owned(), problem })
    }
}

/// Name of a dataset or of something in it: `hf://datasets/OWNER/NAME[@REV][/path/in/repo]`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Dataset {
    id: String,
    revision: String,
    path: String,
}

impl Dataset {
    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Revision, `main` if none was given.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Path in the repository, empty for all of it.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = match special(&self.revision) {
            Some((_, "")) => self.revision.clone(),
            _ => self.revision.replace('%', "%25").replace('/', "%2F"),
        };
        write!(f, "hf://datasets/{}@{revision}", self.id)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl FromStr for Dataset {
    type Err = Error;

    /// Parses a name. A malformed one is [`Error::Name`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let Some(("", location)) = text.split_once("hf://datasets/") else {
                return Err("a dataset of the hub is written hf://datasets/OWNER/NAME[@REV]/PATH".to_owned());
            };
            let (id, revision, path) = split(location)?;
            check_id(&id)?;
            let path = path.trim_end_matches('/');
            if !path.is_empty() && !is_plain(path) {
                return Err(format!("{path:?} is no plain path inside a repository"));
            }
            Ok(Self { id, revision: rules::revision(revision)?, path: path.to_owned() })
        };
        parse().map_err(|problem| Error::Name { name: text.to_owned(), problem })
    }
}

fn kind(uri: &str) -> (Option<&str>, &str) {
    match uri.split_once('/') {
        Some((kind, location)) if KINDS.contains(&kind) => (Some(kind), location),
        _ => (None, uri),
    }
}

/// Splits `OWNER/NAME[@REV][/PATH]`. An `@` in PATH belongs to it.
fn split(location: &str) -> Result<(String, Option<&str>, &str), String> {
    match location.split_once('@') {
        Some((id, rest)) if id.matches('/').count() < 2 => {
            let (revision, path) = special(rest).unwrap_or_else(|| rest.split_once('/').unwrap_or((rest, "")));
            Ok((id.to_owned(), Some(revision), path))
        }
        _ => {
            let mut parts = location.splitn(3, '/');
            let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
                return Err("OWNER/NAME is expected, and there is no slash".to_owned());
            };
            Ok((format!("{owner}/{name}"), None, parts.next().unwrap_or_default()))
        }
    }
}

/// Splits a leading `refs/pr/N` or `refs/convert/NAME` off, whose slashes need no escape.
fn special(text: &str) -> Option<(&str, &str)> {
    let digits = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let word = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    let rest = text.strip_prefix("refs/")?;
    let (kind, rest) = rest.split_once('/')?;
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let known = !name.is_empty() && (kind == "pr" && digits(name) || kind == "convert" && word(name));
    let end = text.len() - rest.len() + name.len();
    known.then(|| (&text[..end], path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn models_are_named_in_three_ways() {
        for (text, id, revision) in [
            ("hf:Salesforce/blip-itm-base-coco", "Salesforce/blip-itm-base-coco", "main"),
            ("hf:a/b@v1.0", "a/b", "v1.0"),
            ("hf:a/b@refs/pr/5", "a/b", "refs/pr/5"),
            ("hf:a/b@feature/x", "a/b", "feature/x"),
            ("hf:a/b@feature%2Fx", "a/b", "feature/x"),
            ("hf:a/b@50%25", "a/b", "50%"),
            ("hf://a/b", "a/b", "main"),
            ("hf://a/b@refs/pr/5", "a/b", "refs/pr/5"),
            ("hf://models/a/b@feature%2fx", "a/b", "feature/x"),
            ("hf://models/a/b", "a/b", "main"),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!((name.id(), name.revision()), (id, revision), "{text}");
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
            assert_eq!(name.commit(), None);
        }
        let name: Name = format!("hf:a/b@{}", COMMIT.to_uppercase()).parse().unwrap();
        assert_eq!(name.commit(), Some(COMMIT));
        assert_eq!(name.to_string(), format!("hf:a/b@{COMMIT}"));
    }

    #[test]
    fn malformed_models_are_refused_with_the_reason() {
        let long = format!("hf:a/{}", "b".repeat(97));
        for (text, reason) in [
            ("", "is written hf:OWNER/NAME"),
            ("a/b", "is written hf:OWNER/NAME"),
            ("hf:", "a repository is named OWNER/NAME"),
            ("hf:gpt2", "a repository is named OWNER/NAME"),
            ("hf:a/b/c", "a repository is named OWNER/NAME"),
            ("hf:a/", "is empty"),
            ("hf:/b", "is empty"),
            ("hf:../b", "starts or ends with"),
            ("hf:a/b..c", "contains -- or .."),
            ("hf:a/b--c", "contains -- or .."),
            ("hf:a/b c", "characters other than"),
            ("hf:ä/b", "characters other than"),
            ("hf:a/b.git", "ends with .git"),
            (&long, "more than 96"),
            ("hf:a/b@", "is empty"),
            ("hf:a/b@..", "is not a branch"),
            ("hf:a/b@x/../../y", "is not a branch"),
            ("hf:a/b@%2E%2E/x", "is not a branch"),
            ("hf:a/b@/etc", "is not a branch"),
            ("hf:a/b@x y", "is not a branch"),
            ("hf:a/b@x\\y", "is not a branch"),
            ("hf:a/b@%FF", "not UTF-8"),
            ("hf://gpt2", "no slash"),
            ("hf://a/b@main/config.json", "is too much"),
            ("hf://a/b/config.json", "is too much"),
            ("hf://datasets/a/b", "one of the datasets"),
        ] {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }

    #[test]
    fn datasets_have_a_path() {
        for (text, revision, path) in [
            ("hf://datasets/a/b", "main", ""),
            ("hf://datasets/a/b/", "main", ""),
            ("hf://datasets/a/b/train/0.parquet", "main", "train/0.parquet"),
            ("hf://datasets/a/b/x@y/0.parquet", "main", "x@y/0.parquet"),
            ("hf://datasets/a/b@v1/x", "v1", "x"),
            ("hf://datasets/a/b@feature%2Fx/y", "feature/x", "y"),
            ("hf://datasets/a/b@refs%2Fconvert%2Fparquet/y/z", "refs/convert/parquet", "y/z"),
            ("hf://datasets/a/b@refs/convert/parquet/y/z", "refs/convert/parquet", "y/z"),
            ("hf://datasets/a/b@refs/pr/12", "refs/pr/12", ""),
            ("hf://datasets/a/b@refs/prx/y", "refs", "prx/y"),
        ] {
            let name: Dataset = text.parse().unwrap();
            assert_eq!((name.id(), name.revision(), name.path()), ("a/b", revision, path), "{text}");
            assert_eq!(name.to_string().parse::<Dataset>().unwrap(), name);
        }
        for text in [
            "hf:a/b",
            "hf://a/b",
            "hf://datasets/a",
            "hf://datasets/a/b/../c",
            "hf://datasets/a/b@v1//x",
            "hf://datasets/a/b/x\\y",
        ] {
            text.parse::<Dataset>().unwrap_err();
        }
    }
}
