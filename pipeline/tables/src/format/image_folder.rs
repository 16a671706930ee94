//! Folders of images, local or in stores; an image's text is in a file of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use icu_normalizer::ComposingNormalizerBorrowed as ComposingNormalizer;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::file::{self, Beside, DataFile, Folder, Picture};
use crate::file_record::FileRecord;
use crate::format::contract::{About, FileFormat, FileInfo, InSql, Inspection, Reader, Scan};
use crate::format::rows::{Batches, Rows};
use crate::format::sidecar::{self, MOST_TEXT_BYTES, PROBLEM, Sample, is_text};
use crate::format::watch::Watch;
use crate::limits::{MOST_IMAGE_BYTES, too_large};

/// Size at which a batch ends however few rows it has, bytes.
const BATCH_BYTES: u64 = 64 << 20;

/// Folders of images. A source is read as such if it holds no file of another format.
#[derive(Debug)]
pub(crate) struct ImageFolder;

/// Error text for a single image given as a source.
const ALONE: &str = "an image is read with its folder: give that";

static ABOUT: About = About { inspects_all: false, seeks: true, in_sql: InSql::None, ..About::new("an image", &[]) };

impl FileFormat for ImageFolder {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    /// Digests, for the fingerprint, the names, sizes and modification times of the images and texts; in a store, the
    /// objects' stamps replace the times.
    fn inspect(&self, file: &DataFile, inspection: &Inspection) -> Result<FileInfo> {
        let DataFile::Folder(folder) = file else { return Err(file.error(|| ALONE.to_owned())) };
        let (mut bytes, mut digest) = (0, Sha256::new());
        for picture in folder.pictures.iter().filter(|picture| picture.image.is_none()) {
            digest.update(format!("{} is gone", picture.name));
        }
        for beside in folder.besides() {
            inspection.halt.check()?;
            let file = &beside.place;
            let unread = |e: io::Error| file.error(|| e.to_string());
            let seen = file.seen().map_err(unread)?;
            let size = seen.map_or_else(|| file.bytes(), |seen| Ok(seen.bytes)).map_err(unread)?;
            bytes += size;
            digest.update(file.shown().file_name().unwrap_or_default().as_encoded_bytes());
            digest.update(size.to_le_bytes());
            match seen {
                Some(seen) => {
                    let since = seen.modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                    digest.update(since.unwrap_or_default().as_nanos().to_le_bytes());
                    beside.seen.get_or_init(|| seen);
                }
                None => digest.update(file.stamp().unwrap_or_default()),
            }
        }
        let schema = Schema::new(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("image", DataType::Binary, true),
            Field::new("text", DataType::Utf8, true),
        ]);
        let (stamp, rows) = (hex::encode(&digest.finalize()[..8]), folder.pictures.len() as u64);
        Ok(FileInfo { rows, bytes, stamp, schema: Arc::new(schema) })
    }

    fn read(&self, file: &DataFile, scan: &Scan<'_>) -> Result<Batches, String> {
        let most_image_bytes = match scan.reader {
            Reader::Job { max_image_bytes } => max_image_bytes,
            Reader::Sql => MOST_IMAGE_BYTES,
        };
        let DataFile::Folder(folder) = file else { return Err(ALONE.to_owned()) };
        let folder = Arc::clone(folder);
        let numbers: Vec<u64> = scan.ranges.iter().flat_map(|(start, rows)| *start..start + rows).collect();
        let (mut left, most) = (0..numbers.len(), scan.batch_rows);
        Ok(Box::new(std::iter::from_fn(move || {
            let (mut pictures, mut bytes) = (Vec::new(), 0);
            while pictures.len() < most && bytes < BATCH_BYTES {
                let Some(next) = left.next() else { break };
                let picture = usize::try_from(numbers[next]).ok().and_then(|number| folder.pictures.get(number));
                let Some(picture) = picture else {
                    return Some(Err("it has fewer images than when the job began".to_owned()));
                };
                // A failed size query is reported when the file is read; a file that is too large is not read.
                let sizes = picture.image.iter().chain(&picture.text).map(|file| file.bytes().unwrap_or_default());
                bytes += sizes.map(|size| size.min(most_image_bytes)).sum::<u64>();
                pictures.push(picture);
            }
            (!pictures.is_empty()).then(|| batch(&pictures, most_image_bytes).map(Rows::with_problems).map_err(reason))
        })))
    }
}

impl Beside {
    fn new(place: DataFile, is_text: bool) -> Self {
        Self { place, seen: OnceLock::new(), is_text }
    }

    fn bytes(&self) -> io::Result<u64> {
        self.seen.get().map_or_else(|| self.place.bytes(), |seen| Ok(seen.bytes))
    }

    /// Content; `None` if it is more than `most` bytes.
    fn read(&self, most: u64) -> Result<Option<Vec<u8>>> {
        let broken = |e: io::Error| self.place.error(|| e.to_string());
        let watch = Watch::begin(&self.place, self.seen.get().copied())?;
        if self.bytes().map_err(broken)? > most {
            return Ok(None);
        }
        let mut content = Vec::new();
        let read = self.place.open().and_then(|input| input.take(most + 1).read_to_end(&mut content));
        // Check the watch first: a file that changed may have been read cut off.
        watch.check()?;
        read.map_err(broken)?;
        Ok((content.len() as u64 <= most).then_some(content))
    }
}

