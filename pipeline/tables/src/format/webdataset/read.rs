//! Samples of a tar file.

use std::io::{self, Read, Seek};
use std::sync::{Arc, LazyLock, mpsc};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use crate::format::contract::Reader;
use crate::format::passed::Passed;
use crate::format::sidecar::{self, PROBLEM, Sample};
use crate::format::webdataset::census::{Census, Place};
use crate::format::webdataset::member::{Member, Part, compressed, shown};
use crate::halt::Halt;
use crate::limits::{MOST_IMAGE_BYTES, too_large};

/// Size at which a batch ends however few rows it has, bytes.
const BATCH_BYTES: usize = 64 << 20;

/// Columns of a sample in SQL: its key, the image (jpg, png and others), the text (txt, text, caption), the json.
pub(crate) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8View, false),
        Field::new("image", DataType::BinaryView, true),
        Field::new("text", DataType::Utf8View, true),
        Field::new("json", DataType::Utf8View, true),
    ]))
});

/// Error in a tar file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TarError(String);

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        let words = error.to_string();
        // The header parser quotes raw bytes in its messages.
        if words.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Self("not a tar file, or a broken one: a header is damaged".to_owned());
        }
        Self(format!("not a tar file, or a broken one: {words}"))
    }
}

/// First bytes of a file, at most 6; an error if they mark it as compressed.
fn begin(file: &mut impl Read) -> Result<Vec<u8>, TarError> {
    let mut begin = Vec::new();
    file.take(6).read_to_end(&mut begin)?;
    match compressed(&begin) {
        None => Ok(begin),
        Some(how) => {
            let reason =
                format!("it is compressed ({how}), whatever its name says: unpack it, and name what comes out .tar");
            Err(TarError(reason))
        }
    }
}

/// Summary of a tar file's headers.
pub(crate) struct Counted {
    pub(crate) samples: u64,
    /// Digest of the headers, 16 hex digits.
    pub(crate) digest: String,
    pub(crate) passed: Passed,
    /// Whether bytes follow the blocks that end the archive, as in tars joined by `cat`.
    pub(crate) goes_on: bool,
}

/// Whether the rest of a file has anything but zero padding.
fn has_bytes(mut rest: impl Read, halt: &Halt) -> Result<bool, TarError> {
    let mut block = vec![0; 1 << 16];
    loop {
        halt.check().map_err(|e| TarError(e.to_string()))?;
        let read = rest.read(&mut block)?;
        if read == 0 || block[..read].iter().any(|byte| *byte != 0) {
            return Ok(read > 0);
        }
    }
}

/// Counts the samples by the members' headers, and digests the headers.
pub(crate) fn count(mut file: impl Read + Seek, halt: &Halt) -> Result<Counted, TarError> {
    let bytes = file.seek(io::SeekFrom::End(0))?;
    // Even a tar file without members has end-of-archive blocks.
    if bytes == 0 {
        return Err(TarError("not a tar file: it is empty".to_owned()));
    }
    file.rewind()?;
    begin(&mut file)?;
    file.rewind()?;
    let mut archive = tar::Archive::new(file);
    let (mut census, mut digest) = (Census::default(), Sha256::new());
    for entry in archive.entries_with_seek()? {
        halt.check().map_err(|e| TarError(e.to_string()))?;
        let mut entry = entry?;
        digest.update(entry.header().as_bytes());
        let member = Member::of(&mut entry)?;
        // Seeking beyond the end does not fail, so truncation is checked here.
        if entry.raw_file_position().saturating_add(member.stored) > bytes {
            let name = member.shown();
            return Err(TarError(format!("it is cut off: its member {name} goes on beyond its end; get it anew")));
        }
        census.next(&member);
    }
    let digest = hex::encode(&digest.finalize()[..8]);
    let goes_on = has_bytes(archive.into_inner(), halt)?;
    Ok(Counted { samples: census.samples, digest, passed: census.passed, goes_on })
}

