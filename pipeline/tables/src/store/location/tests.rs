//! Tests with an in-memory store with injected failures.

use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use datafusion::arrow::datatypes::Schema;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::file::reader::{ChunkReader as _, Length as _};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};

use crate::file::DataFile;
use crate::format::contract::{Reader, Scan};
use crate::format::register::PARQUET;
use crate::format::rows::Rows;
use crate::store::location::*;
use crate::store::problem::Advice;
use crate::store::read_ahead::{Cursor, Pages};

type Answer<T> = Result<T, StoreError>;
type Named = Result<(PathBuf, Vec<String>), String>;

/// In-memory store that counts requests. Unless it is well, every third response fails, and every other one of the rest
/// breaks off in the middle.
#[derive(Debug)]
struct Flaky {
    inner: Arc<InMemory>,
    asked: Arc<AtomicUsize>,
    is_well: bool,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

fn unwell() -> StoreError {
    StoreError::Generic { store: "Flaky", source: "unwell".into() }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, at: &Key, payload: PutPayload, options: PutOptions) -> Answer<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Key, options: PutMultipartOptions) -> Answer<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Key, options: GetOptions) -> Answer<GetResult> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_well {
            return self.inner.get_opts(at, options).await;
        }
        if asked % 3 == 1 {
            return Err(unwell());
        }
        let head = options.head;
        let mut answer = self.inner.get_opts(at, options).await?;
        if !head && asked.is_multiple_of(2) {
            let (meta, range, attributes) = (answer.meta.clone(), answer.range.clone(), answer.attributes.clone());
            let bytes = answer.bytes().await?;
            let half = bytes.slice(..bytes.len() / 2);
            let payload = GetResultPayload::Stream(stream::iter([Ok(half), Err(unwell())]).boxed());
            answer = GetResult { payload, meta, range, attributes };
        }
        Ok(answer)
    }

    fn delete_stream(&self, all: BoxStream<'static, Answer<Key>>) -> BoxStream<'static, Answer<Key>> {
        self.inner.delete_stream(all)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Answer<ObjectMeta>> {
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) && !self.is_well {
            return self.inner.list(prefix).take(1).chain(stream::iter([Err(unwell())])).boxed();
        }
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Answer<ObjectMeta>> {
        let one = |mut two: Vec<Answer<ObjectMeta>>| {
            if two.len() == 2 {
                two[1] = Err(unwell());
            }
            stream::iter(two)
        };
        stream::once(self.inner.list_with_offset(prefix, offset).take(2).collect::<Vec<_>>()).flat_map(one).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Answer<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Answer<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

pub(crate) fn put(inner: &Arc<InMemory>, name: &str, bytes: Vec<u8>) {
    let (inner, name) = (Arc::clone(inner), Key::parse(name).unwrap());
    let put = async move { inner.put_opts(&name, bytes.into(), PutOptions::default()).await };
    wait(async move { put.await.map(drop).map_err(|error| Problem::of(&Advice::UNKNOWN, &error)) }).unwrap().unwrap();
}

pub(crate) fn flaky(objects: &[(&str, Vec<u8>)]) -> (Arc<InMemory>, Arc<Store>) {
    let inner = Arc::new(InMemory::new());
    objects.iter().for_each(|(name, bytes)| put(&inner, name, bytes.clone()));
    let flaky = Flaky { inner: Arc::clone(&inner), asked: Arc::default(), is_well: false };
    (inner, Arc::new(Store::new(Arc::new(flaky), &Advice::UNKNOWN)))
}

fn all_of(store: &Arc<Store>, url: &str) -> Result<(PathBuf, Vec<Arc<Object>>), String> {
    found(store, &Address::parse(url)?, &crate::format::register::ROLES).map(|found| (found.root, found.objects))
}

#[test]
fn what_breaks_off_is_read_to_its_end() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (inner, store) = flaky(&[("a/x.tar", bytes.clone())]);
    let (_, objects) = all_of(&store, "s3://bucket/a").unwrap();
    let object = &objects[0];
    let mut read = Vec::new();
    let mut cursor = Cursor::new(object);
    cursor.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert_eq!(cursor.seek(SeekFrom::End(-5)).unwrap(), 2_999_995);
    read.clear();
    cursor.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes[2_999_995..]);

    // Access pattern of a Parquet reader: the end, and then two places in turn.
    let pages = Pages::new(object);
    assert_eq!(pages.len(), 3_000_000);
    let mut tail = [0; 8];
    pages.get_read(2_999_992).unwrap().read_exact(&mut tail).unwrap();
    assert_eq!(tail, bytes[2_999_992..]);
    for step in 0..40 {
        for start in [step * 30_000, 1_500_000 + step * 30_000] {
            assert!(pages.get_bytes(start as u64, 30_000).unwrap() == bytes[start..start + 30_000], "{start}");
        }
    }
    assert!(pages.get_bytes(0, 2_900_000).unwrap() == bytes[..2_900_000]);
    assert!(pages.get_bytes(2_999_999, 2).is_err());

    put(&inner, "a/x.tar", vec![0; 3_000_000]);
    let error = Cursor::new(object).read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("it has changed"), "{error}");
    assert_eq!(object.problem().unwrap().to_string(), error);
    assert_ne!(all_of(&store, "s3://bucket/a").unwrap().1[0].stamp(), object.stamp());
}

