//! TIFF: a directory, compressed strips or tiles, and samples of many kinds.
//!
//! The `image` crate's decoder supports few of those kinds and loses details that others need (whether alpha is
//! premultiplied). So the container is parsed here, by Pillow's rules; only the codecs are from other crates.

mod chunks;
mod colours;
mod directory;
mod layout;

use super::contract::{ImageError, Limits};
use super::pixels::Rgb8;
use chunks::Chunks;
use colours::Colours;
use directory::Directory;
use layout::{FORMAT, Layout};

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
