//! Format detection and header parsing of images.

use super::contract::{Format, ImageError, Limits};
use super::{bmp, gif, jpeg, tiff, webp};

/// Facts from an image's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// `jpeg`, `png`, `webp`, `gif`, `bmp` or `tiff`.
    pub format: &'static str,
    /// Width in pixels as [`decode`](super::decode) gives it: before EXIF rotation, except that a TIFF's is after.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Channels of the stored pixels: 1 grey; 2 grey and alpha; 3 RGB or palette; 4 RGB and alpha, CMYK, or palette
    /// with transparency.
    pub channels: u8,
}

/// Reads only the header and ignores the pixel limit: an image too large to decode still reports its size.
///
/// # Errors
/// Not an image, an unreadable header, or more bytes than `limits.max_bytes`.
pub fn info(bytes: &[u8], limits: &Limits) -> Result<ImageInfo, ImageError> {
    limits.check_bytes(bytes)?;
    let format = sniff(bytes)?;
    let (width, height, channels) = match format {
        Format::Jpeg => {
            let frame = jpeg::Frame::read(bytes)?;
            (frame.width, frame.height, frame.components.len() as u8)
        }
        Format::Png => {
            let header = PngHeader::read(bytes)?;
            (header.width, header.height, header.channels(bytes))
        }
        Format::WebP => {
            let header = webp::Header::read(bytes)?;
            (header.width, header.height, if header.alpha { 4 } else { 3 })
        }
        Format::Gif => gif::info(bytes)?,
        Format::Bmp => bmp::info(bytes)?,
        Format::Tiff => tiff::info(bytes)?,
    };
    if width == 0 || height == 0 {
        return Err(format.corrupt(format!("its size is {width} x {height}")));
    }
    Ok(ImageInfo { format: format.name(), width, height, channels })
}

/// Detects the format from the first bytes; file names and MIME types are not trusted.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    let head = &bytes[..bytes.len().min(16)];
    match head {
        [] => Err(ImageError::Empty),
        [0xff, 0xd8, 0xff, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Format::Gif),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(Format::Tiff),
        // Two letters are weak evidence: require a header of a known length, so that text starting with BM is not taken
        // for an image.
        [b'B', b'M', ..] if bmp::has_header(bytes) => Ok(Format::Bmp),
        _ => Err(stranger(bytes)),
    }
}

/// Describes unrecognised bytes. Web servers often send pages in place of images; the error says so.
pub(crate) fn stranger(bytes: &[u8]) -> ImageError {
    let known = |name| ImageError::UnsupportedFormat(name);
    match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', rest @ ..] => {
            return match rest {
                [b'a', b'v', b'i', b'f' | b's', ..] => known("AVIF"),
                [b'h', b'e', b'i' | b'v', ..] | [b'm', b'i', b'f', b'1', ..] | [b'm', b's', b'f', b'1', ..] => {
                    known("HEIC")
                }
                _ => ImageError::NotAnImage("it looks like a video (MP4)".into()),
            };
        }
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => return known("JPEG XL"),
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => return known("JPEG 2000"),
        [0, 0, 1, 0, count, 0, ..] if *count > 0 => return known("ICO"),
        [b'8', b'B', b'P', b'S', ..] => return known("PSD"),
        [b'%', b'P', b'D', b'F', ..] => return ImageError::NotAnImage("it looks like a PDF document".into()),
        [0x1f, 0x8b, ..] => return ImageError::NotAnImage("it looks like gzip data".into()),
        _ => {}
    }
    let mut head = &bytes[..bytes.len().min(1024)];
    // A character cut at the end does not make the text binary.
    let text = loop {
        match std::str::from_utf8(head) {
            Ok(text) => break Some(text),
            Err(error) if error.error_len().is_none() => head = &head[..error.valid_up_to()],
            Err(_) => break None,
        }
    };
    if let Some(text) = text.filter(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace() && c != '\u{1b}'))
    {
        let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
        return match text {
            _ if text.contains("<svg") => known("SVG (a vector image)"),
            _ if text.starts_with("<!doctype html") || text.contains("<html") || text.contains("<body") => {
                ImageError::NotAnImage("it looks like an HTML page".into())
            }
            _ if text.starts_with("<?xml") => ImageError::NotAnImage("it looks like XML".into()),
            _ => ImageError::NotAnImage("it looks like text".into()),
        };
    }
    let start: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    ImageError::NotAnImage(format!("unknown format (starts with {})", start.join(" ")))
}

/// The header chunk (IHDR) of a PNG.
pub(super) struct PngHeader {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bits per sample.
    pub(super) depth: u8,
    /// 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
    pub(super) colour: u8,
}

impl PngHeader {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let chunk = bytes.get(12..33).ok_or_else(|| Format::Png.truncated("it ends in its header"))?;
        if &chunk[..4] != b"IHDR" || crc32(&chunk[..17]).to_be_bytes() != chunk[17..21] {
            return Err(Format::Png.corrupt("its header fails the checksum"));
        }
        let word = |at: usize| u32::from_be_bytes([chunk[at], chunk[at + 1], chunk[at + 2], chunk[at + 3]]);
        Ok(Self { width: word(4), height: word(8), depth: chunk[12], colour: chunk[13] })
    }

    fn channels(&self, bytes: &[u8]) -> u8 {
        match self.colour {
            0 => 1,
            4 => 2,
            6 => 4,
            3 if has_transparency(bytes) => 4,
            _ => 3,
        }
    }
}

/// Whether a tRNS chunk precedes the pixel data.
fn has_transparency(bytes: &[u8]) -> bool {
    let mut at = 8_usize;
    while let Some([a, b, c, d, name @ ..]) = bytes.get(at..at.saturating_add(8)) {
        match name {
            b"tRNS" => return true,
            b"IDAT" => return false,
            _ => at = at.saturating_add(u32::from_be_bytes([*a, *b, *c, *d]) as usize).saturating_add(12),
        }
    }
    false
}

/// PNG's CRC-32, without a table: it covers only 17 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
