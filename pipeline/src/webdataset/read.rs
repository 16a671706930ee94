//! Samples of a tar file.

use std::fmt;
use std::io::{self, Read, Seek};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, BinaryViewBuilder, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use crate::paths::MOST_IMAGE_BYTES;

/// A batch ends here, however few rows it has.
const BATCH_BYTES: usize = 64 << 20;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8View, false),
        Field::new("image", DataType::BinaryView, true),
        Field::new("text", DataType::Utf8View, true),
        Field::new("json", DataType::Utf8View, true),
    ]))
});

/// Columns of a sample: its key, the image (jpg, jpeg, png, webp, gif, bmp, tif, tiff, img), the text (txt, text, caption), the json.
pub(crate) fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// What a member is for its sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Image,
    Text,
    Json,
}

impl Part {
    fn of(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" | "png" | "webp" | "gif" | "bmp" | "tif" | "tiff" | "img" => Some(Self::Image),
            "txt" | "text" | "caption" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The key and the extension of a member, as the webdataset package cuts them; `None` where it has none.
fn cut(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name[base..].find('.').filter(|dot| *dot > 0)?;
    let meta = name.starts_with("__") && name.ends_with("__");
    (!meta).then(|| (&name[..base + dot], &name[base + dot + 1..]))
}

/// What is wrong with a tar file.
#[derive(Debug)]
pub(crate) struct TarError(String);

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TarError {}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self(format!("not a tar file, or a broken one: {error}"))
    }
}

/// Counts the samples by the members' headers, and digests these: 16 hex digits.
pub(crate) fn count(mut file: impl Read + Seek) -> Result<(u64, String), TarError> {
    let bytes = file.seek(io::SeekFrom::End(0))?;
    // Even a tar file without members has blocks that end it.
    if bytes == 0 {
        return Err(TarError("not a tar file: it is empty".to_owned()));
    }
    file.rewind()?;
    let mut archive = tar::Archive::new(file);
    let (mut samples, mut last, mut digest) = (0, None, Sha256::new());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        digest.update(entry.header().as_bytes());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // A seek goes beyond the end without a word.
        if entry.raw_file_position().saturating_add(entry.size()) > bytes {
            return Err(TarError(format!("it is cut off: its member {name} goes on beyond its end; get it anew")));
        }
        if let Some((key, _)) = cut(&name).filter(|_| entry.header().entry_type().is_file())
            && last.as_deref() != Some(key)
        {
            samples += 1;
            last = Some(key.to_owned());
        }
    }
    Ok((samples, hex::encode(&digest.finalize()[..8])))
}

/// Samples of `ranges` (first sample and number of samples, sorted) in batches of at most `most`, read on a thread of its own. Of a
/// part that a sample has twice the first one counts; a warning names the `file`.
pub(crate) fn samples(
    file: String,
    reader: impl Read + Send + 'static,
    ranges: Vec<(u64, u64)>,
    most: usize,
) -> mpsc::IntoIter<Result<RecordBatch, TarError>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let ranges = ranges.into_iter().peekable();
        let mut batches = Batches { ranges, rows: Rows::default(), most, sender, twice: None };
        if let Err(error) = batches.read(reader) {
            let _ = batches.sender.send(Err(error));
        }
        if let Some((first, members)) = batches.twice {
            let more = if members > 1 { format!(" and {} more members", members - 1) } else { String::new() };
            log::warn!("{file}: passed over {first}{more}: their samples have an image, a text or a json already");
        }
    });
    receiver.into_iter()
}

struct Batches {
    ranges: std::iter::Peekable<std::vec::IntoIter<(u64, u64)>>,
    rows: Rows,
    most: usize,
    sender: mpsc::SyncSender<Result<RecordBatch, TarError>>,
    /// Members that were passed over since their sample had such a part already: the first one, and how many.
    twice: Option<(String, u64)>,
}

/// A sample that is being read.
#[derive(Default)]
struct Sample {
    key: String,
    image: Option<Vec<u8>>,
    text: Option<String>,
    json: Option<String>,
}

#[derive(Default)]
struct Rows {
    key: StringViewBuilder,
    image: BinaryViewBuilder,
    text: StringViewBuilder,
    json: StringViewBuilder,
    count: usize,
    bytes: usize,
}

impl Batches {
    fn read(&mut self, reader: impl Read) -> Result<(), TarError> {
        let mut archive = tar::Archive::new(reader);
        let mut number = 0;
        let mut sample: Option<Sample> = None;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some((key, extension)) = cut(&name).filter(|_| entry.header().entry_type().is_file()) else { continue };
            if sample.as_ref().is_none_or(|sample| sample.key != key) {
                if let Some(done) = sample.take() {
                    if !self.add(number, done) {
                        self.send();
                        return Ok(());
                    }
                    number += 1;
                }
                sample = Some(Sample { key: key.to_owned(), ..Sample::default() });
            }
            if let (Some(sample), Some(part), true) = (&mut sample, Part::of(extension), self.wanted(number)) {
                if sample.has(part) {
                    self.twice.get_or_insert((name, 0)).1 += 1;
                    continue;
                }
                let mut bytes = Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(0).min(BATCH_BYTES));
                match part {
                    Part::Image => (&mut entry).take(MOST_IMAGE_BYTES).read_to_end(&mut bytes)?,
                    _ => entry.read_to_end(&mut bytes)?,
                };
                sample.put(part, bytes);
            }
        }
        if let Some(done) = sample {
            self.add(number, done);
        }
        self.send();
        Ok(())
    }

    fn wanted(&mut self, number: u64) -> bool {
        while self.ranges.next_if(|(start, rows)| start + rows <= number).is_some() {}
        self.ranges.peek().is_some_and(|(start, _)| *start <= number)
    }

    /// False: no more samples are asked for.
    fn add(&mut self, number: u64, sample: Sample) -> bool {
        if self.wanted(number) {
            self.rows.add(sample);
            if (self.rows.count >= self.most || self.rows.bytes >= BATCH_BYTES) && !self.send() {
                return false;
            }
        }
        self.ranges.peek().is_some()
    }

    /// False: nobody listens.
    fn send(&mut self) -> bool {
        self.rows.count == 0 || self.sender.send(std::mem::take(&mut self.rows).batch()).is_ok()
    }
}

