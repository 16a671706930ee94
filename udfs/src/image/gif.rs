//! GIF's container: its frames, and Pillow's fill around the first.

use image::codecs::gif::GifDecoder;
use std::{borrow::Cow, io::Cursor};

use super::codec;
use super::contract::{Format, ImageError, Limits};
use super::pixels::Rgb8;

/// A file's contents up to the first frame's pixels.
struct Header<'a> {
    /// Width of the image: the canvas, enlarged if the frame does not fit, as in Pillow.
    width: u32,
    height: u32,
    /// Bounds of the frame in the image: left, top, right, bottom.
    frame: [u32; 4],
    /// RGB triples of the frame's palette, or else the file's.
    palette: &'a [u8],
    transparent: Option<u8>,
    /// Offset of the frame's data.
    data: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))
}

impl<'a> Header<'a> {
    /// `None` if the bytes end before the first frame.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (width, height) = word(bytes, 6).zip(word(bytes, 8))?;
        let palette = |at: usize, flags: u8| bytes.get(at..at + palette_length(flags));
        let global = palette(13, *bytes.get(10)?)?;
        let mut at = 13 + global.len();
        let mut transparent = None;
        loop {
            match *bytes.get(at)? {
                b',' => break,
                b'!' => {
                    if let [0xf9, 4, flags, _, _, index, ..] = bytes.get(at + 1..)? {
                        transparent = (flags & 1 == 1).then_some(*index);
                    }
                    at = after_blocks(bytes, at + 2)?;
                }
                b';' => return None,
                _ => at += 1,
            }
        }
        let (left, top) = word(bytes, at + 1).zip(word(bytes, at + 3))?;
        let (right, bottom) = (left + word(bytes, at + 5)?, top + word(bytes, at + 7)?);
        let local = palette(at + 10, *bytes.get(at + 9)?)?;
        let data = at + 10 + local.len();
        Some(Self {
            width: width.max(right),
            height: height.max(bottom),
            frame: [left, top, right, bottom],
            palette: if local.is_empty() { global } else { local },
            transparent,
            data,
        })
    }

    /// Whether the bytes end within a block, even of a later frame. A missing end marker alone is common and harmless.
    fn is_cut(&self, bytes: &[u8]) -> bool {
        let mut end = after_blocks(bytes, self.data + 1);
        while let Some(at) = end {
            end = match bytes.get(at) {
                Some(b'!') => after_blocks(bytes, at + 2),
                Some(b',') => bytes.get(at + 9).and_then(|flags| after_blocks(bytes, at + 11 + palette_length(*flags))),
                _ => return false,
            };
        }
        true
    }
}

/// Bytes of the palette that these flags imply.
fn palette_length(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// End of a sequence of blocks, each prefixed with its length and the last one empty.
fn after_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// Width, height and channels.
pub(super) fn info(bytes: &[u8]) -> Result<(u32, u32, u8), ImageError> {
    match Header::read(bytes) {
        Some(header) => Ok((header.width, header.height, 3 + u8::from(header.transparent.is_some()))),
        None => Err(Format::Gif.truncated("it ends before its first frame")),
    }
}

/// Decodes the first frame on its canvas.
pub(super) fn first_frame(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let format = Format::Gif;
    let header = Header::read(bytes).ok_or_else(|| format.truncated("it ends before its first frame"))?;
    let (width, height) = (header.width, header.height);
    limits.check_size(width, height)?;
    if width > 65_535 || height > 65_535 {
        return Err(format.corrupt("its first frame lies outside the canvas"));
    }
    // The canvas in four channels, and the frame in four channels and as indices.
    let [left, top, right, bottom] = header.frame.map(u64::from);
    let pixels = u64::from(width) * u64::from(height);
    limits.check_memory(format, pixels * 4 + (right - left) * (bottom - top) * 5)?;

    if header.is_cut(bytes) {
        return Err(format.truncated("it ends within a frame"));
    }

    let mut file = Cow::Borrowed(bytes);
    if word(bytes, 6) != Some(width) || word(bytes, 8) != Some(height) {
        let file = file.to_mut();
        file[6..8].copy_from_slice(&(width as u16).to_le_bytes());
        file[8..10].copy_from_slice(&(height as u16).to_le_bytes());
    }
    let decoder = GifDecoder::new(Cursor::new(file.as_ref())).map_err(|error| codec::error(format, limits, error))?;
    let mut data = codec::read(format, decoder, limits)?;
    codec::drop_alpha(&mut data);
    fill_around(&mut data, &header);
    Ok(Rgb8 { width, height, data })
}

/// A frame of an animation.
pub(super) struct Frame<'a> {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) hundredths: u32,
    /// What becomes of its place after it was shown: 2 the background, 3 what was there before, else it stays.
    pub(super) disposal: u8,
    /// Colour of the background that disposal leaves, Pillow's: the transparent one's, or else the file's.
    pub(super) background: [u8; 3],
    /// The control extension's index of the transparent colour.
    transparent: Option<u8>,
    /// From the image descriptor's palette on, to the end of the data.
    data: &'a [u8],
    /// Flags of the image descriptor.
    flags: u8,
    file: &'a [u8],
}

