//! Limits of what is read into memory.

/// Maximum size of an image file that is read, bytes: Arrow's views hold no more, and `capfilt.max_image_bytes` (64
/// MiB) reports larger images as too large.
pub const MOST_IMAGE_BYTES: u64 = u32::MAX as u64;

/// Error text for a file of more than `limit` bytes.
pub(crate) fn too_large(limit: u64) -> String {
    format!("larger than {limit} bytes (capfilt.max_image_bytes)")
}
