//! WebP's container: size before decoding, and the frames of an animation.

use std::borrow::Cow;

use super::contract::{Format, ImageError};

/// Facts from a WebP file's header.
pub(super) struct Header {
    /// Canvas width in pixels.
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) alpha: bool,
    pub(super) animated: bool,
}

/// A single-frame file, and the frame's position on the canvas.
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

/// Width, height and presence of alpha of a pixel chunk; `None` for other chunks.
fn picture(name: &[u8], data: &[u8]) -> Result<Option<(u32, u32, bool)>, ImageError> {
    match name {
        b"VP8L" => {
            let bits = four(data, 1).ok_or_else(ends_early)?;
            if data[0] != 0x2f {
                return Err(Format::WebP.corrupt("its lossless data have a wrong signature"));
            }
            Ok(Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1, bits >> 28 & 1 == 1)))
        }
        b"VP8 " => {
            let (start, size) = three(data, 3).zip(four(data, 6)).ok_or_else(ends_early)?;
            if start != 0x2a_019d {
                return Err(Format::WebP.corrupt("its lossy data have a wrong signature"));
            }
            Ok(Some((size & 0x3fff, size >> 16 & 0x3fff, false)))
        }
        _ => Ok(None),
    }
}

/// Name and data of the chunk at `at`, and offset of the next one.
fn chunk(file: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let size = four(file, at + 4)? as usize;
    let data = file.get(at + 8..(at + 8).checked_add(size)?)?;
    Some((&file[at..at + 4], data, at + 8 + size + size % 2))
}

/// Fails unless the first pixel chunk has this size. The decoder allocates by that chunk and compares sizes only
/// afterwards.
fn check_pixels(file: &[u8], width: u32, height: u32) -> Result<(), ImageError> {
    let mut at = 12;
    while let Some((name, data, next)) = chunk(file, at) {
        match picture(name, data)? {
            Some((w, h, _)) if (w, h) == (width, height) => return Ok(()),
            Some(_) => return Err(Format::WebP.corrupt("its pixels have another size than its canvas")),
            None => at = next,
        }
    }
    Err(Format::WebP.corrupt("it has no pixels"))
}

impl Header {
    /// Reads the first chunk.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let name = bytes.get(12..16).ok_or_else(ends_early)?;
        let data = &bytes[bytes.len().min(20)..];
        if name == b"VP8X" {
            let flags = *data.first().ok_or_else(ends_early)?;
            let (width, height) = three(data, 4).zip(three(data, 7)).ok_or_else(ends_early)?;
            return Ok(Self {
                width: width + 1,
                height: height + 1,
                alpha: flags & 0x10 != 0,
                animated: flags & 2 != 0,
            });
        }
        match picture(name, data)? {
            Some((width, height, alpha)) => Ok(Self { width, height, alpha, animated: false }),
            None => Err(Format::WebP.corrupt("its first chunk is not a picture")),
        }
    }

    /// The file itself, or the first frame of an animation as a file of its own. For animations the `image` crate would
    /// blend that frame with a background, unlike Pillow, and hold three canvases.
    ///
    /// Fails if the file is shorter than its header says, as libwebp does.
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
            check_pixels(file, self.width, self.height)?;
            return Ok(Still { file: Cow::Borrowed(file), left: 0, top: 0 });
        }
        let missing = || Format::WebP.corrupt("an animation without frames");
        let mut at = 12;
        let frame = loop {
            match chunk(file, at).ok_or_else(missing)? {
                (b"ANMF", data, _) => break data,
                (_, _, next) => at = next,
            }
        };
        let frame = Frame::read(frame).ok_or_else(missing)?;
        if !frame.lies_in(self) {
            return Err(Format::WebP.corrupt("its first frame lies outside the canvas"));
        }
        Ok(Still { file: Cow::Owned(frame.file()?), left: frame.left, top: frame.top })
    }

    /// All frames of an animation, `most` at most; of a still picture none.
    pub(super) fn frames<'a>(&self, bytes: &'a [u8], most: usize) -> Result<Vec<Frame<'a>>, ImageError> {
        let length = four(bytes, 4).ok_or_else(ends_early)? as usize;
        let file = &bytes[..length.saturating_add(8).min(bytes.len())];
        let mut frames = vec![];
        let mut at = 12;
        while let Some((name, data, next)) = chunk(file, at).filter(|_| self.animated) {
            if name == b"ANMF" {
                if frames.len() == most {
                    return Err(Format::WebP.unsupported(format!("more than {most} frames")));
                }
                let frame = Frame::read(data).filter(|frame| frame.lies_in(self));
                let outside = || Format::WebP.corrupt("one of its frames lies outside the canvas");
                frames.push(frame.ok_or_else(outside)?);
            }
            at = next;
        }
        if self.animated && at < file.len() {
            return Err(Format::WebP.truncated("it ends within a frame"));
        }
        Ok(frames)
    }
}

/// A frame of an animation.
pub(super) struct Frame<'a> {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) milliseconds: u32,
    /// Whether the frame is blended with what is there by its alpha, or else replaces it.
    pub(super) blends: bool,
    /// Whether its place is cleared after it was shown.
    pub(super) clears: bool,
    chunks: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the data of an ANMF chunk; `None` if they end early.
    fn read(data: &'a [u8]) -> Option<Self> {
        let flags = *data.get(15)?;
        Some(Self {
            left: three(data, 0)? * 2,
            top: three(data, 3)? * 2,
            width: three(data, 6)? + 1,
            height: three(data, 9)? + 1,
            milliseconds: three(data, 12)?,
            blends: flags & 2 == 0,
            clears: flags & 1 == 1,
            chunks: data.get(16..)?,
        })
    }

    fn lies_in(&self, header: &Header) -> bool {
        self.left + self.width <= header.width && self.top + self.height <= header.height
    }

    /// The frame as a file of its own.
    pub(super) fn file(&self) -> Result<Vec<u8>, ImageError> {
        let mut still = b"RIFF\0\0\0\0WEBP".to_vec();
        if self.chunks.starts_with(b"ALPH") {
            still.extend_from_slice(b"VP8X\x0a\0\0\0\x10\0\0\0");
            still.extend_from_slice(&(self.width - 1).to_le_bytes()[..3]);
            still.extend_from_slice(&(self.height - 1).to_le_bytes()[..3]);
        }
        still.extend_from_slice(self.chunks);
        let length = (still.len() as u32).wrapping_sub(8).to_le_bytes();
        still[4..8].copy_from_slice(&length);
        check_pixels(&still, self.width, self.height)?;
        Ok(still)
    }
}
