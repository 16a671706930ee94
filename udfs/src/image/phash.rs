//! Perceptual hashes.

use ::image::RgbImage;
use image_hasher::{HashAlg, HasherConfig};

use super::contract::{ImageError, Limits};
use super::decode::decode;

/// 64-bit perceptual hash: whether each low frequency (DCT) of a small grey copy is above their median.
///
/// # Errors
/// Those of [`decode`].
pub fn phash(bytes: &[u8], limits: &Limits) -> Result<i64, ImageError> {
    let rgb = decode(bytes, limits)?;
    let Some(picture) = RgbImage::from_raw(rgb.width, rgb.height, rgb.data) else { return Ok(0) };
    let hasher = HasherConfig::new().hash_size(8, 8).hash_alg(HashAlg::Median).preproc_dct().to_hasher();
    let hash = hasher.hash_image(&picture);
    Ok(hash.as_bytes().iter().fold(0, |bits, byte| bits << 8 | i64::from(*byte)))
}
