//! In-flight images ("in hand" in names): pixels or embeddings that queued and running jobs need, held once per model
//! however many jobs share them.
//!
//! They ensure that an image is encoded only once. All calls that need an image for the same model get the same
//! [`Image`] while any of them holds it; the worker stores the embedding in it, where all of them find it even if the
//! cache is tiny.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::client::Session;
use super::sync::lock;
use super::task::Key;
use crate::blip::Embedding;
use crate::image::ImageError;

/// The table of in-flight images.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    table: Mutex<HashMap<Key, Weak<Image>>>,
    bytes: AtomicUsize,
}

/// Bytes counted as in flight until the claim is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    inputs: Arc<Inputs>,
    session: Arc<Session>,
    bytes: usize,
}

/// One image, prepared for one model.
#[derive(Debug)]
pub(super) struct Image {
    key: Key,
    pub(super) sha256: [u8; 32],
    state: Mutex<(Input, Claim)>,
    /// The device of the model that has it, or will have it; `NOWHERE` before any is chosen.
    home: AtomicUsize,
    inputs: Arc<Inputs>,
}

/// An embedding as the cache holds it.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    pub(super) embedding: Embedding,
    /// The pixels too, if another device may have to encode them again.
    pub(super) pixels: Option<Arc<[u8]>>,
    /// The device of the model that made it.
    pub(super) home: usize,
}

impl Encoded {
    pub(super) fn bytes(&self) -> usize {
        self.embedding.bytes() + self.pixels.as_ref().map_or(0, |pixels| pixels.len())
    }

    /// Bytes in the host's memory.
    fn host_bytes(&self) -> usize {
        self.embedding.host().map_or(0, size_of_val) + self.pixels.as_ref().map_or(0, |pixels| pixels.len())
    }
}

#[derive(Debug)]
enum Input {
    /// Not decoded yet.
    Missing,
    Bad(ImageError),
    /// Pixels from `image::load`.
    Pixels(Arc<[u8]>),
    Encoded(Encoded),
}

const NOWHERE: usize = usize::MAX;

impl Inputs {
    /// In-flight bytes of the host's memory. An embedding that the cache also holds counts in both places.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn claim(self: &Arc<Self>, session: &Arc<Session>, bytes: usize) -> Claim {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        session.held.fetch_add(bytes, Ordering::AcqRel);
        Claim { inputs: Arc::clone(self), session: Arc::clone(session), bytes }
    }

    /// Returns the image that others hold under this key, or a new one, already encoded if `cached` returns an
    /// embedding.
    pub(super) fn image(
        self: &Arc<Self>,
        key: Key,
        sha256: [u8; 32],
        mut claim: Claim,
        cached: impl FnOnce() -> Option<Encoded>,
    ) -> Arc<Image> {
        let mut table = lock(&self.table);
        if let Some(image) = table.get(&key).and_then(Weak::upgrade) {
            return image;
        }
        // The cache is read after the table, under its lock: the worker fills the cache before it releases an image, so
        // an image encoded a moment ago is in one of the two.
        let (input, home) = match cached() {
            Some(encoded) => {
                claim.resize(encoded.host_bytes());
                let home = encoded.home;
                (Input::Encoded(encoded), home)
            }
            None => (Input::Missing, NOWHERE),
        };
        let (state, home) = (Mutex::new((input, claim)), AtomicUsize::new(home));
        let image = Arc::new(Image { key, sha256, state, home, inputs: Arc::clone(self) });
        table.insert(key, Arc::downgrade(&image));
        image
    }
}

impl Claim {
    fn resize(&mut self, bytes: usize) {
        for counter in [&self.inputs.bytes, &self.session.held] {
            counter.fetch_add(bytes, Ordering::AcqRel);
            counter.fetch_sub(self.bytes, Ordering::AcqRel);
        }
        self.bytes = bytes;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.resize(0);
    }
}

