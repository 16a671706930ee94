//! From encoded bytes to the pixels that BLIP sees: decode with limits, squash, normalise.
//!
//! The reference is what Hugging Face's processor does with Pillow, so that a picture gives the pixels the checkpoints
//! were trained on: [`decode`] is `Image.open(..).convert('RGB')` (alpha dropped, not blended; EXIF rotation ignored but
//! in TIFF), [`Preprocessor::squash`] is Pillow's bicubic `resize`, and [`Preprocessor::normalise_into`] the rest.
//! Stricter than Pillow in one thing: a picture that is not all there is an error, never one with grey below.
//!
//! An image is data from the web: nothing here panics on bytes, and [`Limits`] hold before memory is taken.

mod bmp;
mod decode;
mod gif;
mod info;
mod jpeg;
mod phash;
#[cfg(test)]
mod pillow;
mod preprocess;
mod resample;
#[cfg(test)]
mod tests;
mod tiff;
mod webp;

pub use decode::{Rgb8, check, decode, load};
pub use info::{ImageInfo, info};
pub use phash::phash;
pub use preprocess::Preprocessor;

/// The longest side that is decoded. The web's formats end at 65,535; only PNG and TIFF go further, and there a strip
/// one pixel wide passes a limit on pixels while the filter's coefficients for it would take gigabytes.
pub const MAX_SIDE: u32 = 1 << 20;

/// Why an image cannot be used, in words for the person who reads the column `error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("empty")]
    Empty,
    /// More encoded bytes than `capfilt.max_image_bytes`.
    #[error("{bytes} bytes, above capfilt.max_image_bytes = {limit}")]
    TooManyBytes {
        /// Bytes of the encoded image.
        bytes: u64,
        /// The setting.
        limit: u64,
    },
    /// More pixels than `capfilt.max_image_pixels`, by the header: nothing was decoded.
    #[error(
        "image is {width} x {height} = {} pixels, above capfilt.max_image_pixels = {limit}",
        u64::from(*width) * u64::from(*height)
    )]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The setting.
        limit: u64,
    },
    /// A side above [`MAX_SIDE`].
    #[error("image is {width} x {height}, a side above {MAX_SIDE} pixels")]
    TooLong {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Decoding would take more memory than [`Limits::memory`] allows.
    #[error("decoding the {format} takes more than the {limit} bytes that capfilt.max_image_pixels allows")]
    TooMuchMemory {
        /// `JPEG`, `PNG`, ..
        format: &'static str,
        /// Bytes allowed.
        limit: u64,
    },
    /// Bytes of something else: what they look like.
    #[error("not an image: {0}")]
    NotAnImage(String),
    /// An image, but of a format that is not read here, such as AVIF.
    #[error("unsupported image format: {0}")]
    UnsupportedFormat(&'static str),
    /// The bytes end before the image does.
    #[error("truncated {format}: {reason}")]
    Truncated {
        /// `JPEG`, `PNG`, ..
        format: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The bytes contradict the format or a checksum.
    #[error("corrupt {format}: {reason}")]
    Corrupt {
        /// `JPEG`, `PNG`, ..
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A kind of this format that is not read here, such as an arithmetic-coded JPEG.
    #[error("unsupported {format}: {reason}")]
    Unsupported {
        /// `JPEG`, `PNG`, ..
        format: &'static str,
        /// Which kind.
        reason: String,
    },
    /// Pixels that cannot be resized: sizes that contradict each other. Decoded images never give this.
    #[error("cannot resize: {0}")]
    Resize(String),
}

/// What one image may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Encoded bytes (`capfilt.max_image_bytes`).
    pub max_bytes: u64,
    /// Pixels of the decoded image (`capfilt.max_image_pixels`).
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 64 MiB, and the pixels at which Pillow speaks of a decompression bomb and refuses.
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_pixels: 178_956_970 }
    }
}

impl Limits {
    /// Bytes that decoding one image may take, its pixels among them and the encoded bytes (with at most one copy) not:
    /// 8 a pixel, enough for every common kind at the full size, and 16 MiB for what does not grow with the picture.
    pub fn memory(&self) -> u64 {
        self.max_pixels.saturating_mul(8).saturating_add(16 << 20)
    }

    fn check_bytes(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let length = bytes.len() as u64;
        match length {
            0 => Err(ImageError::Empty),
            _ if length > self.max_bytes => Err(ImageError::TooManyBytes { bytes: length, limit: self.max_bytes }),
            _ => Ok(()),
        }
    }

    fn check_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.max(height) > MAX_SIDE {
            return Err(ImageError::TooLong { width, height });
        }
        Ok(())
    }

    /// `bytes` is all that a decoder will hold at once.
    fn check_memory(&self, format: Format, bytes: u64) -> Result<(), ImageError> {
        let limit = self.memory();
        if bytes > limit { Err(ImageError::TooMuchMemory { format: format.label(), limit }) } else { Ok(()) }
    }
}

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// As `image_info` spells it.
    fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }

    /// As a message spells it.
    fn label(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }

    fn truncated(self, reason: impl Into<String>) -> ImageError {
        ImageError::Truncated { format: self.label(), reason: reason.into() }
    }

    fn corrupt(self, reason: impl Into<String>) -> ImageError {
        ImageError::Corrupt { format: self.label(), reason: reason.into() }
    }

    fn unsupported(self, reason: impl Into<String>) -> ImageError {
        ImageError::Unsupported { format: self.label(), reason: reason.into() }
    }
}
