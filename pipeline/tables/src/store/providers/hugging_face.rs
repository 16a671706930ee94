//! Datasets of the Hugging Face hub.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use capfilt_hub::{Client, Dataset, DatasetStore, OpenDataset};
use object_store::ObjectStore;

use crate::store::contract::StoreProvider;
use crate::store::object::wait;
use crate::store::problem::{Advice, Problem};

/// `hf://datasets/OWNER/NAME@REVISION/folder`.
pub(crate) static HUGGING_FACE: StoreProvider = StoreProvider {
    schemes: &["hf"],
    connect,
    advice: Advice {
        credentials: "set HF_TOKEN, or log in with `hf auth login`, if the dataset is gated or private",
        bucket: "dataset",
        ..Advice::UNKNOWN
    },
    parse,
    pin,
    version: commit_of,
    ..StoreProvider::DEFAULT
};

/// Datasets that this process has opened: a revision stands for one commit as long as the process runs.
static OPENED: Mutex<BTreeMap<String, OpenDataset>> = Mutex::new(BTreeMap::new());

fn connect(base: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let opened = || OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = opened().get(base).cloned();
    let dataset = match known {
        Some(dataset) => dataset,
        None => {
            let name = base.to_owned();
            let asked = wait(async move { Client::from_env()?.open(&name.parse()?).await })?;
            let asked = asked.map_err(|e| Problem::new(e.to_string()))?;
            opened().entry(base.to_owned()).or_insert(asked).clone()
        }
    };
    Ok(Arc::new(DatasetStore::new(dataset)))
}

/// Fixes the commit of the revision in `url`. `None` removes the fixed commit: the next opening takes the newest.
fn pin(url: &str, commit: Option<&str>) -> Result<(), String> {
    let (base, _) = parse(url)?;
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match commit {
        Some(commit) if opened.get(&base).is_some_and(|dataset| dataset.commit() == commit) => {}
        Some(commit) => {
            let client = Client::from_env().map_err(|e| e.to_string())?;
            let dataset = base.parse().map_err(|e: capfilt_hub::Error| e.to_string())?;
            opened.insert(base, client.open_at(&dataset, commit));
        }
        None => drop(opened.remove(&base)),
    }
    Ok(())
}

/// Commit that the revision in `url` stands for, if it was opened.
fn commit_of(url: &str) -> Option<String> {
    let (base, _) = parse(url).ok()?;
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).get(&base).map(|dataset| dataset.commit().to_owned())
}

fn parse(url: &str) -> Result<(String, String), String> {
    let dataset: Dataset = url.parse().map_err(|e: capfilt_hub::Error| e.to_string())?;
    let (whole, key) = (dataset.to_string(), dataset.path());
    let base = whole.strip_suffix(key).unwrap_or(&whole).trim_end_matches('/');
    Ok((base.to_owned(), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_dataset_and_a_path_in_it() {
        for (url, base, key) in [
            ("hf://datasets/a/b", "hf://datasets/a/b@main", ""),
            ("hf://datasets/a/b/data/*.parquet", "hf://datasets/a/b@main", "data/*.parquet"),
            ("hf://datasets/a/b@refs/convert/parquet/default", "hf://datasets/a/b@refs/convert/parquet", "default"),
            ("hf://datasets/a/b@feature%2Fx/c.csv", "hf://datasets/a/b@feature%2Fx", "c.csv"),
        ] {
            assert_eq!(parse(url), Ok((base.to_owned(), key.to_owned())), "{url}");
            assert_eq!(parse(base), Ok((base.to_owned(), String::new())), "{url}");
        }
        assert!(parse("hf://models/a/b").unwrap_err().contains("hf://datasets/OWNER/NAME"));
    }
}
