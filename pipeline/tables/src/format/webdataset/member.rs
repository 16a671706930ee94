//! Members of a tar file: the sample they belong to, their role in it, and their content.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Read};

use tar::{Entry, EntryType};

use crate::format::sidecar::IMAGES;
use crate::format::webdataset::sparse::Sparse;

/// Extensions of image formats that are not decoded; such a row's error names the format.
const NOT_DECODED: [&str; 14] =
    ["avif", "heic", "heif", "ico", "j2k", "jp2", "jxl", "pbm", "pgm", "pnm", "ppm", "psd", "svg", "tga"];

/// Role of a member in its sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Image,
    Text,
    Json,
}

impl Part {
    /// Role by the field, which is the member's name after the first dot.
    pub(crate) fn of(field: &[u8]) -> Option<Self> {
        match field.to_ascii_lowercase().as_slice() {
            b"img" => Some(Self::Image),
            b"txt" | b"text" | b"caption" => Some(Self::Text),
            b"json" => Some(Self::Json),
            other => IMAGES.iter().chain(&NOT_DECODED).any(|end| end.as_bytes() == other).then_some(Self::Image),
        }
    }
}

/// Type of a member, from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Link,
    /// A device, a pipe, or a type that only some programs know.
    Special,
    /// A folder, or metadata of the archive.
    Apart,
}

/// Header of a member.
pub(crate) struct Member {
    /// Name as in the archive, not necessarily UTF-8.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Size of the content, bytes.
    pub(crate) size: u64,
    /// Size in the archive, bytes; smaller for a sparse member.
    pub(crate) stored: u64,
    sparse: Option<Sparse>,
}

impl Member {
    /// # Errors
    /// A malformed description of a sparse member.
    pub(crate) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let of = entry.header().entry_type();
        let kind = match of {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link | EntryType::Symlink => Kind::Link,
            EntryType::Directory | EntryType::XGlobalHeader | EntryType::XHeader => Kind::Apart,
            // GNU's volume label and directory listing.
            other if matches!(other.as_byte(), b'V' | b'D') => Kind::Apart,
            _ => Kind::Special,
        };
        let sparse = if kind == Kind::File { Sparse::of(entry)? } else { None };
        // The tar crate reads the map of GNU's own sparse members itself; their stored size is in the header.
        let stored = if of == EntryType::GNUSparse { entry.header().entry_size()? } else { entry.size() };
        let named = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let name = named.unwrap_or_else(|| entry.path_bytes().into_owned());
        let size = sparse.as_ref().map_or(entry.size(), |sparse| sparse.size);
        Ok(Self { name, kind, size, stored, sparse })
    }

    /// Sample key and field.
    pub(crate) fn cut(&self) -> Option<(&[u8], &[u8])> {
        cut(&self.name)
    }

    /// Name for messages.
    pub(crate) fn shown(&self) -> String {
        shown(&self.name).into_owned()
    }

    /// Reads the whole content, whose size the caller must have checked.
    ///
    /// # Errors
    /// An archive that ends before the member does.
    pub(crate) fn read(&self, entry: &mut impl Read) -> io::Result<Vec<u8>> {
        if let Some(sparse) = &self.sparse {
            return sparse.read(entry);
        }
        let size = usize::try_from(self.size).map_err(io::Error::other)?;
        // Do not allocate what an untrusted header claims before the bytes arrive.
        let mut bytes = Vec::with_capacity(size.min(1 << 20));
        entry.read_to_end(&mut bytes)?;
        if bytes.len() < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// Splits a name into key and field at the first dot, as the webdataset package does; `None` if there are none.
fn cut(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let base = name.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let dot = name[base..].iter().position(|b| *b == b'.').filter(|dot| *dot > 0)?;
    let meta = name.starts_with(b"__") && name.ends_with(b"__");
    (!meta).then(|| (&name[..base + dot], &name[base + dot + 1..]))
}

/// Name as text. Bytes that are not UTF-8 become `%E9` and the like, so that names that differ only in them stay
/// distinct.
pub(crate) fn shown(name: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(name) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    Cow::Owned(text)
}

/// Compression format of a file, by its first bytes; `None` if it is not compressed.
pub(crate) fn compressed(begin: &[u8]) -> Option<&'static str> {
    match begin {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_the_first_dot() {
        assert_eq!(cut(b"a/b.c/d.seg.png"), Some((&b"a/b.c/d"[..], &b"seg.png"[..])));
        assert_eq!(cut(b"000.jpg"), Some((&b"000"[..], &b"jpg"[..])));
        for none in ["a", ".hidden", "dir/.x", "__meta.x__"] {
            assert_eq!(cut(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn names_that_are_no_utf8_stay_apart() {
        assert_eq!(shown("é0".as_bytes()), "é0");
        assert_eq!(shown(b"a/\xe9\xe80.jpg"), "a/%E9%E80.jpg");
        assert_ne!(shown(b"\xe90"), shown(b"\xe80"));
    }
}