/// Groups `files` into folders of images. Images that a job knows keep their order; later ones form an additional
/// folder.
///
/// # Errors
/// Image or folder names that differ only in invalid UTF-8; a job from before image names were recorded.
pub(crate) fn folders(root: &Path, files: Vec<DataFile>, known: &[FileRecord]) -> Result<Vec<DataFile>> {
    let twins = |shown: PathBuf| {
        let reason =
            "the name of another image differs from its name only in bytes that are not UTF-8: rename one of them";
        Err(Error::source(shown, reason))
    };
    let mut parts: BTreeMap<&str, Vec<&FileRecord>> = BTreeMap::new();
    for record in known {
        parts.entry(record.name.split("//").next().unwrap_or_default()).or_default().push(record);
    }
    let mut found: BTreeMap<PathBuf, BTreeMap<String, DataFile>> = BTreeMap::new();
    for file in files {
        let below = file.below(root);
        let name = below.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = file.shown();
        if found.entry(below.parent().unwrap_or(Path::new("")).to_owned()).or_default().insert(name, file).is_some() {
            return twins(shown);
        }
    }
    let (mut folders, mut paths) = (Vec::new(), BTreeSet::new());
    // Texts without an image.
    let mut alone = Vec::new();
    for (below, files) in found {
        let (texts, images): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(name, _)| is_text(Path::new(name)));
        // macOS and Linux programs write ü as one character or as two.
        let composed: BTreeMap<String, &String> = texts.keys().map(|name| (nfc(name), name)).collect();
        let mut unused: BTreeSet<&String> = texts.keys().collect();
        let mut text = |name: &str| {
            let names = ["txt", "TXT"].map(|end| Path::new(name).with_extension(end).to_string_lossy().into_owned());
            let alike = || names.iter().find_map(|name| texts.get_key_value(*composed.get(&nfc(name))?));
            let (name, place) = names.iter().find_map(|name| texts.get_key_value(name)).or_else(alike)?;
            unused.remove(name);
            Some(Beside::new(place.clone(), true))
        };
        let mut images: BTreeMap<String, Picture> = images
            .into_iter()
            .map(|(name, image)| {
                let image = Some(Beside::new(image, false));
                (name.clone(), Picture { text: text(&name), name, image })
            })
            .collect();
        alone.extend(unused.into_iter().filter_map(|name| texts.get(name)).map(DataFile::shown));
        let path = if below == Path::new("") { ".".to_owned() } else { below.to_string_lossy().into_owned() };
        let shown = if below == Path::new("") { root.to_owned() } else { root.join(&below) };
        if !paths.insert(path.clone()) {
            return twins(shown);
        }
        let mut add = |name: String, pictures: Vec<Picture>| {
            if pictures.iter().any(|picture| picture.image.is_some()) {
                let folder = Folder { shown: shown.clone(), below: below.clone(), name, pictures };
                folders.push(DataFile::Folder(Arc::new(folder)));
            }
        };
        let known = parts.get(path.as_str()).map_or(&[][..], Vec::as_slice);
        for record in known {
            if record.images.is_empty() {
                let reason = "an earlier version of capfilt began with it and did not note its images' names: give --overwrite or another \
                              folder";
                return Err(Error::source(shown, reason));
            }
            let gone = |name: &String| Picture { name: name.clone(), image: None, text: None };
            let there = |name: &String| images.remove(name).unwrap_or_else(|| gone(name));
            add(record.name.clone(), record.images.as_slice().iter().map(there).collect());
        }
        let name = if known.is_empty() { path } else { format!("{path}//{}", known.len() + 1) };
        add(name, images.into_values().collect());
    }
    if let Some(first) = alone.first() {
        let more = if alone.len() > 1 { format!(" and {} more", alone.len() - 1) } else { String::new() };
        log::warn!("{}{more}: passed over, a text without an image of the same name", first.display());
    }
    Ok(folders)
}

/// The name with composed characters, Unicode's normalization form C.
fn nfc(name: &str) -> String {
    ComposingNormalizer::new_nfc().normalize(name).into_owned()
}

/// Reason for an error, without the folder, which the caller names.
fn reason(error: Error) -> String {
    match error {
        Error::Source { path, reason } => format!("{}: {reason}", path.display()),
        other => other.to_string(),
    }
}

fn batch(pictures: &[&Picture], most_image_bytes: u64) -> Result<RecordBatch> {
    let images = pictures.iter().filter_map(|picture| picture.image.clone());
    let texts = pictures.iter().filter_map(|picture| picture.text.clone());
    let files: Vec<Beside> = images.chain(texts).collect();
    let read = |file: &Beside| file.read(if file.is_text { MOST_TEXT_BYTES } else { most_image_bytes });
    let mut contents = file::each(&files, read)?.into_iter();
    let mut samples = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let image = picture.image.as_ref().map(|_| contents.next().flatten());
        let problem = matches!(image, Some(None)).then(|| format!("image: {}", too_large(most_image_bytes)));
        samples.push(Sample { key: picture.name.clone(), image: image.flatten(), problem, ..Sample::default() });
    }
    for (picture, sample) in pictures.iter().zip(&mut samples) {
        let Some(text) = &picture.text else { continue };
        match contents.next().flatten() {
            Some(content) => sample.set_text(&content),
            None => log::warn!("{}: passed over, a text of more than 8 MiB", text.place.shown().display()),
        }
    }
    sidecar::batch(samples, &["key", "image", "text", PROBLEM]).map_err(|e| Error::Internal(e.to_string()))
}
