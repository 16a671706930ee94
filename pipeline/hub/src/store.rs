//! Datasets of the hub as a read-only object store.

use std::fmt;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::digest::Etag;
use crate::{Entry, Error, OpenDataset};

const STORE: &str = "hf";

/// Object store over a dataset, whose paths begin at the root of the repository. It cannot be written, and since it is
/// one commit nothing in it changes; entity tags are the digests of the files.
#[derive(Clone, Debug)]
pub struct DatasetStore(OpenDataset);

impl DatasetStore {
    /// Makes a store of a dataset.
    pub fn new(dataset: OpenDataset) -> Self {
        Self(dataset)
    }

    /// The dataset.
    pub fn dataset(&self) -> &OpenDataset {
        &self.0
    }

    /// Files and folders of a folder. One that is not there is empty, since stores know no folders.
    async fn tree(&self, prefix: Option<&Path>, recursive: bool) -> Result<ListResult> {
        let prefix = prefix.map(AsRef::as_ref).unwrap_or_default();
        let tree = match self.0.tree(prefix, recursive).await {
            Err(Error::NotFound { .. }) => Ok(crate::Tree::default()),
            result => result.map_err(|e| translated(e, prefix)),
        }?;
        let objects = tree.files.into_iter().map(meta).collect::<Result<_>>()?;
        let common_prefixes = tree.folders.iter().map(|folder| Ok(Path::parse(folder)?)).collect::<Result<_>>()?;
        Ok(ListResult { common_prefixes, objects })
    }

    fn read_only<T>(&self, operation: &str) -> Result<T> {
        Err(object_store::Error::NotSupported {
            source: format!("{}: {operation}: it cannot be written", self.0).into(),
        })
    }
}

impl fmt::Display for DatasetStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for DatasetStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = location.as_ref();
        let fail = |e| translated(e, path);
        if let Some(version) = &options.version {
            let source = format!("{}: version {version}: name a revision with @ instead", self.0).into();
            return Err(object_store::Error::NotSupported { source });
        }
        // Only these need the size or the tag before anything is asked for.
        let first = options.head
            || options.if_match.is_some()
            || options.if_none_match.is_some()
            || matches!(options.range, Some(GetRange::Suffix(_)));
        let known = if first { Some(meta(self.0.head(path).await.map_err(fail)?)?) } else { None };
        if let Some(known) = &known {
            options.check_preconditions(known)?;
        }
        if let (true, Some(meta)) = (options.head, &known) {
            let (range, payload) = (0..meta.size, GetResultPayload::Stream(stream::empty().boxed()));
            return Ok(GetResult { payload, meta: meta.clone(), range, attributes: Attributes::new() });
        }
        let size = known.as_ref().map(|known| known.size);
        let invalid = |e| object_store::Error::Generic { store: STORE, source: Box::new(e) };
        let (from, until) = match (&options.range, size) {
            (None, _) => (0, None),
            (Some(range @ GetRange::Suffix(_)), Some(size)) => {
                let range = range.as_range(size).map_err(invalid)?;
                (range.start, Some(range.end))
            }
            (Some(range), _) => {
                range.is_valid().map_err(invalid)?;
                match range {
                    GetRange::Bounded(range) => (range.start, Some(range.end)),
                    GetRange::Offset(from) => (*from, None),
                    GetRange::Suffix(_) => (0, None),
                }
            }
        };
        let mut body = self.0.body(path, from, until).map_err(fail)?;
        // A file without bytes has no range either.
        if size != Some(0) {
            body.open().await.map_err(fail)?;
        }
        let meta = match (known, body.facts.etag.as_deref().and_then(Etag::parse), body.facts.size) {
            (Some(known), ..) => known,
            (None, Some(etag), Some(size)) => {
                meta(Entry { path: path.to_owned(), size, etag: etag.as_str().to_owned() })?
            }
            (None, ..) => meta(self.0.head(path).await.map_err(fail)?)?,
        };
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(invalid)?,
            None => 0..meta.size,
        };
        let path = path.to_owned();
        let chunks = stream::try_unfold((body, range.clone()), move |(mut body, mut left)| {
            let path = path.clone();
            async move {
                let next = body.next_of(&mut left).await.map_err(|e| translated(e, &path))?;
                Ok(next.map(|bytes| (bytes, (body, left))))
            }
        });
        let chunks = chunks.boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(chunks), meta, range, attributes: Attributes::new() })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let objects = async move { this.tree(prefix.as_ref(), true).await.map(|found| found.objects) };
        stream::once(objects).map_ok(|objects| stream::iter(objects.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.tree(prefix, false).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.read_only("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.read_only("put")
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations.and_then(move |_| std::future::ready(this.read_only("delete"))).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.read_only("copy")
    }
}

fn meta(entry: Entry) -> Result<ObjectMeta> {
    let location = Path::parse(&entry.path)?;
    // Times of a commit are those of git, which has none for a file.
    Ok(ObjectMeta {
        location,
        last_modified: Default::default(),
        size: entry.size,
        e_tag: Some(entry.etag),
        version: None,
    })
}

fn translated(error: Error, path: &str) -> object_store::Error {
    let path = path.to_owned();
    match error {
        Error::NotFound { .. } | Error::UnsafeFile { .. } => {
            object_store::Error::NotFound { path, source: Box::new(error) }
        }
        Error::Denied { status: 401, .. } => object_store::Error::Unauthenticated { path, source: Box::new(error) },
        Error::Denied { .. } => object_store::Error::PermissionDenied { path, source: Box::new(error) },
        error => object_store::Error::Generic { store: STORE, source: Box::new(error) },
    }
}
