//! WebP's container: the size before anything is decoded, and the first frame of an animation.

use std::borrow::Cow;

use super::{Format, ImageError};

/// What a WebP file says of itself.
pub(super) struct Header {
    /// Of the canvas, in pixels.
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) alpha: bool,
    pub(super) animated: bool,
}

/// A file with one frame, and where on the canvas it lies.
pub(super) struct Still<'a> {
    pub(super) file: Cow<'a, [u8]>,
    pub(super) left: u32,
    pub(super) top: u32,
}

fn ends_early() -> ImageError {
    Format::WebP.truncated("it ends in its header")
}

fn three(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 3).map(|b| u32::from_le_bytes([b[0], b[1], b[2], 0]))
}

fn four(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl Header {
    /// Reads the first chunk.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let name = bytes.get(12..16).ok_or_else(ends_early)?;
        let data = &bytes[bytes.len().min(20)..];
        match name {
            b"VP8X" => {
                let flags = *data.first().ok_or_else(ends_early)?;
                let (width, height) = three(data, 4).zip(three(data, 7)).ok_or_else(ends_early)?;
                Ok(Self { width: width + 1, height: height + 1, alpha: flags & 0x10 != 0, animated: flags & 2 != 0 })
            }
            b"VP8L" => {
                let bits = four(data, 1).ok_or_else(ends_early)?;
                if data[0] != 0x2f {
                    return Err(Format::WebP.corrupt("its lossless data have a wrong signature"));
                }
                Ok(Self {
                    width: (bits & 0x3fff) + 1,
                    height: (bits >> 14 & 0x3fff) + 1,
                    alpha: bits >> 28 & 1 == 1,
                    animated: false,
                })
            }
            b"VP8 " => {
                let (start, size) = three(data, 3).zip(four(data, 6)).ok_or_else(ends_early)?;
                if start != 0x2a_019d {
                    return Err(Format::WebP.corrupt("its lossy data have a wrong signature"));
                }
                Ok(Self { width: size & 0x3fff, height: size >> 16 & 0x3fff, alpha: false, animated: false })
            }
            _ => Err(Format::WebP.corrupt("its first chunk is no picture")),
        }
    }

    /// The file as it is, or the first frame of an animation as a file of its own. The `image` crate's way through
    /// animations would blend that frame with a background, which Pillow does not, and hold three canvases.
    ///
    /// Fails where the file is shorter than it says, as libwebp does.
    pub(super) fn still<'a>(&self, bytes: &'a [u8]) -> Result<Still<'a>, ImageError> {
        let length = four(bytes, 4).ok_or_else(ends_early)? as usize;
        let file = bytes.get(..length.saturating_add(8)).ok_or_else(|| {
            Format::WebP.truncated(format!(
                "it has {} bytes of the {} it announces",
                bytes.len(),
                length.saturating_add(8)
            ))
        })?;
        if !self.animated {
            return Ok(Still { file: Cow::Borrowed(file), left: 0, top: 0 });
        }
        let missing = || Format::WebP.corrupt("an animation without frames");
        let mut at = 12;
        let frame = loop {
            let name = file.get(at..at + 4).ok_or_else(missing)?;
            let size = four(file, at + 4).ok_or_else(missing)? as usize;
            let data = file.get(at + 8..(at + 8).saturating_add(size)).ok_or_else(missing)?;
            if name == b"ANMF" {
                break data;
            }
            at += 8 + size + size % 2;
        };
        let field = |at| three(frame, at).ok_or_else(missing);
        let (left, top, width, height) = (field(0)? * 2, field(3)? * 2, field(6)?, field(9)?);
        if left + width >= self.width || top + height >= self.height {
            return Err(Format::WebP.corrupt("its first frame lies outside the canvas"));
        }
        let chunks = frame.get(16..).ok_or_else(missing)?;
        let mut still = b"RIFF\0\0\0\0WEBP".to_vec();
        if chunks.starts_with(b"ALPH") {
            still.extend_from_slice(b"VP8X\x0a\0\0\0\x10\0\0\0");
            still.extend_from_slice(&width.to_le_bytes()[..3]);
            still.extend_from_slice(&height.to_le_bytes()[..3]);
        }
        still.extend_from_slice(chunks);
        let length = (still.len() as u32).wrapping_sub(8).to_le_bytes();
        still[4..8].copy_from_slice(&length);
        Ok(Still { file: Cow::Owned(still), left, top })
    }
}