impl Image {
    /// Decodes the image on first use; concurrent callers wait. The worker never waits for this: it only sees decoded
    /// images.
    pub(super) fn fill(&self, load: impl FnOnce() -> Result<Vec<u8>, ImageError>) -> Result<(), ImageError> {
        let mut state = lock(&self.state);
        if let Input::Missing = state.0 {
            state.0 = match load() {
                Ok(pixels) => {
                    state.1.resize(pixels.len());
                    Input::Pixels(pixels.into())
                }
                Err(error) => {
                    state.1.resize(0);
                    Input::Bad(error)
                }
            };
        }
        match &state.0 {
            Input::Bad(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// The pixels, if the image is decoded but not yet encoded.
    pub(super) fn pixels(&self) -> Option<Arc<[u8]>> {
        match &lock(&self.state).0 {
            Input::Pixels(pixels) => Some(Arc::clone(pixels)),
            _ => None,
        }
    }

    pub(super) fn embedding(&self) -> Option<Embedding> {
        match &lock(&self.state).0 {
            Input::Encoded(encoded) => Some(encoded.embedding.clone()),
            _ => None,
        }
    }

    /// Replaces the pixels by the embedding, for every holder of the image.
    pub(super) fn encoded(&self, encoded: Encoded) {
        let mut state = lock(&self.state);
        state.1.resize(encoded.host_bytes());
        state.0 = Input::Encoded(encoded);
    }

    /// The device that has it, if one was chosen.
    pub(super) fn home(&self) -> Option<usize> {
        Some(self.home.load(Ordering::Acquire)).filter(|&home| home != NOWHERE)
    }

    /// Chooses the device for the image's work. What another device has encoded is given up for the pixels.
    pub(super) fn settle(&self, device: usize) {
        self.home.store(device, Ordering::Release);
        let mut state = lock(&self.state);
        if let Input::Encoded(Encoded { pixels: Some(pixels), home, .. }) = &state.0
            && *home != device
        {
            let pixels = Arc::clone(pixels);
            state.1.resize(pixels.len());
            state.0 = Input::Pixels(pixels);
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let mut table = lock(&self.inputs.table);
        // A new image may already have taken its place.
        if table.get(&self.key).is_some_and(|image| image.strong_count() == 0) {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Client;

    fn encoded(floats: usize, pixels: Option<Arc<[u8]>>, home: usize) -> Encoded {
        Encoded { embedding: Embedding::Host(vec![0.0; floats].into()), pixels, home }
    }

    #[test]
    fn an_image_is_shared_while_held_and_counted_once() {
        let (inputs, client) = (Arc::new(Inputs::default()), Client::new());
        let session = client.session();
        let get = |cached| inputs.image([1; 32], [1; 32], inputs.claim(session, 10), || cached);
        let (a, b) = (get(None), get(None));
        assert!(Arc::ptr_eq(&a, &b));
        assert_eq!(inputs.bytes(), 10);
        a.fill(|| Ok(vec![0; 12])).unwrap();
        b.fill(|| panic!("decoded twice")).unwrap();
        assert_eq!((inputs.bytes(), b.pixels().unwrap().len()), (12, 12));
        a.encoded(encoded(5, None, 0));
        assert_eq!((inputs.bytes(), session.held.load(Ordering::Relaxed)), (20, 20));
        assert!(b.pixels().is_none() && b.embedding().is_some());
        drop((a, b));
        assert_eq!((inputs.bytes(), lock(&inputs.table).len()), (0, 0));
        let c = get(Some(encoded(1, None, 2)));
        assert_eq!((c.embedding().unwrap().bytes(), inputs.bytes(), c.home()), (4, 4, Some(2)));
        drop(c);
        // With several devices the pixels stay, for the case that the embedding is lost.
        let d = get(None);
        d.fill(|| Ok(vec![0; 12])).unwrap();
        assert_eq!(d.home(), None);
        d.settle(1);
        d.encoded(encoded(5, d.pixels(), 1));
        d.settle(1);
        assert_eq!((inputs.bytes(), d.pixels().is_none()), (32, true));
        d.settle(0);
        assert_eq!((inputs.bytes(), d.pixels().unwrap().len(), d.home()), (12, 12, Some(0)));
    }
}