/// Reads the samples of `ranges` (first sample and number of samples, sorted) on a thread of its own, in batches of at
/// most `most`. If a sample has a part twice, the first one counts. Warnings name `file`.
///
/// For SQL the columns are those of [`SCHEMA`]. For a job the extra column [`PROBLEM`] says why a row has no image.
pub(crate) fn samples(
    file: String,
    reader: impl Read + Send + 'static,
    ranges: Vec<(u64, u64)>,
    most: usize,
    of: Reader,
) -> mpsc::IntoIter<Result<RecordBatch, TarError>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let ranges = ranges.into_iter().peekable();
        let mut batches = Batches { ranges, rows: Vec::new(), bytes: 0, most, sender, of, census: Census::default() };
        if let Err(error) = batches.read(reader) {
            let _ = batches.sender.send(Err(error));
        }
        if of == Reader::Sql {
            let mut passed = Passed::default();
            passed.add(&file, batches.census.passed);
            passed.warn();
        }
    });
    receiver.into_iter()
}

struct Batches {
    ranges: std::iter::Peekable<std::vec::IntoIter<(u64, u64)>>,
    rows: Vec<Sample>,
    /// Size of the rows.
    bytes: usize,
    most: usize,
    sender: mpsc::SyncSender<Result<RecordBatch, TarError>>,
    of: Reader,
    census: Census,
}

impl Batches {
    fn read(&mut self, mut reader: impl Read) -> Result<(), TarError> {
        let begin = begin(&mut reader)?;
        let mut archive = tar::Archive::new(io::Cursor::new(begin).chain(reader));
        let mut sample: Option<Sample> = None;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let member = Member::of(&mut entry)?;
            let Some(Place { begins, part, may_be_image }) = self.census.next(&member) else { continue };
            let number = self.census.samples - 1;
            if begins {
                if let Some(done) = sample.take()
                    && !self.add(number - 1, done)
                {
                    self.send();
                    return Ok(());
                }
                let key = member.cut().map_or_else(String::new, |(key, _)| shown(key).into_owned());
                sample = Some(Sample { key, ..Sample::default() });
            }
            let Some(sample) = sample.as_mut().filter(|_| self.wanted(number)) else { continue };
            if may_be_image && sample.image.is_none() {
                let field = member.cut().map_or_else(String::new, |(_, field)| shown(field).into_owned());
                sample.problem.get_or_insert_with(|| format!("no image: {field} is passed over"));
            }
            match part {
                Some(Part::Image) => match self.of {
                    Reader::Job { max_image_bytes } if member.size > max_image_bytes => {
                        sample.problem = Some(format!("image: {}", too_large(max_image_bytes)));
                    }
                    // Arrow's views hold no larger value.
                    _ if member.size >= MOST_IMAGE_BYTES => {
                        return Err(TarError(format!("its member {} has over 4 GB", member.shown())));
                    }
                    _ => (sample.image, sample.problem) = (Some(member.read(&mut entry)?), None),
                },
                Some(Part::Text) => sample.set_text(&member.read(&mut entry)?),
                Some(Part::Json) => sample.json = Some(sidecar::text(&member.read(&mut entry)?).0),
                None => {}
            }
        }
        if let Some(done) = sample {
            self.add(self.census.samples - 1, done);
        }
        self.send();
        Ok(())
    }

    fn wanted(&mut self, number: u64) -> bool {
        while self.ranges.next_if(|(start, rows)| start + rows <= number).is_some() {}
        self.ranges.peek().is_some_and(|(start, _)| *start <= number)
    }

    /// Adds a sample if it is in a range; returns false if no more samples are wanted.
    fn add(&mut self, number: u64, sample: Sample) -> bool {
        if self.wanted(number) {
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            self.bytes += sample.image.as_ref().map_or(0, Vec::len) + length(&sample.text) + length(&sample.json);
            self.rows.push(sample);
            if (self.rows.len() >= self.most || self.bytes >= BATCH_BYTES) && !self.send() {
                return false;
            }
        }
        self.ranges.peek().is_some()
    }

    /// Sends the rows collected; returns false if the receiver is gone.
    fn send(&mut self) -> bool {
        self.bytes = 0;
        if self.rows.is_empty() {
            return true;
        }
        let names = ["key", "image", "text", "json", PROBLEM];
        let names = if self.of == Reader::Sql { &names[..4] } else { &names };
        let batch = sidecar::batch(std::mem::take(&mut self.rows), names);
        self.sender.send(batch.map_err(|e| TarError(e.to_string()))).is_ok()
    }
}

#[cfg(test)]
mod tests;
