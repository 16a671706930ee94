//! A model on a hub, and a cache without it.

use std::fs;
use std::path::PathBuf;

use capfilt_hub::{Client, Error, Name, Snapshot};

use super::{Files, Hub, noise, sha256};

pub(crate) const ONE: &str = "1111111111111111111111111111111111111111";
pub(crate) const WEIGHTS: usize = 3 << 20;

pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) files: Files,
}

impl World {
    pub(crate) fn new() -> Self {
        let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
        let file = |name: &str, bytes: Vec<u8>, large| (name.to_owned(), (bytes, large));
        let config = file("config.json", noise(100_000, 7), false);
        let files = Files::from([config, file("model.safetensors", noise(WEIGHTS, 5), true)]);
        hub.commit("a/b", "main", ONE, &files);
        Self { hub, dir, files }
    }

    pub(crate) fn client(&self) -> Client {
        self.hub.client(self.dir.path())
    }

    pub(crate) async fn fetch(&self) -> Result<Snapshot, Error> {
        self.client().checkpoint(&name("hf:a/b"), false, &|_| {}).await
    }

    pub(crate) fn weights(&self) -> String {
        sha256(&self.files["model.safetensors"].0)
    }

    pub(crate) fn partial(&self, etag: &str) -> PathBuf {
        self.blobs().join(format!("{etag}.incomplete"))
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.path().join("models--a--b/blobs")
    }

    /// Ranges that the storage was asked for.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let seen = self.hub.seen("GET", &self.weights());
        seen.into_iter().map(|seen| seen.headers.get("range").cloned()).collect()
    }

    pub(crate) fn assert_whole(&self, snapshot: &Snapshot) {
        for (file, (bytes, _)) in &self.files {
            assert!(fs::read(snapshot.folder().join(file)).unwrap() == *bytes, "{file}");
        }
        assert_eq!(fs::read_dir(self.blobs()).unwrap().count(), self.files.len());
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}
