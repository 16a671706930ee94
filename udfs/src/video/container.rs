//! Recognition of video containers by their first bytes.

use super::contract::VideoError;
use crate::image::{ImageError, stranger};

/// A container that ffmpeg reads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Container {
    /// Name in `video_info`.
    pub(super) name: &'static str,
    /// ffmpeg's demuxer, the only one that it may use.
    pub(super) demuxer: &'static str,
}

const fn container(name: &'static str, demuxer: &'static str) -> Container {
    Container { name, demuxer }
}

impl Container {
    /// Detects the container; file names and MIME types are not trusted.
    ///
    /// # Errors
    /// [`VideoError::NotAVideo`] says what the bytes look like instead.
    pub(super) fn sniff(bytes: &[u8]) -> Result<Self, VideoError> {
        match bytes {
            [_, _, _, _, b'f', b't', b'y', b'p', b'q', b't', ..] => Ok(container("mov", "mov")),
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] if !is_picture(brand) => Ok(container("mp4", "mov")),
            // QuickTime before the file type was invented.
            [_, _, _, _, b'm', b'o', b'o', b'v', ..]
            | [_, _, _, _, b'm', b'd', b'a', b't', ..]
            | [_, _, _, _, b'w', b'i', b'd', b'e', ..]
            | [_, _, _, _, b'p', b'n', b'o', b't', ..]
                if bytes[0] == 0 =>
            {
                Ok(container("mov", "mov"))
            }
            [0x1a, 0x45, 0xdf, 0xa3, head @ ..] => {
                let head = &head[..head.len().min(64)];
                let is_webm = head.windows(4).any(|word| word == b"webm");
                Ok(container(if is_webm { "webm" } else { "matroska" }, "matroska"))
            }
            [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..] => Ok(container("avi", "avi")),
            [b'F', b'L', b'V', 1, ..] => Ok(container("flv", "flv")),
            [b'O', b'g', b'g', b'S', ..] => Ok(container("ogg", "ogg")),
            [0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11, ..] => Ok(container("asf", "asf")),
            [0, 0, 1, 0xba, ..] => Ok(container("mpeg", "mpeg")),
            // Packets of 188 bytes, or of 192 with a time before each.
            _ if is_every(bytes, 0, 188) || is_every(bytes, 4, 192) => Ok(container("mpegts", "mpegts")),
            [b'#', b'E', b'X', b'T', b'M', b'3', b'U', ..] => Err(not("it looks like an HLS playlist")),
            [0xff, 0xd8, 0xff, ..] => Err(not("it looks like a JPEG image")),
            _ => Err(match stranger(bytes) {
                ImageError::NotAnImage(what) => not(&what),
                ImageError::UnsupportedFormat(name) => not(&format!("it looks like {name}")),
                other => other.into(),
            }),
        }
    }
}

fn not(what: &str) -> VideoError {
    VideoError::NotAVideo(what.to_owned())
}

/// Whether the brand of an MP4-like file is one of AVIF or HEIC.
fn is_picture(brand: &[u8]) -> bool {
    [b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]
        .iter()
        .any(|picture| brand.starts_with(*picture))
}

/// Whether packets of MPEG-TS of this size, at least two, begin at `at`.
fn is_every(bytes: &[u8], at: usize, size: usize) -> bool {
    let mut starts = bytes.iter().skip(at).step_by(size).take(4);
    bytes.len() > at + size && starts.all(|start| *start == 0x47)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_their_bytes() {
        let of = |bytes: &[u8]| Container::sniff(bytes).map(|c| c.name).map_err(|e| e.to_string());
        let packets = |at: usize, size: usize| {
            let mut bytes = vec![0; size * 3];
            bytes.iter_mut().skip(at).step_by(size).for_each(|byte| *byte = 0x47);
            bytes
        };
        for (bytes, name) in [
            (&b"\0\0\0\x18ftypisom"[..], "mp4"),
            (b"\0\0\0\x14ftypqt  ", "mov"),
            (b"\0\0\0\x08wide\0\0\0\0mdat", "mov"),
            (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", "webm"),
            (b"\x1a\x45\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska", "matroska"),
            (b"RIFF\0\0\0\0AVI LIST", "avi"),
            (b"FLV\x01\x05", "flv"),
            (b"OggS\0\x02", "ogg"),
            (b"\0\0\x01\xbaD\0", "mpeg"),
            (&packets(0, 188), "mpegts"),
            (&packets(4, 192), "mpegts"),
        ] {
            assert_eq!(of(bytes), Ok(name));
        }
        for (bytes, words) in [
            (&b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd"[..], "not a video: it looks like an HLS playlist"),
            (b"<!DOCTYPE html><html>", "not a video: it looks like an HTML page"),
            (b"\xff\xd8\xff\xe0", "not a video: it looks like a JPEG image"),
            (b"\0\0\0\x18ftypavif", "not a video: it looks like AVIF"),
            (b"\0\0\0\x18ftypheic", "not a video: it looks like HEIC"),
            (b"ffconcat version 1.0\nfile x", "not a video: it looks like text"),
            (b"GGG", "not a video: it looks like text"),
        ] {
            assert_eq!(of(bytes), Err(words.into()));
        }
    }
}
