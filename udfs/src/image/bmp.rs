//! BMP by Pillow's rules: the `image` crate's decoder scales 16-bit colours differently and lacks OS/2 2 headers and
//! some byte orders.

use super::contract::{Format, ImageError, Limits};
use super::pixels::Rgb8;

const FORMAT: Format = Format::Bmp;

/// Whether a header of a known length follows the letters BM, which start many texts.
pub(super) fn has_header(bytes: &[u8]) -> bool {
    matches!(bytes, [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, 12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..])
}

fn ends_early() -> ImageError {
    FORMAT.truncated("it ends early")
}

struct Header {
    width: u32,
    height: u32,
    top_down: bool,
    /// Bits per pixel.
    bits: u16,
    compression: u32,
    /// Number of colours in the palette.
    colours: u32,
    /// End of the header, where the palette or the pixels start; `pixels` is the start that the file states.
    end: usize,
    pixels: usize,
    /// Bytes per palette colour.
    entry: usize,
    /// Bit masks of red, green, blue and alpha in a pixel.
    masks: [u32; 4],
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let half = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]])).ok_or_else(ends_early);
        let word = |at: usize| -> Result<u32, ImageError> { Ok(u32::from(half(at)?) | u32::from(half(at + 2)?) << 16) };
        let (length, pixels) = (word(14)?, word(10)? as usize);
        if length == 12 {
            let (width, height, bits) = (half(18)?.into(), half(20)?.into(), half(24)?);
            let colours = 1_u32.checked_shl(bits.into()).unwrap_or(0);
            let (end, masks) = (26, [0; 4]);
            return Ok(Self {
                width,
                height,
                top_down: false,
                bits,
                compression: 0,
                colours,
                end,
                pixels,
                entry: 3,
                masks,
            });
        }
        let (height, bits, compression) = (word(22)?, half(28)?, word(30)?);
        let top_down = height >> 24 == 0xff;
        let mut end = 14 + length as usize;
        let mut masks = [0; 4];
        if compression == 3 {
            // Masks follow a header that is too short to contain them; longer headers also have alpha's.
            for (mask, at) in masks.iter_mut().zip([54, 58, 62, 66]).take(if length < 56 { 3 } else { 4 }) {
                *mask = word(at)?;
            }
            if length < 52 {
                end += 12;
            }
        }
        let colours = match word(46)? {
            0 => 1_u32.checked_shl(bits.into()).unwrap_or(0),
            colours => colours,
        };
        let height = if top_down { height.wrapping_neg() } else { height };
        Ok(Self { width: word(18)?, height, top_down, bits, compression, colours, end, pixels, entry: 4, masks })
    }

    fn has_alpha(&self) -> bool {
        self.bits == 32 && self.compression == 3 && (self.masks[3] != 0 || self.masks == [0; 4])
    }

    /// The palette, and the start of the pixels.
    fn palette(&self, bytes: &[u8]) -> Result<([[u8; 3]; 256], usize), ImageError> {
        // Pillow's palettes start as a grey ramp.
        let mut palette = std::array::from_fn(|level| [level as u8; 3]);
        let mut end = self.end;
        if self.bits <= 8 {
            if !(1..=65_536).contains(&self.colours) {
                return Err(FORMAT.unsupported(format!("a palette of {} colours", self.colours)));
            }
            let stored = bytes.get(end..).unwrap_or_default().chunks_exact(self.entry).take(self.colours as usize);
            for (place, colour) in palette.iter_mut().zip(stored) {
                *place = [colour[2], colour[1], colour[0]];
            }
            end += self.colours as usize * self.entry;
        }
        // Some writers give the end of the header as the start of the pixels although a palette follows.
        let misses_palette = self.bits <= 8 && self.pixels == self.end;
        Ok((palette, if self.pixels == 0 || misses_palette { end } else { self.pixels }))
    }
}

/// Width, height and channels.
pub(super) fn info(bytes: &[u8]) -> Result<(u32, u32, u8), ImageError> {
    let header = Header::read(bytes)?;
    Ok((header.width, header.height, if header.has_alpha() { 4 } else { 3 }))
}

/// Decodes a BMP.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let header = Header::read(bytes)?;
    let (width, height) = (header.width, header.height);
    if width == 0 || height == 0 {
        return Err(FORMAT.corrupt(format!("its size is {width} x {height}")));
    }
    limits.check_size(width, height)?;
    let pixels = u64::from(width) * u64::from(height);
    limits.check_memory(FORMAT, pixels * 4 + 1024)?;
    let colour = colours(&header)?;
    let (palette, start) = header.palette(bytes)?;
    let mut data = vec![0; pixels as usize * 3];
    let packed = bytes.get(start..).ok_or_else(ends_early)?;
    let indices = match header.compression {
        1 | 2 => Some(indices(bytes, start, &header)?),
        _ => None,
    };
    let (stored, bits) = match &indices {
        Some(indices) => (&indices[..], 8),
        None => (packed, header.bits),
    };
    let length = (width as usize * usize::from(bits)).div_ceil(8);
    // Rows are padded to whole words; the last row's padding may be missing.
    let stride = if indices.is_some() { length } else { length.next_multiple_of(4) };
    for y in 0..height as usize {
        let row = stored.get(y * stride..y * stride + length).ok_or_else(ends_early)?;
        let y = if header.top_down { y } else { height as usize - 1 - y };
        let out = data[y * width as usize * 3..][..width as usize * 3].as_chunks_mut::<3>().0;
        match bits {
            1 | 4 | 8 => {
                let (each, mask) = (8 / usize::from(bits), 0xff_u8 >> (8 - bits));
                for (x, pixel) in out.iter_mut().enumerate() {
                    let shift = 8 - usize::from(bits) * (x % each + 1);
                    *pixel = palette[usize::from(row[x / each] >> shift & mask)];
                }
            }
            _ => {
                for (pixel, stored) in out.iter_mut().zip(row.chunks_exact(usize::from(bits / 8))) {
                    *pixel = colour(stored);
                }
            }
        }
    }
    Ok(Rgb8 { width, height, data })
}