impl Sample {
    fn has(&self, part: Part) -> bool {
        match part {
            Part::Image => self.image.is_some(),
            Part::Text => self.text.is_some(),
            Part::Json => self.json.is_some(),
        }
    }

    fn put(&mut self, part: Part, bytes: Vec<u8>) {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match part {
            Part::Image => self.image = Some(bytes),
            Part::Text => self.text = Some(text(bytes)),
            Part::Json => self.json = Some(text(bytes)),
        }
    }
}

impl Rows {
    fn add(&mut self, sample: Sample) {
        self.count += 1;
        self.bytes += sample.image.as_ref().map_or(0, Vec::len);
        self.key.append_value(sample.key);
        self.image.append_option(sample.image);
        self.text.append_option(sample.text);
        self.json.append_option(sample.json);
    }

    fn batch(mut self) -> Result<RecordBatch, TarError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.key.finish()),
            Arc::new(self.image.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.json.finish()),
        ];
        RecordBatch::try_new(schema(), columns).map_err(|e| TarError(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array as _, AsArray as _};

    use super::*;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(bytes: &[u8], ranges: &[(u64, u64)], most: usize) -> Result<Vec<RecordBatch>, TarError> {
        samples("x.tar".to_owned(), io::Cursor::new(bytes.to_vec()), ranges.to_vec(), most).collect()
    }

    fn keys(batches: &[RecordBatch]) -> Vec<String> {
        batches
            .iter()
            .flat_map(|b| b.column(0).as_string_view().iter().flatten().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn names_are_cut_at_the_first_dot() {
        assert_eq!(cut("a/b.c/d.seg.png"), Some(("a/b.c/d", "seg.png")));
        assert_eq!(cut("000.jpg"), Some(("000", "jpg")));
        for none in ["a", ".hidden", "dir/.x", "__meta.x__"] {
            assert_eq!(cut(none), None, "{none}");
        }
    }

    #[test]
    fn samples_are_what_belongs_together() {
        let members: Vec<(String, Vec<u8>)> = (0..5)
            .flat_map(|n| {
                [(format!("{n:03}.jpg"), vec![n; 700]), (format!("{n:03}.txt"), format!("text {n}").into_bytes())]
            })
            .collect();
        let mut members: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
        members.push(("005.json", b"{}"));
        members.push(("005.cls", b"7"));
        let bytes = tar(&members);
        let all = read(&bytes, &[(0, 100)], 2).unwrap();
        assert_eq!(all.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(keys(&all), ["000", "001", "002", "003", "004", "005"]);
        assert_eq!(all[1].column(1).as_binary_view().value(0), [2; 700]);
        assert_eq!(all[1].column(2).as_string_view().value(1), "text 3");
        assert!(all[2].column(1).is_null(1) && all[2].column(2).is_null(1));
        assert_eq!(all[2].column(3).as_string_view().value(1), "{}");
        assert_eq!(keys(&read(&bytes, &[(1, 2), (4, 1)], 10).unwrap()), ["001", "002", "004"]);
        assert_eq!(keys(&read(&bytes, &[(0, 3)], 2).unwrap()), ["000", "001", "002"]);
        assert_eq!(keys(&read(&bytes, &[(1, 1)], 10).unwrap()), ["001"]);

        assert_eq!(count(io::Cursor::new(&bytes)).unwrap().0, 6);
    }

    #[test]
    fn the_first_of_two_images_counts() {
        let twice = tar(&[("a.jpg", b"1"), ("a.png", b"2"), ("a.txt", b"x"), ("a.caption", b"y"), ("b.png", b"3")]);
        let rows = read(&twice, &[(0, 9)], 9).unwrap();
        assert_eq!(keys(&rows), ["a", "b"]);
        assert_eq!(rows[0].column(1).as_binary_view().iter().flatten().collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(rows[0].column(2).as_string_view().value(0), "x");
    }

    #[test]
    fn what_is_broken_is_an_error() {
        let bytes = tar(&[("a.jpg", &[1; 2000]), ("a.txt", b"x"), ("b.jpg", &[2; 2000])]);
        assert!(read(&bytes[..bytes.len() - 2500], &[(0, 9)], 9).unwrap_err().to_string().contains("broken"));
        assert!(read(b"not a tar file at all", &[(0, 9)], 9).is_err());
        assert!(read(&tar(&[]), &[(0, 9)], 9).unwrap().is_empty());
        assert_eq!(count(io::Cursor::new(tar(&[]))).unwrap().0, 0);
        assert!(count(io::Cursor::new([])).unwrap_err().to_string().contains("empty"));
    }
}