#[test]
fn a_folder_is_listed_as_one_on_a_disk() {
    let names = [
        "web/b.parquet",
        "web/a-1.parquet",
        "web/a/x.parquet",
        "web/day=1/y.parquet",
        "web/_capfilt/part.parquet",
        "web/.hidden.parquet",
        "web/notes.txt",
        "webs/z.parquet",
        "other/n.txt",
    ];
    let objects: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (*name, vec![1])).collect();
    let (_, store) = flaky(&objects);
    let names = |url: &str| -> Named {
        let (root, objects) = all_of(&store, url)?;
        Ok((root, objects.iter().map(|object| object.name.clone()).collect()))
    };
    let of = |root: &str, names: &[&str]| -> Named {
        Ok((PathBuf::from(root), names.iter().map(|name| (*name).to_owned()).collect()))
    };
    let web = ["a/x.parquet", "a-1.parquet", "b.parquet", "day=1/y.parquet"];
    assert_eq!(names("s3://bucket/web/"), of("s3://bucket/web", &web));
    assert_eq!(names("s3://bucket/web"), of("s3://bucket/web", &web));
    assert_eq!(names("s3://bucket/web/b.parquet"), of("s3://bucket/web", &["b.parquet"]));
    assert_eq!(names("s3://bucket/web/*.parquet"), of("s3://bucket/web", &["a-1.parquet", "b.parquet"]));
    assert_eq!(names("s3://bucket/web/day=?"), of("s3://bucket/web", &["day=1/y.parquet"]));
    assert_eq!(names("s3://bucket/web/**/[xy].parquet"), of("s3://bucket/web", &["a/x.parquet", "day=1/y.parquet"]));
    assert_eq!(names("s3://bucket").unwrap().1.len(), 5);
    for (url, words) in [
        ("s3://bucket/nothing", "no such object"),
        ("s3://bucket/web/x*", "nothing matches"),
        ("s3://bucket/other", "none ends in .parquet"),
        ("s3:///web", "names no bucket"),
        ("ftp://host/x", "ftp is not a known kind of store"),
        ("http://host/folder/", "a single file"),
        ("http://me:secret@host/x.csv", "a password"),
    ] {
        // Without the feature, no provider reads such URLs.
        if url.starts_with("http") && Address::parse(url).is_ok() {
            continue;
        }
        let error = names(url).unwrap_err();
        assert!(error.contains(words), "{url}: {error}");
    }
}

#[test]
fn urls_are_distinguished_from_paths() {
    for url in ["s3://b/x", "https://host/x?y", "abfss://c@a.dfs.core.windows.net/x"] {
        assert!(is_url(url), "{url}");
    }
    for path in ["web", "/data/s3:/x", "C://x", "./a://b", "://x", "a b://c"] {
        assert!(!is_url(path), "{path}");
    }
    assert_eq!(shown("https://me:secret@host/a%20b.csv?sig=secret#x"), "https://host/a%20b.csv");
    assert_eq!(shown("s3://b/x?y"), "s3://b/x?y");
}

#[test]
fn a_list_goes_on_where_it_broke_off() {
    let names: Vec<String> = (0..7).map(|n| format!("a/{n}.parquet")).collect();
    let objects: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), vec![1])).collect();
    let (_, store) = flaky(&objects);
    // No answer has more than one object.
    let listed = list(&store, Key::from("a")).unwrap();
    let listed: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
    assert_eq!(listed, names);
}

/// Rows of a damaged page are read one by one; the headers of the other pages are asked for once, not for each row.
#[test]
fn a_damaged_page_of_an_object_costs_few_requests() {
    const ROWS: u64 = 400;
    let column = |bytes: usize| BinaryArray::from_iter_values((0..ROWS).map(|n| vec![n as u8; bytes]));
    let columns: [(&str, ArrayRef); 2] = [("text", Arc::new(column(9))), ("image", Arc::new(column(40_000)))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).set_dictionary_enabled(false);
    let properties = properties.set_data_page_size_limit(80_000).set_write_batch_size(1);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    let (start, length) = writer.close().unwrap().row_group(0).column(0).byte_range();
    // The texts are a single page.
    bytes[(start + length / 2) as usize..(start + length) as usize].fill(0xff);

    let (inner, asked) = (Arc::new(InMemory::new()), Arc::<AtomicUsize>::default());
    put(&inner, "a/x.parquet", bytes);
    let well = Flaky { inner, asked: Arc::clone(&asked), is_well: true };
    let store = Arc::new(Store::new(Arc::new(well), &Advice::UNKNOWN));
    let (_, objects) = all_of(&store, "s3://bucket/a").unwrap();
    let file = DataFile::Remote(Arc::clone(&objects[0]));
    let schema = Arc::new(Schema::empty());
    let scan = Scan { schema: &schema, ranges: &[(0, ROWS)], batch_rows: 64, reader: Reader::Sql };
    let rows: Vec<Rows> = PARQUET.read(&file, &scan).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.iter().map(|rows| rows.batch.num_rows() as u64).sum::<u64>(), ROWS);
    assert_eq!(rows.iter().map(|rows| rows.problems.len() as u64).sum::<u64>(), ROWS);
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 1000, "{asked} requests");
}