impl Frame<'_> {
    /// The frame as a file of its own.
    pub(super) fn file(&self) -> Vec<u8> {
        let side = |side: u32| (side as u16).to_le_bytes();
        let global = &self.file[10..13 + palette_length(self.file[10])];
        let mut file = [b"GIF89a", &side(self.width)[..], &side(self.height), global].concat();
        if let Some(index) = self.transparent {
            file.extend_from_slice(&[b'!', 0xf9, 4, 1, 0, 0, index, 0]);
        }
        file.extend_from_slice(b",\0\0\0\0");
        file.extend_from_slice(&side(self.width));
        file.extend_from_slice(&side(self.height));
        file.push(self.flags);
        file.extend_from_slice(self.data);
        file.push(b';');
        file
    }
}

/// Width and height of the canvas, and all frames, `most` at most.
pub(super) fn frames(bytes: &[u8], most: usize) -> Result<(u32, u32, Vec<Frame<'_>>), ImageError> {
    let cut = || Format::Gif.truncated("it ends within a frame");
    let header = Header::read(bytes).ok_or_else(|| Format::Gif.truncated("it ends before its first frame"))?;
    let global = &bytes[13..13 + palette_length(bytes[10])];
    let colour = |palette: &[u8], index: u8| {
        let at = usize::from(index) * 3;
        let there = palette.get(at..at + 3).or_else(|| palette.get(..3));
        there.map_or([index; 3], |colour| [colour[0], colour[1], colour[2]])
    };
    let mut at = 13 + global.len();
    let mut frames: Vec<Frame<'_>> = vec![];
    let (mut flags, mut hundredths, mut transparent) = (0, 0, None);
    loop {
        match bytes.get(at) {
            Some(b',') => {}
            Some(b'!') => {
                if let Some([0xf9, 4, control, low, high, index, ..]) = bytes.get(at + 1..) {
                    (flags, hundredths) = (*control, u32::from(u16::from_le_bytes([*low, *high])));
                    transparent = (control & 1 == 1).then_some(*index);
                }
                at = after_blocks(bytes, at + 2).ok_or_else(cut)?;
                continue;
            }
            // Before the first frame other bytes are skipped, as there.
            Some(b';') | None => break,
            Some(_) if frames.is_empty() => {
                at += 1;
                continue;
            }
            Some(_) => break,
        }
        if frames.len() == most {
            return Err(Format::Gif.unsupported(format!("more than {most} frames")));
        }
        let field = |from: usize| word(bytes, at + from).ok_or_else(cut);
        let (left, top, width, height) = (field(1)?, field(3)?, field(5)?, field(7)?);
        let descriptor = *bytes.get(at + 9).ok_or_else(cut)?;
        let local = bytes.get(at + 10..at + 10 + palette_length(descriptor)).ok_or_else(cut)?;
        let end = after_blocks(bytes, at + 11 + local.len()).ok_or_else(cut)?;
        let palette = if local.is_empty() { global } else { local };
        frames.push(Frame {
            left,
            top,
            width,
            height,
            hundredths,
            disposal: flags >> 2 & 7,
            background: colour(palette, transparent.or(header.transparent).unwrap_or(bytes[11])),
            transparent,
            data: &bytes[at + 10..end],
            flags: descriptor,
            file: bytes,
        });
        (flags, hundredths, transparent) = (0, 0, None);
        at = end;
    }
    Ok((header.width, header.height, frames))
}

/// Fills the canvas around the frame with the transparent colour, or with the palette's first if there is none.
fn fill_around(data: &mut [u8], header: &Header<'_>) {
    let index = usize::from(header.transparent.unwrap_or(0));
    let colour = match header.palette.get(index * 3..index * 3 + 3) {
        Some(colour) => [colour[0], colour[1], colour[2]],
        // Pillow's palettes start as a grey ramp.
        None => [index as u8; 3],
    };
    let [left, top, right, bottom] = header.frame;
    for (y, row) in (0..).zip(data.chunks_exact_mut(header.width as usize * 3)) {
        for (x, pixel) in (0..).zip(row.as_chunks_mut::<3>().0) {
            if y < top || y >= bottom || x < left || x >= right {
                *pixel = colour;
            }
        }
    }
}
