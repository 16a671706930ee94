//! Decoding to RGB pixels, equal to Pillow's `convert('RGB')`.

use image::{
    ColorType, ImageDecoder, Limits as DecoderLimits,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
};
use std::{borrow::Cow, io::Cursor, ops::Range};

use super::codec::{drop_alpha, error, read};
use super::contract::{Format, ImageError, Limits};
use super::pixels::Rgb8;
use super::preprocess::Preprocessor;
use super::{bmp, gif, info, jpeg, tiff, webp};

/// Decodes an image: the first frame of an animation, with alpha dropped (not blended). Only a TIFF is rotated by its
/// orientation, as Pillow does on load.
///
/// # Errors
/// All of [`ImageError`] except [`ImageError::Resize`]. Bytes after the end of the image are ignored.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    limits.check_bytes(bytes)?;
    let image = match info::sniff(bytes)? {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Png => png(bytes, limits),
        Format::WebP => webp(bytes, limits),
        Format::Gif => gif::first_frame(bytes, limits),
        Format::Bmp => bmp::decode(bytes, limits),
        Format::Tiff => tiff::first_picture(bytes, limits),
    }?;
    debug_assert_eq!(image.data.len(), image.width as usize * image.height as usize * 3);
    Ok(image)
}

/// Checks that an image can be decoded, and discards the pixels.
///
/// # Errors
/// Those of [`decode`].
pub fn check(bytes: &[u8], limits: &Limits) -> Result<(), ImageError> {
    decode(bytes, limits).map(drop)
}

/// Decodes and squashes to `preprocessor.width * preprocessor.height * 3` bytes, rows of RGB.
///
/// # Errors
/// Those of [`decode`].
pub fn load(bytes: &[u8], limits: &Limits, preprocessor: &Preprocessor) -> Result<Vec<u8>, ImageError> {
    preprocessor.squash(&decode(bytes, limits)?)
}

fn png(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let header = info::PngHeader::read(bytes)?;
    limits.check_size(header.width, header.height)?;
    let mut decoder_limits = DecoderLimits::no_limits();
    decoder_limits.max_alloc = Some(limits.memory());
    let file = one_palette(bytes);
    let decoder =
        PngDecoder::with_limits(Cursor::new(&file[..]), decoder_limits).map_err(|e| error(Format::Png, limits, e))?;
    // Pillow keeps plain grey at 16 bits and clips it on conversion; for other 16-bit images it takes the high byte.
    let clip = header.depth == 16 && header.colour == 0;
    pixels(Format::Png, decoder, limits, clip)
}

/// Removes all palettes but the last: the decoder accepts only one, Pillow uses the last.
fn one_palette(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut palettes: Vec<Range<usize>> = Vec::new();
    let mut at = 8_usize;
    while let Some([a, b, c, d, name @ ..]) = bytes.get(at..at.saturating_add(8)) {
        let end = at.saturating_add(u32::from_be_bytes([*a, *b, *c, *d]) as usize).saturating_add(12);
        match name {
            b"IDAT" => break,
            b"PLTE" if end <= bytes.len() => palettes.push(at..end),
            _ => {}
        }
        at = end;
    }
    let Some((_, others @ [_, ..])) = palettes.split_last() else { return Cow::Borrowed(bytes) };
    let mut file = Vec::with_capacity(bytes.len());
    let mut from = 0;
    for palette in others {
        file.extend_from_slice(&bytes[from..palette.start]);
        from = palette.end;
    }
    file.extend_from_slice(&bytes[from..]);
    Cow::Owned(file)
}

fn webp(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let format = Format::WebP;
    let header = webp::Header::read(bytes)?;
    let (width, height) = (header.width, header.height);
    limits.check_size(width, height)?;
    let canvas = u64::from(width) * u64::from(height);
    // Lossless data without alpha are first decoded to four channels; this checks their size, `read` checks the rest.
    limits.check_memory(format, canvas * 7)?;
    let still = header.still(bytes)?;
    let decoder = WebPDecoder::new(Cursor::new(still.file.as_ref())).map_err(|e| error(format, limits, e))?;
    if !header.animated {
        return pixels(format, decoder, limits, false);
    }
    let frame = pixels(format, decoder, limits, false)?;
    if (frame.width, frame.height) == (width, height) {
        return Ok(frame);
    }
    let right = u64::from(still.left) + u64::from(frame.width);
    if right > u64::from(width) || u64::from(still.top) + u64::from(frame.height) > u64::from(height) {
        return Err(format.corrupt("its first frame lies outside the canvas"));
    }
    let mut data = vec![0; canvas as usize * 3];
    let rows = data.chunks_exact_mut(width as usize * 3).skip(still.top as usize);
    for (row, from) in rows.zip(frame.data.chunks_exact(frame.width as usize * 3)) {
        let left = still.left as usize * 3;
        row[left..left + from.len()].copy_from_slice(from);
    }
    Ok(Rgb8 { width, height, data })
}

