//! What every format keeps to: its name, the limits on an image, and the reasons for refusing one.

/// Maximum side that is decoded, in pixels. The web's formats end at 65,535; only PNG and TIFF allow more, and a strip
/// one pixel wide would pass the pixel limit while its resampling coefficients took gigabytes.
pub const MAX_SIDE: u32 = 1 << 20;

/// Reason why an image cannot be used, worded for readers of the column `error`.
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
    /// More pixels than `capfilt.max_image_pixels` according to the header; nothing was decoded.
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
    /// A side longer than [`MAX_SIDE`].
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
    /// The bytes are not an image; the text says what they look like.
    #[error("not an image: {0}")]
    NotAnImage(String),
    /// An image in an unsupported format, such as AVIF.
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
    /// An unsupported variant of a supported format, such as an arithmetic-coded JPEG.
    #[error("unsupported {format}: {reason}")]
    Unsupported {
        /// `JPEG`, `PNG`, ..
        format: &'static str,
        /// The unsupported variant.
        reason: String,
    },
    /// Inconsistent sizes, so that the pixels cannot be resized. Never occurs for decoded images.
    #[error("cannot resize: {0}")]
    Resize(String),
}

/// Limits on the size of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Encoded bytes (`capfilt.max_image_bytes`).
    pub max_bytes: u64,
    /// Pixels of the decoded image (`capfilt.max_image_pixels`).
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 64 MiB, and the pixel count above which Pillow refuses an image as a decompression bomb.
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_pixels: 178_956_970 }
    }
}

impl Limits {
    /// Maximum memory to decode one image, in bytes: pixels included, encoded bytes (and at most one copy of them)
    /// excluded. 8 bytes a pixel suffice for every common variant at full size; 16 MiB cover costs independent of the
    /// image's size.
    pub fn memory(&self) -> u64 {
        self.max_pixels.saturating_mul(8).saturating_add(16 << 20)
    }

    pub(super) fn check_bytes(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let length = bytes.len() as u64;
        match length {
            0 => Err(ImageError::Empty),
            _ if length > self.max_bytes => Err(ImageError::TooManyBytes { bytes: length, limit: self.max_bytes }),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.max(height) > MAX_SIDE {
            return Err(ImageError::TooLong { width, height });
        }
        Ok(())
    }

    /// Checks a decoder's peak memory, in bytes.
    pub(super) fn check_memory(&self, format: Format, bytes: u64) -> Result<(), ImageError> {
        let limit = self.memory();
        if bytes > limit { Err(ImageError::TooMuchMemory { format: format.label(), limit }) } else { Ok(()) }
    }
}

/// Supported formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// Name in `image_info`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }

    /// Name in error messages.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }

    pub(super) fn truncated(self, reason: impl Into<String>) -> ImageError {
        ImageError::Truncated { format: self.label(), reason: reason.into() }
    }

    pub(super) fn corrupt(self, reason: impl Into<String>) -> ImageError {
        ImageError::Corrupt { format: self.label(), reason: reason.into() }
    }

    pub(super) fn unsupported(self, reason: impl Into<String>) -> ImageError {
        ImageError::Unsupported { format: self.label(), reason: reason.into() }
    }
}
