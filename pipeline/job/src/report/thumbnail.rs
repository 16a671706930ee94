//! Thumbnails as data URIs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capfilt_udfs::image::{Limits, decode};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};

/// Maximum side length in pixels.
const SIDE: u32 = 256;
const QUALITY: u8 = 80;
/// A job's default image limits, so that the page shows what the job could use.
const LIMITS: Limits = Limits { max_bytes: 64 << 20, max_pixels: 178_956_970 };

/// Encodes a JPEG of at most [`SIDE`] pixels a side; `None` if the image cannot be decoded.
pub(crate) fn data_uri(bytes: &[u8]) -> Option<String> {
    let rgb = decode(bytes, &LIMITS).ok()?;
    let picture = DynamicImage::ImageRgb8(RgbImage::from_raw(rgb.width, rgb.height, rgb.data)?);
    let small = if picture.width().max(picture.height()) > SIDE {
        picture.resize(SIDE, SIDE, FilterType::Triangle)
    } else {
        picture
    };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&small).ok()?;
    Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_small_and_a_broken_one_is_none() {
        let mut png = Vec::new();
        let picture = RgbImage::from_fn(1000, 300, |x, y| image::Rgb([x as u8, y as u8, 7]));
        picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let uri = data_uri(&png).unwrap();
        let jpeg = STANDARD.decode(uri.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
        let small = decode(&jpeg, &LIMITS).unwrap();
        assert_eq!((small.width, small.height), (256, 77));
        assert_eq!(data_uri(&png[..50]), None);
    }
}
