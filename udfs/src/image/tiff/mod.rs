//! TIFF: a directory, compressed strips or tiles, and samples of many kinds.
//!
//! The `image` crate's decoder supports few of those kinds and loses details that others need (whether alpha is
//! premultiplied). So the container is parsed here, by Pillow's rules; only the codecs are from other crates.

mod chunks;
mod colours;
mod directory;

use super::{Format, ImageError, Limits, Rgb8};
use chunks::Chunks;
use colours::Colours;
use directory::Directory;

const FORMAT: Format = Format::Tiff;

/// Maximum samples per pixel, as in Pillow.
const MAX_SAMPLES: usize = 6;

/// Minimum side of a tile, in pixels. The format requires multiples of 16; one-pixel tiles would each need a decoder.
const MIN_TILE: u32 = 8;

/// Storage layout of the pixels.
#[derive(Debug)]
struct Layout {
    /// Width of the stored image, before rotation.
    width: u32,
    height: u32,
    /// Bits per sample.
    bits: u16,
    samples: u16,
    /// Whether each sample has its own plane.
    planar: bool,
    photometric: u64,
    compression: u64,
    predictor: u64,
    /// Whether the bits of each byte are reversed.
    reversed: bool,
    tiled: bool,
    /// Width and height of a strip or tile.
    chunk: (u32, u32),
    /// EXIF orientation, 1 to 8.
    orientation: u64,
}

impl Layout {
    fn read(directory: &Directory<'_>) -> Result<Self, ImageError> {
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
    fn check(&self) -> Result<(), ImageError> {
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
        chunks::check_compression(self)
    }

    /// Strips or tiles per row of them (`across`), and number of such rows (`down`).
    fn across(&self) -> u64 {
        u64::from(self.width.div_ceil(self.chunk.0))
    }

    fn down(&self) -> u64 {
        u64::from(self.height.div_ceil(self.chunk.1))
    }

    fn planes(&self) -> usize {
        if self.planar { usize::from(self.samples) } else { 1 }
    }

    fn samples_a_plane(&self) -> usize {
        if self.planar { 1 } else { usize::from(self.samples) }
    }

    /// Bytes per row of a strip or tile.
    fn row_bytes(&self) -> u64 {
        (u64::from(self.chunk.0) * self.samples_a_plane() as u64 * u64::from(self.bits)).div_ceil(8)
    }

    /// Width and height of the image as Pillow shows it, after rotation.
    fn turned(&self) -> (u32, u32) {
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

fn directory(bytes: &[u8]) -> Result<Directory<'_>, ImageError> {
    Directory::read(bytes).ok_or_else(|| FORMAT.truncated("it ends before its directory does"))
}

/// Width, height and channels.
pub(super) fn info(bytes: &[u8]) -> Result<(u32, u32, u8), ImageError> {
    let layout = Layout::read(&directory(bytes)?)?;
    let (width, height) = layout.turned();
    let colours = if layout.photometric == 3 { layout.samples.saturating_add(2) } else { layout.samples };
    Ok((width, height, colours.min(255) as u8))
}

/// Decodes the first image, rotated by its orientation.
pub(super) fn first_picture(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let directory = directory(bytes)?;
    let layout = Layout::read(&directory)?;
    let (width, height) = layout.turned();
    limits.check_size(width, height)?;
    layout.check()?;
    let colours = Colours::new(&directory, &layout)?;
    // RGB, twice if rotated; a row of samples as numbers and as bytes; and the codec's buffer for one strip or tile.
    let pixels = u64::from(width) * u64::from(height);
    let row = u64::from(layout.chunk.0) * (u64::from(layout.samples) * 4 + 3)
        + 2 * layout.row_bytes() * layout.planes() as u64;
    let part = u64::from(layout.chunk.0).saturating_mul(u64::from(layout.chunk.1));
    let held = match layout.compression {
        3 | 4 => part / 8,
        7 => part.saturating_mul(layout.samples_a_plane() as u64),
        _ => 0,
    };
    let turning = if layout.orientation > 1 { pixels * 3 } else { 0 };
    limits.check_memory(FORMAT, (pixels * 3).saturating_add(row).saturating_add(held.max(turning)))?;

    let chunks = Chunks::new(bytes, &directory, &layout)?;
    let stored = unpack(&chunks, &colours, limits)?;
    Ok(Rgb8 { width, height, data: turn(stored, &layout) })
}

/// Decodes the pixels in their stored orientation.
fn unpack(chunks: &Chunks<'_>, colours: &Colours, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let layout = chunks.layout;
    let (width, height) = (layout.width as usize, layout.height);
    let (across, down, planes) = (layout.across(), layout.down(), layout.planes());
    let (step, each) = (usize::from(layout.samples), layout.samples_a_plane());
    let mut data = vec![0; width * height as usize * 3];
    let mut samples = vec![0_u32; layout.chunk.0 as usize * step];
    for index in 0..across * down {
        let left = (index % across) as usize * layout.chunk.0 as usize;
        let top = (index / across) as u32 * layout.chunk.1;
        let rows = layout.chunk.1.min(height - top);
        let columns = (layout.chunk.0 as usize).min(width - left);
        let mut readers = Vec::with_capacity(planes);
        for plane in 0..planes as u64 {
            readers.push(chunks.rows(plane * across * down + index, rows, limits)?);
        }
        for y in top as usize..(top + rows) as usize {
            for (plane, reader) in readers.iter_mut().enumerate() {
                reader.next(|at, sample| {
                    let at = if each == 1 { at * step + plane } else { at };
                    // Bits that pad the last byte of a row are not samples.
                    if let Some(place) = samples.get_mut(at) {
                        *place = sample;
                    }
                })?;
            }
            let row = &mut data[(y * width + left) * 3..][..columns * 3];
            for (pixel, samples) in row.as_chunks_mut::<3>().0.iter_mut().zip(samples.chunks_exact(step)) {
                *pixel = colours.rgb(samples);
            }
        }
    }
    Ok(data)
}

/// Rotates and mirrors by the EXIF orientation.
fn turn(stored: Vec<u8>, layout: &Layout) -> Vec<u8> {
    let (width, height) = (layout.width as usize, layout.height as usize);
    if !(2..=8).contains(&layout.orientation) {
        return stored;
    }
    let (pixels, _) = stored.as_chunks::<3>();
    let (columns, rows) = layout.turned();
    let mut data = Vec::with_capacity(stored.len());
    for y in 0..rows as usize {
        for x in 0..columns as usize {
            let (x, y) = match layout.orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            data.extend_from_slice(&pixels[y * width + x]);
        }
    }
    data
}
