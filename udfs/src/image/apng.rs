//! PNG's container as an animation: its frames as files of their own (PNG specification, third edition, section 11.3.4).

use super::contract::{Format, ImageError};
use super::info::PngHeader;

/// A frame of an animation.
pub(super) struct Frame<'a> {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) seconds: f64,
    /// What becomes of its place after it was shown: 1 it is cleared, 2 what was there before, else it stays.
    pub(super) disposal: u8,
    /// Whether the frame is blended with what is there by its alpha, or else replaces it.
    pub(super) blends: bool,
    data: Vec<&'a [u8]>,
}

/// A file's frames, and what they have in common.
pub(super) struct Animation<'a> {
    pub(super) frames: Vec<Frame<'a>>,
    /// Data of the header.
    header: &'a [u8],
    /// Palette and transparent colours, as whole chunks.
    shared: Vec<&'a [u8]>,
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

impl<'a> Frame<'a> {
    fn read(data: &[u8]) -> Option<Self> {
        let half = |at: usize| data.get(at..at + 2).map(|b| f64::from(u16::from_be_bytes([b[0], b[1]])));
        let (delay, unit) = (half(20)?, half(22)?);
        Some(Self {
            left: word(data, 12)?,
            top: word(data, 16)?,
            width: word(data, 4)?,
            height: word(data, 8)?,
            seconds: delay / if unit == 0.0 { 100.0 } else { unit },
            disposal: *data.get(24)?,
            blends: *data.get(25)? == 1,
            data: vec![],
        })
    }
}

impl<'a> Animation<'a> {
    /// Reads the chunks of a file; `None` without an animation. A picture for programs that know no animations, where it is
    /// no frame, is left out.
    pub(super) fn read(bytes: &'a [u8], most: usize) -> Result<Option<Self>, ImageError> {
        let format = Format::Png;
        let cut = || format.truncated("it ends within a chunk");
        let header = PngHeader::read(bytes)?;
        let mut shared = vec![];
        let mut frames: Vec<Frame<'a>> = vec![];
        let (mut is_animated, mut at) = (false, 33_usize);
        loop {
            let size = word(bytes, at).ok_or_else(cut)? as usize;
            let name = bytes.get(at + 4..at + 8).ok_or_else(cut)?;
            let end = (at + 12).checked_add(size).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
            let data = &bytes[at + 8..end - 4];
            // Chunks of a lower-case name may be left out.
            let counts = name[0].is_ascii_uppercase() || matches!(name, b"acTL" | b"fcTL" | b"fdAT");
            if counts && word(bytes, end - 4) != Some(crc32fast::hash(&bytes[at + 4..end - 4])) {
                return Err(format.corrupt("one of its chunks fails the checksum"));
            }
            match name {
                b"acTL" => is_animated = true,
                b"PLTE" | b"tRNS" if frames.iter().all(|frame| frame.data.is_empty()) => shared.push(&bytes[at..end]),
                b"fcTL" if frames.len() == most => return Err(format.unsupported(format!("more than {most} frames"))),
                b"fcTL" => {
                    let frame = Frame::read(data).ok_or_else(cut)?;
                    let fits = |from: u32, size: u32, side: u32| {
                        size > 0 && from.checked_add(size).is_some_and(|end| end <= side)
                    };
                    if !fits(frame.left, frame.width, header.width) || !fits(frame.top, frame.height, header.height) {
                        return Err(format.corrupt("one of its frames lies outside the canvas"));
                    }
                    frames.push(frame);
                }
                b"IDAT" if !is_animated => return Ok(None),
                b"IDAT" => frames.last_mut().into_iter().for_each(|frame| frame.data.push(data)),
                b"fdAT" => {
                    let data = data.get(4..).ok_or_else(cut)?;
                    frames.last_mut().into_iter().for_each(|frame| frame.data.push(data));
                }
                b"IEND" => break,
                _ => {}
            }
            at = end;
        }
        if frames.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { frames, header: &bytes[16..29], shared }))
    }

    /// A frame as a file of its own.
    pub(super) fn file(&self, frame: &Frame<'_>) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |name: &[u8], parts: &[&[u8]]| {
            let size: usize = parts.iter().map(|part| part.len()).sum();
            file.extend_from_slice(&(size as u32).to_be_bytes());
            let start = file.len();
            file.extend_from_slice(name);
            parts.iter().for_each(|part| file.extend_from_slice(part));
            let sum = crc32fast::hash(&file[start..]);
            file.extend_from_slice(&sum.to_be_bytes());
        };
        let size = [frame.width.to_be_bytes(), frame.height.to_be_bytes()].concat();
        chunk(b"IHDR", &[&size, &self.header[8..]]);
        for shared in &self.shared {
            chunk(&shared[4..8], &[&shared[8..shared.len() - 4]]);
        }
        chunk(b"IDAT", &frame.data);
        chunk(b"IEND", &[]);
        file
    }

    /// What disposal leaves of a cleared place: the first colour of a palette, as in Pillow, or else nothing.
    pub(super) fn background(&self) -> [u8; 4] {
        let palette = self.shared.iter().find(|chunk| &chunk[4..8] == b"PLTE" && self.header[9] == 3);
        match palette.and_then(|chunk| chunk.get(8..11)) {
            Some(colour) => [colour[0], colour[1], colour[2], 255],
            None => [0; 4],
        }
    }
}
