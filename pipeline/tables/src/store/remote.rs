//! An object of a store.

use std::fmt;
use std::sync::Arc;

use object_store::{ObjectMeta, ObjectStore};

use crate::store::object::{Object, Store};
use crate::store::problem::Advice;
use crate::store::read_ahead::{Cursor, Pages};

/// Handle to an object that is read like a file.
#[derive(Clone)]
pub struct Remote(pub(crate) Arc<Object>);

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.0.url).finish()
    }
}

impl Remote {
    /// Object of a store that a session has; its key is its name.
    pub(crate) fn of(store: &Arc<dyn ObjectStore>, meta: ObjectMeta) -> Self {
        let store = Arc::new(Store::new(Arc::clone(store), &Advice::UNKNOWN));
        let key = meta.location.to_string();
        Self(Arc::new(Object::new(&store, meta, key.clone(), key)))
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    /// Key relative to the source's root.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn size(&self) -> u64 {
        self.0.size
    }

    /// Fingerprint (16 hex digits) that changes with the object; `None` if the store reports neither e-tag nor time.
    pub(crate) fn stamp(&self) -> Option<String> {
        self.0.stamp()
    }

    /// Last store error that made a read fail, if any.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.problem().map(|problem| problem.to_string())
    }

    /// Sequential reader with prefetch.
    pub(crate) fn open(&self) -> Cursor {
        Cursor::new(&self.0)
    }

    /// Random-access reader, for Parquet.
    pub(crate) fn pages(&self) -> Pages {
        Pages::new(&self.0)
    }
}
