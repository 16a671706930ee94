//! Decoded pixels.

/// A decoded RGB image.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `height` rows of `width` pixels of three bytes, red first.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Rgb8 {
    /// Prints only the size, not the pixels.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8 {{ {} x {} }}", self.width, self.height)
    }
}
