//! Image loading: from encoded bytes to BLIP's input pixels by bounded decoding, squashing and normalising.
//!
//! The reference is Hugging Face's processor with Pillow, so that an image gives the pixels that the checkpoints were
//! trained on: [`decode`] is `Image.open(..).convert('RGB')` (alpha dropped, not blended; EXIF rotation ignored except
//! in TIFF), [`Preprocessor::squash`] is Pillow's bicubic `resize`, [`Preprocessor::normalise_into`] rescales and
//! normalises. Unlike Pillow, an incomplete image is an error and is never padded with grey.
//!
//! Images are untrusted web data: no input panics here, and [`Limits`] are checked before memory is allocated.

mod animation;
mod apng;
mod array;
mod bmp;
mod codec;
mod contract;
mod decode;
mod gif;
mod info;
mod jpeg;
mod phash;
#[cfg(test)]
mod pillow;
mod pixels;
mod preprocess;
mod resample;
#[cfg(test)]
mod tests;
mod tiff;
mod webp;

pub(crate) use animation::{Animation, MOST_FRAMES, Player};
pub use array::binary_view;
pub use contract::{ImageError, Limits, MAX_SIDE};
pub use decode::{check, decode, load};
pub(crate) use info::stranger;
pub use info::{ImageInfo, info};
pub use phash::phash;
pub use pixels::Rgb8;
pub use preprocess::Preprocessor;
