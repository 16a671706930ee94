//! Samples of a tar file.

use std::fmt;
use std::io::{self, Read, Seek};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, BinaryViewBuilder, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use super::census::{Census, Passed, Place};
use super::member::{Member, Part, compressed, shown};
use crate::halt::Halt;
use crate::paths::{MOST_IMAGE_BYTES, too_large};
use crate::sidecar::{self, PROBLEM};

/// A batch ends here, however few rows it has.
const BATCH_BYTES: usize = 64 << 20;

/// Samples as SQL sees them.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8View, false),
        Field::new("image", DataType::BinaryView, true),
        Field::new("text", DataType::Utf8View, true),
        Field::new("json", DataType::Utf8View, true),
    ]))
});

/// Columns of a sample: its key, the image (jpg, png and others), the text (txt, text, caption), the json.
pub(crate) fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
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
        let words = error.to_string();
        // The reader of headers repeats their bytes.
        if words.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Self("not a tar file, or a broken one: a header is damaged".to_owned());
        }
        Self(format!("not a tar file, or a broken one: {words}"))
    }
}

/// How a file begins, as far as it has bytes; an error where these are compressed.
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

/// What the headers of a tar file say.
pub(crate) struct Counted {
    pub(crate) samples: u64,
    /// Digest of the headers, 16 hex digits.
    pub(crate) digest: String,
    pub(crate) passed: Passed,
    /// Whether bytes follow the blocks that end the archive, as in tars joined by `cat`.
    pub(crate) goes_on: bool,
}

/// Whether what is left of a file is more than the zeros that a tar is filled up with.
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

/// Counts the samples by the members' headers, and digests these.
pub(crate) fn count(mut file: impl Read + Seek, halt: &Halt) -> Result<Counted, TarError> {
    let bytes = file.seek(io::SeekFrom::End(0))?;
    // Even a tar file without members has blocks that end it.
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
        // A seek goes beyond the end without a word.
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

/// Who reads samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// SQL: columns are those of [`schema`], and what is passed over is told when the file has been read.
    Sql,
    /// A job, which [`count`] has told what is passed over. The further column [`PROBLEM`] says why a row has no image; one of more
    /// than so many bytes is not read.
    Job { most_image_bytes: u64 },
}

/// Samples of `ranges` (first sample and number of samples, sorted) in batches of at most `most`, read on a thread of its own. Of a
/// part that a sample has twice the first one counts. Warnings name the `file`.
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
        let mut batches = Batches { ranges, rows: Rows::default(), most, sender, of, census: Census::default() };
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
    rows: Rows,
    most: usize,
    sender: mpsc::SyncSender<Result<RecordBatch, TarError>>,
    of: Reader,
    census: Census,
}

/// A sample that is being read.
#[derive(Default)]
struct Sample {
    key: String,
    image: Option<Vec<u8>>,
    text: Option<String>,
    json: Option<String>,
    /// Why it has no image.
    problem: Option<String>,
    /// Why its text is not what was written.
    bad_text: Option<String>,
}

#[derive(Default)]
struct Rows {
    key: StringViewBuilder,
    image: BinaryViewBuilder,
    text: StringViewBuilder,
    json: StringViewBuilder,
    problem: StringViewBuilder,
    count: usize,
    bytes: usize,
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
                    Reader::Job { most_image_bytes } if member.size > most_image_bytes => {
                        sample.problem = Some(format!("image: {}", too_large(most_image_bytes)));
                    }
                    // Arrow's views hold no more.
                    _ if member.size >= MOST_IMAGE_BYTES => {
                        return Err(TarError(format!("its member {} has over 4 GB", member.shown())));
                    }
                    _ => (sample.image, sample.problem) = (Some(member.read(&mut entry)?), None),
                },
                Some(Part::Text) => {
                    let (text, problem) = sidecar::text(&member.read(&mut entry)?);
                    (sample.text, sample.bad_text) = (Some(text), problem);
                }
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
        self.rows.count == 0 || self.sender.send(std::mem::take(&mut self.rows).batch(self.of)).is_ok()
    }
}