/// Conversion of a pixel's bytes to red, green and blue.
type Colour = Box<dyn Fn(&[u8]) -> [u8; 3]>;

/// Conversion of the bytes of a pixel without palette; fails for unsupported formats.
fn colours(header: &Header) -> Result<Colour, ImageError> {
    let Header { bits, compression, masks, .. } = *header;
    let rgb = [masks[0], masks[1], masks[2]];
    let direct = |order: [usize; 3]| -> Colour { Box::new(move |b: &[u8]| order.map(|at| b[at])) };
    // Fewer bits per channel, scaled to 0..255 and truncated.
    let short = |shifts: [u32; 3], most: [u32; 3]| -> Colour {
        Box::new(move |b: &[u8]| {
            let pixel = u32::from(u16::from_le_bytes([b[0], b[1]]));
            [0, 1, 2].map(|at| ((pixel >> shifts[at] & most[at]) * 255 / most[at]) as u8)
        })
    };
    match (compression, bits) {
        (0, 1 | 4 | 8) | (1 | 2, 4 | 8) => Ok(direct([0; 3])),
        (0, 24 | 32) => Ok(direct([2, 1, 0])),
        (0, 16) => Ok(short([10, 5, 0], [31; 3])),
        (3, 16) if rgb == [0x7c00, 0x3e0, 0x1f] => Ok(short([10, 5, 0], [31; 3])),
        (3, 16) if rgb == [0xf800, 0x7e0, 0x1f] => Ok(short([11, 5, 0], [31, 63, 31])),
        (3, 24) if rgb == [0xff_0000, 0xff00, 0xff] => Ok(direct([2, 1, 0])),
        (3, 32) if masks == [0; 4] => Ok(direct([2, 1, 0])),
        (3, 32) if rgb.iter().all(|mask| mask >> (mask.trailing_zeros() & 24) == 0xff) => {
            Ok(direct(rgb.map(|mask| mask.trailing_zeros() as usize / 8)))
        }
        (3, _) => Err(FORMAT.unsupported(format!("colours of the bits {:x}, {:x} and {:x}", rgb[0], rgb[1], rgb[2]))),
        (0..=2, _) => Err(FORMAT.unsupported(format!("{bits} bits a pixel"))),
        (4, _) => Err(FORMAT.unsupported("an embedded JPEG")),
        (5, _) => Err(FORMAT.unsupported("an embedded PNG")),
        (other, _) => Err(FORMAT.unsupported(format!("compression of kind {other}"))),
    }
}

/// Decodes run-length coding to a byte per pixel, in the file's row order.
fn indices(bytes: &[u8], start: usize, header: &Header) -> Result<Vec<u8>, ImageError> {
    let width = header.width as usize;
    let whole = width * header.height as usize;
    let four = header.compression == 2;
    let nibbles = |byte: u8| [byte >> 4, byte & 15];
    let mut data: Vec<u8> = Vec::with_capacity(whole + 256);
    let (mut at, mut x) = (start, 0);
    while data.len() < whole {
        let [count, byte] = *bytes.get(at..at + 2).ok_or_else(ends_early)? else { return Err(ends_early()) };
        at += 2;
        match (count, byte) {
            // To the end of the row.
            (0, 0) => {
                data.resize(data.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => return Err(ends_early()),
            // Skip of pixels to the right and of rows up.
            (0, 2) => {
                let [right, up] = *bytes.get(at..at + 2).ok_or_else(ends_early)? else { return Err(ends_early()) };
                at += 2;
                let skipped = usize::from(right) + usize::from(up) * width;
                data.resize(whole.min(data.len() + skipped), 0);
                x = data.len() % width;
            }
            // Literal pixels, padded to even offsets in the file.
            (0, count) => {
                let pixels = (whole - data.len()).min(usize::from(count));
                let stored =
                    bytes.get(at..at + if four { pixels.div_ceil(2) } else { pixels }).ok_or_else(ends_early)?;
                if four {
                    data.extend(stored.iter().flat_map(|byte| nibbles(*byte)).take(pixels));
                } else {
                    data.extend_from_slice(stored);
                }
                x += usize::from(count);
                at = (at + stored.len()).next_multiple_of(2);
            }
            // A run, which is cut at the end of its row.
            (count, byte) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                match four {
                    true => data.extend((0..count).map(|place| nibbles(byte)[place % 2])),
                    false => data.resize(data.len() + count, byte),
                }
                x += count;
            }
        }
    }
    Ok(data)
}
