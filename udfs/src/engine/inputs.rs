//! Images in hand: what jobs that wait or run need of their images, each held once a model however many jobs share it.
//!
//! This is what makes an image be encoded once. Every call that wants an image of a model gets the same [`Image`] as long as
//! anybody holds it; the worker puts the embedding into it, and there all of them find it, however small the cache is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::client::Session;
use super::lock;
use super::task::Key;
use crate::blip::Embedding;
use crate::image::ImageError;

/// All images in hand.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    table: Mutex<HashMap<Key, Weak<Image>>>,
    bytes: AtomicUsize,
}

/// Bytes that count as in hand until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    inputs: Arc<Inputs>,
    session: Arc<Session>,
    bytes: usize,
}

/// One image for one model.
#[derive(Debug)]
pub(super) struct Image {
    key: Key,
    pub(super) sha256: [u8; 32],
    state: Mutex<(Input, Claim)>,
    inputs: Arc<Inputs>,
}

#[derive(Debug)]
enum Input {
    /// Not decoded yet.
    Missing,
    Bad(ImageError),
    /// As `image::load` gives them.
    Pixels(Arc<[u8]>),
    Encoded(Embedding),
}

impl Inputs {
    /// Bytes in hand. An embedding that the cache holds too counts in both places.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn claim(self: &Arc<Self>, session: &Arc<Session>, bytes: usize) -> Claim {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        session.held.fetch_add(bytes, Ordering::AcqRel);
        Claim { inputs: Arc::clone(self), session: Arc::clone(session), bytes }
    }

    /// The image that others hold under this key, or a new one, which starts with what `cached` gives.
    pub(super) fn image(
        self: &Arc<Self>,
        key: Key,
        sha256: [u8; 32],
        mut claim: Claim,
        cached: impl FnOnce() -> Option<Embedding>,
    ) -> Arc<Image> {
        let mut table = lock(&self.table);
        if let Some(image) = table.get(&key).and_then(Weak::upgrade) {
            return image;
        }
        // Only after the table was looked at, and with it locked: the worker fills the cache before it lets go of an image, so
        // what was encoded a moment ago is in one of the two.
        let input = match cached() {
            Some(embedding) => {
                claim.resize(embedding.bytes());
                Input::Encoded(embedding)
            }
            None => Input::Missing,
        };
        let image = Arc::new(Image { key, sha256, state: Mutex::new((input, claim)), inputs: Arc::clone(self) });
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
    /// Decodes the image unless that was done; who comes meanwhile waits. The worker never does: it sees only images that are filled.
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

    /// The pixels, if it waits to be encoded.
    pub(super) fn pixels(&self) -> Option<Arc<[u8]>> {
        match &lock(&self.state).0 {
            Input::Pixels(pixels) => Some(Arc::clone(pixels)),
            _ => None,
        }
    }

    pub(super) fn embedding(&self) -> Option<Embedding> {
        match &lock(&self.state).0 {
            Input::Encoded(embedding) => Some(embedding.clone()),
            _ => None,
        }
    }

    /// Puts the embedding in place of the pixels, for everyone who holds the image.
    pub(super) fn encoded(&self, embedding: Embedding) {
        let mut state = lock(&self.state);
        state.1.resize(embedding.bytes());
        state.0 = Input::Encoded(embedding);
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let mut table = lock(&self.inputs.table);
        // Another one may have taken its place already.
        if table.get(&self.key).is_some_and(|image| image.strong_count() == 0) {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Client;

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
        a.encoded(Embedding(vec![0.0; 5].into()));
        assert_eq!((inputs.bytes(), session.held.load(Ordering::Relaxed)), (20, 20));
        assert!(b.pixels().is_none() && b.embedding().is_some());
        drop((a, b));
        assert_eq!((inputs.bytes(), lock(&inputs.table).len()), (0, 0));
        let c = get(Some(Embedding(vec![0.0; 1].into())));
        assert_eq!((c.embedding().unwrap().bytes(), inputs.bytes()), (4, 4));
    }
}
