//! TIFF: checked before the decoder sees it.

use image::{ImageDecoder, Limits as DecoderLimits, codecs::tiff::TiffDecoder};
use std::io::Cursor;

use super::{Format, ImageError, Limits, Rgb8, decode};

const FORMAT: Format = Format::Tiff;

/// The decoder of the first picture, its header read. The decoder takes memory for a list of any length that a
/// directory announces (256 MB for a file of a few bytes), so the lists must lie within the file first.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<TiffDecoder<Cursor<&'a [u8]>>, ImageError> {
    let ends_early = || FORMAT.truncated("it ends within its directory");
    match lists_fit(bytes) {
        None => Err(ends_early()),
        Some(false) => Err(FORMAT.truncated("its directory points past its end")),
        Some(true) => TiffDecoder::new(Cursor::new(bytes)).map_err(|error| decode::error(FORMAT, limits, error)),
    }
}

/// Whether each list of the first directory lies within the file; `None` where the directory itself does not.
fn lists_fit(bytes: &[u8]) -> Option<bool> {
    let little = bytes.first() == Some(&b'I');
    let number = |at: u64, size: u64| -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let digits = bytes.get(at..at.checked_add(size as usize)?)?;
        let push = |number: u64, digit: &u8| number << 8 | u64::from(*digit);
        Some(if little { digits.iter().rev().fold(0, push) } else { digits.iter().fold(0, push) })
    };
    // BigTIFF is the same with longer numbers.
    let (start, counter, word) = if number(2, 2)? == 43 { (number(8, 8)?, 8, 8) } else { (number(4, 4)?, 2, 4) };
    let mut at = start.checked_add(counter)?;
    for _ in 0..number(start, counter)? {
        let size = match number(at.checked_add(2)?, 2)? {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            _ => 0,
        };
        let length = number(at + 4, word)?.saturating_mul(size);
        let value = number(at + 4 + word, word)?;
        if length > word && value.saturating_add(length) > bytes.len() as u64 {
            return Some(false);
        }
        at = at.checked_add(4 + 2 * word)?;
    }
    Some(true)
}

/// The first picture. Sixteen bits of grey are clipped, as Pillow does with its mode `I;16`.
pub(super) fn first_picture(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let mut decoder = open(bytes, limits)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    // The decoder fills a buffer of its own, with four channels for CMYK's three, and copies from it.
    limits.check_memory(FORMAT, decoder.total_bytes().saturating_mul(7) / 3)?;
    let mut decoder_limits = DecoderLimits::no_limits();
    decoder_limits.max_alloc = Some(limits.memory());
    decoder.set_limits(decoder_limits).map_err(|error| decode::error(FORMAT, limits, error))?;
    decode::pixels(FORMAT, decoder, limits, true)
}