impl Rows {
    fn add(&mut self, sample: Sample) {
        self.count += 1;
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.bytes += sample.image.as_ref().map_or(0, Vec::len) + length(&sample.text) + length(&sample.json);
        self.key.append_value(sample.key);
        self.image.append_option(sample.image);
        self.text.append_option(sample.text);
        self.json.append_option(sample.json);
        self.problem.append_option(sample.problem.or(sample.bad_text));
    }

    fn batch(mut self, of: Reader) -> Result<RecordBatch, TarError> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.key.finish()),
            Arc::new(self.image.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.json.finish()),
        ];
        let mut schema = schema();
        if of != Reader::Sql {
            columns.push(Arc::new(self.problem.finish()));
            let fields = schema.fields().iter().map(Arc::clone);
            let problem = Arc::new(Field::new(PROBLEM, DataType::Utf8View, true));
            schema = Arc::new(Schema::new(fields.chain([problem]).collect::<Vec<_>>()));
        }
        RecordBatch::try_new(schema, columns).map_err(|e| TarError(e.to_string()))
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
        samples("x.tar".to_owned(), io::Cursor::new(bytes.to_vec()), ranges.to_vec(), most, Reader::Sql).collect()
    }

    fn counted(bytes: &[u8]) -> Result<Counted, TarError> {
        count(io::Cursor::new(bytes), &Halt::default())
    }

    fn keys(batches: &[RecordBatch]) -> Vec<String> {
        batches
            .iter()
            .flat_map(|b| b.column(0).as_string_view().iter().flatten().map(str::to_owned).collect::<Vec<_>>())
            .collect()
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

        assert_eq!(counted(&bytes).unwrap().samples, 6);
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
        assert_eq!(counted(&tar(&[])).unwrap().samples, 0);
        assert!(counted(&[]).err().unwrap().to_string().contains("empty"));
    }

    /// A row as a job reads it: key, bytes of the image, text, problem.
    type Row = (String, Option<usize>, Option<String>, Option<String>);

    /// Rows as a job reads them.
    fn rows(bytes: &[u8]) -> Vec<Row> {
        let job = Reader::Job { most_image_bytes: 1000 };
        let batches = samples("x.tar".to_owned(), io::Cursor::new(bytes.to_vec()), vec![(0, 99)], 9, job);
        let mut rows = Vec::new();
        for batch in batches.map(Result::unwrap) {
            let text = |column: usize, row: usize| {
                let texts = batch.column(column).as_string_view();
                texts.is_valid(row).then(|| texts.value(row).to_owned())
            };
            let images = batch.column(1).as_binary_view();
            rows.extend((0..batch.num_rows()).map(|row| {
                let image = images.is_valid(row).then(|| images.value(row).len());
                (text(0, row).unwrap(), image, text(2, row), text(4, row))
            }));
        }
        assert_eq!(counted(bytes).unwrap().samples, rows.len() as u64);
        rows
    }

    #[test]
    fn an_image_that_is_not_read_is_the_rows_problem() {
        let all = rows(&tar(&[
            ("a.jpg", &[1; 1001]),
            ("a.txt", b"\xef\xbb\xbf large \n"),
            ("b.left.jpg", b"1"),
            ("b.right.jpg", b"2"),
            ("b.txt", b"two"),
            ("c.jfif", b"3"),
            ("c.mask.png", b"4"),
            ("d.txt", b"none"),
        ]));
        let row = |key: &str, image: Option<usize>, text: Option<&str>, problem: Option<&str>| {
            (key.to_owned(), image, text.map(str::to_owned), problem.map(str::to_owned))
        };
        let large = "image: larger than 1000 bytes (capfilt.max_image_bytes)";
        assert_eq!(
            all,
            [
                row("a", None, Some("large"), Some(large)),
                row("b", None, Some("two"), Some("no image: left.jpg is passed over")),
                row("c", Some(1), None, None),
                row("d", None, Some("none"), None),
            ]
        );
    }

    #[test]
    fn members_that_are_passed_over_are_counted() {
        let large = vec![b'x'; usize::try_from(sidecar::MOST_TEXT_BYTES).unwrap() + 1];
        let bytes = tar(&[
            ("a.jpg", b"1"),
            ("a.png", b"2"),
            ("a.cls", b"7"),
            ("b.0.txt", b"x"),
            ("b.txt", &large),
            ("a.txt", b"y"),
        ]);
        let passed = format!("{:?}", counted(&bytes).unwrap().passed);
        let wanted = "{Twice: (1, \"a.png\"), Dotted: (1, \"b.0.txt\"), Field: (1, \"a.cls\"), TooLong: (1, \"b.txt\"), Parted: (1, \"a\")}";
        assert_eq!(passed, format!("Passed({wanted})"));
        let texts: Vec<_> = rows(&bytes).into_iter().map(|row| (row.0, row.2)).collect();
        assert_eq!(texts, [("a".to_owned(), None), ("b".to_owned(), None), ("a".to_owned(), Some("y".to_owned()))]);
    }

    #[test]
    fn names_that_differ_in_bad_bytes_are_two_rows() {
        let mut builder = tar::Builder::new(Vec::new());
        for name in [&b"\xe90.jpg"[..], b"\xe90.txt", b"\xe80.jpg", b"\xe80.txt"] {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name);
            header.set_size(1);
            header.set_cksum();
            builder.append(&header, &b"x"[..]).unwrap();
        }
        let keys: Vec<String> = rows(&builder.into_inner().unwrap()).into_iter().map(|row| row.0).collect();
        assert_eq!(keys, ["%E90", "%E80"]);
    }

    /// A member of a type of its own, whose header the archive's writer does not make.
    fn member(name: &str, of: u8, bytes: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.as_mut_bytes()[156] = of;
        header.set_cksum();
        let mut all = header.as_bytes().to_vec();
        all.extend(bytes);
        all.resize(all.len().next_multiple_of(512), 0);
        all
    }

    #[test]
    fn members_of_old_and_odd_types_are_read_or_counted() {
        let all = [
            member("a/", b'5', b""),
            member("a/0.jpg", b'7', b"image"),
            member("a/0.txt", 0, b"text"),
            member("a/1.jpg", b'1', b""),
            member("a/1.txt", b'0', b"linked"),
            member("a/2.jpg", b'3', b""),
            member("a/2.txt", b'0', b"device"),
            vec![0; 1024],
        ];
        let bytes = all.concat();
        let read: Vec<_> = rows(&bytes).into_iter().map(|row| (row.0, row.1, row.2.unwrap())).collect();
        let row = |key: &str, image: Option<usize>, text: &str| (key.to_owned(), image, text.to_owned());
        assert_eq!(read, [row("a/0", Some(5), "text"), row("a/1", None, "linked"), row("a/2", None, "device")]);
        let passed = format!("{:?}", counted(&bytes).unwrap().passed);
        assert_eq!(passed, "Passed({Link: (1, \"a/1.jpg\"), Special: (1, \"a/2.jpg\")})");
    }

    #[test]
    fn what_is_compressed_is_said_to_be() {
        for begin in [&b"\x1f\x8b\x08\x00"[..], b"\x28\xb5\x2f\xfd\x04", b"\xfd7zXZ\x00", b"BZh91AY"] {
            let bytes = [begin, &[7; 2000]].concat();
            for said in
                [counted(&bytes).err().unwrap().to_string(), read(&bytes, &[(0, 9)], 9).unwrap_err().to_string()]
            {
                assert!(said.contains("it is compressed"), "{said}");
            }
        }
        let said = counted(&[0x80_u8, 0x81].repeat(500)).err().unwrap().to_string();
        assert!(said.ends_with("a header is damaged"), "{said}");
    }
}