/// Decodes a frame of an animation, a file of its own of this size, to RGBA.
pub(super) fn rgba(format: Format, file: &[u8], size: (u32, u32), limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let failed = |e| error(format, limits, e);
    match format {
        Format::Gif => layer(format, GifDecoder::new(Cursor::new(file)).map_err(failed)?, size, limits),
        Format::Png => {
            let mut most = DecoderLimits::no_limits();
            most.max_alloc = Some(limits.memory());
            layer(format, PngDecoder::with_limits(Cursor::new(file), most).map_err(failed)?, size, limits)
        }
        _ => layer(format, WebPDecoder::new(Cursor::new(file)).map_err(failed)?, size, limits),
    }
}

/// Reads all pixels and converts them to RGBA.
fn layer(format: Format, decoder: impl ImageDecoder, size: (u32, u32), limits: &Limits) -> Result<Vec<u8>, ImageError> {
    if decoder.dimensions() != size {
        return Err(format.corrupt("a frame has another size than it announces"));
    }
    let colour = decoder.color_type();
    let mut data = read(format, decoder, limits)?;
    if colour.bytes_per_pixel() > colour.channel_count() {
        data = data.as_chunks::<2>().0.iter().map(|pair| (u16::from_ne_bytes(*pair) >> 8) as u8).collect();
    }
    let pixels = data.chunks_exact(usize::from(colour.channel_count()));
    Ok(pixels
        .flat_map(|pixel| match *pixel {
            [grey] => [grey, grey, grey, 255],
            [grey, alpha] => [grey, grey, grey, alpha],
            [red, green, blue] => [red, green, blue, 255],
            [red, green, blue, alpha, ..] => [red, green, blue, alpha],
            [] => [0; 4],
        })
        .collect())
}

/// Reads all pixels and converts them to RGB. `clip` clips 16-bit grey at 255, like Pillow's mode `I;16`.
fn pixels(format: Format, decoder: impl ImageDecoder, limits: &Limits, clip: bool) -> Result<Rgb8, ImageError> {
    let (width, height) = decoder.dimensions();
    let colour = decoder.color_type();
    let data = read(format, decoder, limits)?;
    let data = match colour {
        ColorType::Rgb8 => data,
        ColorType::Rgba8 => {
            let mut data = data;
            drop_alpha(&mut data);
            data
        }
        ColorType::L8 => grey(data.iter().copied(), data.len()),
        ColorType::La8 => grey(data.iter().step_by(2).copied(), data.len() / 2),
        ColorType::L16 | ColorType::La16 => {
            let channels = usize::from(colour.channel_count());
            let byte = |pair: &[u8; 2]| match u16::from_ne_bytes(*pair) {
                sample if clip => sample.min(255) as u8,
                sample => (sample >> 8) as u8,
            };
            grey(data.as_chunks::<2>().0.iter().step_by(channels).map(byte), data.len() / 2 / channels)
        }
        ColorType::Rgb16 | ColorType::Rgba16 => {
            let mut data = data;
            let samples = data.len() / 2;
            for at in 0..samples {
                data[at] = (u16::from_ne_bytes([data[at * 2], data[at * 2 + 1]]) >> 8) as u8;
            }
            data.truncate(samples);
            if colour == ColorType::Rgba16 {
                drop_alpha(&mut data);
            }
            data
        }
        other => return Err(format.unsupported(format!("pixels of kind {other:?}"))),
    };
    Ok(Rgb8 { width, height, data })
}

fn grey(samples: impl Iterator<Item = u8>, pixels: usize) -> Vec<u8> {
    let mut data = vec![0; pixels * 3];
    for (pixel, sample) in data.as_chunks_mut::<3>().0.iter_mut().zip(samples) {
        *pixel = [sample; 3];
    }
    data
}
