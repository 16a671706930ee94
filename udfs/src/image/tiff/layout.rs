//! Layout of a TIFF's pixels, as its directory tells it.

use super::directory::Directory;
use crate::image::contract::{Format, ImageError};

pub(super) const FORMAT: Format = Format::Tiff;

/// Maximum samples per pixel, as in Pillow.
pub(super) const MAX_SAMPLES: usize = 6;

/// Minimum side of a tile, in pixels. The format requires multiples of 16; one-pixel tiles would each need a decoder.
const MIN_TILE: u32 = 8;

/// Storage layout of the pixels.
#[derive(Debug)]
pub(super) struct Layout {
    /// Width of the stored image, before rotation.
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bits per sample.
    pub(super) bits: u16,
    pub(super) samples: u16,
    /// Whether each sample has its own plane.
    pub(super) planar: bool,
    pub(super) photometric: u64,
    pub(super) compression: u64,
    pub(super) predictor: u64,
    /// Whether the bits of each byte are reversed.
    pub(super) reversed: bool,
    pub(super) tiled: bool,
    /// Width and height of a strip or tile.
    pub(super) chunk: (u32, u32),
    /// EXIF orientation, 1 to 8.
    pub(super) orientation: u64,
}

impl Layout {
    pub(super) fn read(directory: &Directory<'_>) -> Result<Self, ImageError> {
        let size = |tag| directory.first(tag).and_then(|number| u32::try_from(number).ok());
        let (Some(width), Some(height)) = (size(256), size(257)) else {
            return Err(FORMAT.corrupt("its directory says no width and height"));
        };
        if width == 0 || height == 0 {
            return Err(FORMAT.corrupt(format!("its size is {width} x {height}")));
        }
        let compression = directory.first(259).unwrap_or(1);
        let photometric = match compression {
            // Such files often say RGB, which Pillow ignores too.
            6 => 6,
            _ => directory.first(262).unwrap_or(0),
        };
        let samples = directory.first(277).unwrap_or(if compression == 6 { 3 } else { 1 });
        let samples = u16::try_from(samples).ok().filter(|samples| *samples > 0);
        let samples = samples.ok_or_else(|| FORMAT.corrupt("its number of samples is out of range"))?;
        let bits = match directory.list(258) {
            None => Some(1),
            Some(list) => list.get(0).filter(|first| list.iter().take(usize::from(samples)).all(|bits| bits == *first)),
        };
        let bits = bits.and_then(|bits| u16::try_from(bits).ok()).unwrap_or(0);
        let tiled = directory.list(322).is_some();
        let chunk = if tiled {
            (size(322).unwrap_or(0), size(323).unwrap_or(0))
        } else {
            (width, size(278).unwrap_or(height).min(height))
        };
        Ok(Self {
            width,
            height,
            bits,
            samples,
            planar: samples > 1 && directory.first(284) == Some(2),
            photometric,
            compression,
            predictor: match compression {
                // Only these compressions support a predictor.
                5 | 8 | 32_946 | 50_000 => directory.first(317).unwrap_or(1),
                _ => 1,
            },
            reversed: compression != 7 && directory.first(266) == Some(2),
            tiled,
            chunk,
            orientation: directory.first(274).or_else(|| xmp_orientation(directory.list(700)?.bytes())).unwrap_or(1),
        })
    }

    /// Rejects layouts that are not supported.
    pub(super) fn check(&self) -> Result<(), ImageError> {
        if self.bits == 0 {
            return Err(FORMAT.unsupported("samples of different sizes"));
        }
        if usize::from(self.samples) > MAX_SAMPLES {
            return Err(FORMAT.unsupported(format!("{} samples a pixel", self.samples)));
        }
        if self.chunk.0 == 0 || self.chunk.1 == 0 || self.tiled && self.chunk.0.min(self.chunk.1) < MIN_TILE {
            return Err(FORMAT.corrupt(format!("strips or tiles of {} x {} pixels", self.chunk.0, self.chunk.1)));
        }
        if self.planar && self.compression == 7 && self.photometric == 6 {
            return Err(FORMAT.unsupported("YCbCr colours in separate planes"));
        }
        check_compression(self)
    }

    /// Strips or tiles per row of them (`across`), and number of such rows (`down`).
    pub(super) fn across(&self) -> u64 {
        u64::from(self.width.div_ceil(self.chunk.0))
    }

    pub(super) fn down(&self) -> u64 {
        u64::from(self.height.div_ceil(self.chunk.1))
    }

    pub(super) fn planes(&self) -> usize {
        if self.planar { usize::from(self.samples) } else { 1 }
    }

    pub(super) fn samples_a_plane(&self) -> usize {
        if self.planar { 1 } else { usize::from(self.samples) }
    }

    /// Bytes per row of a strip or tile.
    pub(super) fn row_bytes(&self) -> u64 {
        (u64::from(self.chunk.0) * self.samples_a_plane() as u64 * u64::from(self.bits)).div_ceil(8)
    }

    /// Width and height of the image as Pillow shows it, after rotation.
    pub(super) fn turned(&self) -> (u32, u32) {
        if (5..=8).contains(&self.orientation) { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// Orientation in an XMP packet, which Pillow uses if the directory has none.
fn xmp_orientation(packet: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"tiff:Orientation";
    packet.windows(NAME.len() + 3).find_map(|text| match text.strip_prefix(NAME)? {
        [b'=', b'"', digit @ b'0'..=b'9'] | [b'>', digit @ b'0'..=b'9', _] => Some(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Rejects an unsupported compression, or a predictor unsupported for these samples.
fn check_compression(layout: &Layout) -> Result<(), ImageError> {
    match layout.compression {
        7 if layout.bits != 8 => return Err(FORMAT.unsupported(format!("JPEG data of {} bits a sample", layout.bits))),
        1 | 5 | 7 | 8 | 32_773 | 32_946 | 50_000 => {}
        3 | 4 if layout.bits == 1 && layout.samples == 1 => {}
        3 | 4 => return Err(FORMAT.corrupt("fax compression of more than black and white")),
        other => return Err(FORMAT.unsupported(compression(other))),
    }
    match (layout.predictor, layout.bits) {
        (1, _) | (2, 8 | 16 | 32) | (3, 32) => Ok(()),
        (2 | 3, bits) => Err(FORMAT.unsupported(format!("prediction of samples of {bits} bits"))),
        (other, _) => Err(FORMAT.unsupported(format!("prediction of kind {other}"))),
    }
}

/// Name of an unsupported compression.
pub(super) fn compression(number: u64) -> String {
    match number {
        2 => "CCITT run-length compression".into(),
        6 => "old-style JPEG compression".into(),
        32_809 => "ThunderScan compression".into(),
        34_676 | 34_677 => "SGILog compression".into(),
        34_712 | 33_003 | 33_005 => "JPEG 2000 compression".into(),
        34_887 => "LERC compression".into(),
        34_925 => "LZMA compression".into(),
        50_001 => "WebP compression".into(),
        50_002 | 52_546 => "JPEG XL compression".into(),
        other => format!("compression of kind {other}"),
    }
}
