//! Images and the texts beside them: names and decoding, the same for folders and tar files.

use std::path::Path;
use std::sync::Arc;

use capfilt_udfs::image::binary_view;
use datafusion::arrow::array::{ArrayRef, StringViewArray};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

/// Maximum size of a text beside an image, bytes; a larger file is not read.
pub(crate) const MOST_TEXT_BYTES: u64 = 8 << 20;

/// Column that says why a row has no image; dropped once the rows have been read.
pub(crate) const PROBLEM: &str = "problem";

/// Maximum number of characters of a text that a reason quotes.
const SHOWN: usize = 60;

/// Whether a file is an image, by its extension.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|e| IMAGES.contains(&e.to_string_lossy().to_ascii_lowercase().as_str()))
}

/// Whether a file may be an image's text.
pub(crate) fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "txt" || e == "TXT")
}

/// Extensions of image formats that are decoded.
pub(crate) const IMAGES: [&str; 11] = ["bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// Decodes a text and trims byte order mark and blanks; also returns what is wrong if it is invalid. UTF-16 is
/// recognised by its byte order mark; U+FFFD replaces what is invalid.
pub(crate) fn text(bytes: &[u8]) -> (String, Option<String>) {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let mut units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        if bytes.len() % 2 == 1 {
            // An odd last byte counts as a lone surrogate, which is invalid.
            units.push(0xd800);
        }
        (String::from_utf16_lossy(&units), String::from_utf16(&units).is_err())
    };
    let utf8 = |bytes: &[u8]| (String::from_utf8_lossy(bytes).into_owned(), std::str::from_utf8(bytes).is_err());
    let (decoded, is_bad) = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        plain => utf8(plain),
    };
    let decoded = decoded.trim().to_owned();
    let shown: String = decoded.chars().take(SHOWN).collect();
    let problem = is_bad.then(|| format!("text: bytes that are not UTF-8: {shown:?}"));
    (decoded, problem)
}

/// An image with the text and the other files of its row.
#[derive(Default)]
pub(crate) struct Sample {
    pub(crate) key: String,
    pub(crate) image: Option<Vec<u8>>,
    pub(crate) text: Option<String>,
    pub(crate) json: Option<String>,
    /// Why the sample has no image.
    pub(crate) problem: Option<String>,
    /// Why the text differs from what was written.
    pub(crate) bad_text: Option<String>,
}

impl Sample {
    pub(crate) fn set_text(&mut self, bytes: &[u8]) {
        let (text, problem) = text(bytes);
        (self.text, self.bad_text) = (Some(text), problem);
    }
}

/// Samples as rows with the columns of these names. An image becomes a block of its column without a copy.
pub(crate) fn batch(mut samples: Vec<Sample>, names: &[&str]) -> Result<RecordBatch, ArrowError> {
    let images = binary_view(samples.iter_mut().map(|sample| sample.image.take()))?;
    let texts = |part: fn(&Sample) -> Option<&String>| -> ArrayRef {
        Arc::new(samples.iter().map(part).collect::<StringViewArray>())
    };
    let columns = [
        ("key", texts(|sample| Some(&sample.key)), false),
        ("image", images, true),
        ("text", texts(|sample| sample.text.as_ref()), true),
        ("json", texts(|sample| sample.json.as_ref()), true),
        (PROBLEM, texts(|sample| sample.problem.as_ref().or(sample.bad_text.as_ref())), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().filter(|(name, ..)| names.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_editors_write_it() {
        let utf16 = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            mark.into_iter().chain("eine Käte 🐈\r\n".encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
        };
        for bytes in [
            b"eine K\xc3\xa4te \xf0\x9f\x90\x88".to_vec(),
            b"\xef\xbb\xbf eine K\xc3\xa4te \xf0\x9f\x90\x88\n".to_vec(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(text(&bytes), ("eine Käte 🐈".to_owned(), None));
        }
        let said = "text: bytes that are not UTF-8: \"caf\u{fffd}\"";
        assert_eq!(text(b"caf\xe9"), ("caf\u{fffd}".to_owned(), Some(said.to_owned())));
        let (half, problem) = text(&[0xff, 0xfe, b'a', 0, b'b']);
        assert!(half == "a\u{fffd}" && problem.is_some(), "{half}");
        // A U+FFFD that was written as such is valid.
        assert_eq!(text("caf\u{fffd}".as_bytes()).1, None);
    }
}
