//! Augmentation of training images: random resized crop, flip and RandAugment, as in BLIP's data loader.

use capfilt_udfs::image::{ImageError, Preprocessor, Rgb8};
use rand_chacha::ChaCha8Rng;

use crate::random::{below, unit};

/// Augmentations applied to an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Augment {
    /// Minimum and maximum share of the image's area that a crop keeps.
    pub crop: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Whether BLIP's RandAugment is applied.
    pub randaugment: bool,
}

/// Minimum and maximum aspect ratio of a random crop, as in torchvision.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// Number of RandAugment operations per image, and the probability of each (`CHANCE`).
const OPERATIONS: usize = 2;
const CHANCE: f64 = 0.5;

/// Magnitudes at level 5 of 10, in each operation's own unit.
const SHEAR: f64 = 0.15;
const TRANSLATE: f64 = 5.0;
const DEGREES: f64 = 15.0;

/// Fill value for pixels from outside the image.
const GREY: f64 = 128.0;

/// Whether a text mentions left or right, so that a mirrored image would make it false.
pub fn speaks_of_sides(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_alphabetic());
    words.map(str::to_lowercase).any(|word| word.starts_with("left") || word.starts_with("right"))
}

impl Augment {
    /// No augmentation: the whole image, unchanged.
    pub const NONE: Self = Self { crop: [1.0, 1.0], flip: 0.0, randaugment: false };

    /// Returns the encoder's input as bytes: rows of RGB.
    ///
    /// # Errors
    /// Those of [`Preprocessor::squash`].
    pub fn apply(
        &self,
        image: &Rgb8,
        text: &str,
        preprocessor: &Preprocessor,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<u8>, ImageError> {
        let mut pixels = match self.crop {
            [1.0, 1.0] => preprocessor.squash(image)?,
            range => preprocessor.squash(&random_crop(image, range, rng))?,
        };
        let (width, height) = (preprocessor.width as usize, preprocessor.height as usize);
        // Drawn whatever the text says, so that the text does not change later draws.
        let flip = unit(rng) < self.flip;
        if flip && !speaks_of_sides(text) {
            for row in pixels.chunks_exact_mut(width * 3) {
                row.as_chunks_mut::<3>().0.reverse();
            }
        }
        if self.randaugment {
            for _ in 0..OPERATIONS {
                let (operation, done) = (below(10, rng), unit(rng) < CHANCE);
                let sign = if unit(rng) < 0.5 { -1.0 } else { 1.0 };
                if done {
                    pixels = operate(operation, sign, pixels, width, height);
                }
            }
        }
        Ok(pixels)
    }
}

/// torchvision's RandomResizedCrop, without its resize.
fn random_crop(image: &Rgb8, [least, most]: [f64; 2], rng: &mut ChaCha8Rng) -> Rgb8 {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    for _ in 0..10 {
        let area = width * height * (least + (most - least) * unit(rng));
        let (low, high) = (ASPECT.0.ln(), ASPECT.1.ln());
        let aspect = (low + (high - low) * unit(rng)).exp();
        let (w, h) = ((area * aspect).sqrt().round(), (area / aspect).sqrt().round());
        if w >= 1.0 && h >= 1.0 && w <= width && h <= height {
            let left = below((width - w) as usize + 1, rng);
            let top = below((height - h) as usize + 1, rng);
            return crop(image, left, top, w as usize, h as usize);
        }
    }
    // The image is too elongated for any aspect in range: crop its middle with the nearest one.
    let aspect = (width / height).clamp(ASPECT.0, ASPECT.1);
    let (w, h) = if width / height > aspect { (height * aspect, height) } else { (width, width / aspect) };
    let (w, h) = (w.round().clamp(1.0, width), h.round().clamp(1.0, height));
    crop(image, ((width - w) / 2.0) as usize, ((height - h) / 2.0) as usize, w as usize, h as usize)
}

fn crop(image: &Rgb8, left: usize, top: usize, width: usize, height: usize) -> Rgb8 {
    let rows = image.data.chunks_exact(image.width as usize * 3).skip(top).take(height);
    let data = rows.flat_map(|row| &row[left * 3..(left + width) * 3]).copied().collect();
    Rgb8 { width: width as u32, height: height as u32, data }
}

/// Applies the operation at this index of BLIP's list. Brightness and sharpness have a factor of 1 at level 5, so they
/// change nothing.
fn operate(operation: usize, sign: f64, mut pixels: Vec<u8>, width: usize, height: usize) -> Vec<u8> {
    let (centre_x, centre_y) = (width as f64 / 2.0, height as f64 / 2.0);
    match operation {
        1 => {
            by_channel(&mut pixels, autocontrast);
            pixels
        }
        4 => {
            by_channel(&mut pixels, equalize);
            pixels
        }
        5 => warp(&pixels, width, height, |x, y| (x + sign * SHEAR * y, y)),
        6 => warp(&pixels, width, height, |x, y| (x, y + sign * SHEAR * x)),
        7 => warp(&pixels, width, height, |x, y| (x + sign * TRANSLATE, y)),
        8 => warp(&pixels, width, height, |x, y| (x, y + sign * TRANSLATE)),
        9 => {
            let (sin, cos) = (sign * DEGREES).to_radians().sin_cos();
            warp(&pixels, width, height, |x, y| {
                let (dx, dy) = (x - centre_x, y - centre_y);
                (centre_x + cos * dx - sin * dy, centre_y + sin * dx + cos * dy)
            })
        }
        // Identity, brightness, sharpness.
        _ => pixels,
    }
}

/// Maps each channel's values through a table computed from the channel's histogram.
fn by_channel(pixels: &mut [u8], table: fn(&[usize; 256]) -> [u8; 256]) {
    for channel in 0..3 {
        let mut histogram = [0; 256];
        for pixel in pixels.as_chunks::<3>().0 {
            histogram[usize::from(pixel[channel])] += 1;
        }
        let table = table(&histogram);
        for pixel in pixels.as_chunks_mut::<3>().0 {
            pixel[channel] = table[usize::from(pixel[channel])];
        }
    }
}

const IDENTITY: fn(usize) -> u8 = |value| value as u8;

/// Pillow's `ImageOps.autocontrast`.
fn autocontrast(histogram: &[usize; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|n| *n > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|n| *n > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(IDENTITY);
    }
    let scale = 255.0 / (high - low) as f64;
    // In Pillow's order: a rounding error may fall below an integer, and the result is truncated.
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset).clamp(0.0, 255.0) as u8)
}

/// Pillow's `ImageOps.equalize`.
fn equalize(histogram: &[usize; 256]) -> [u8; 256] {
    let last = histogram.iter().rposition(|n| *n > 0).unwrap_or(0);
    let step = histogram[..last].iter().sum::<usize>() / 255;
    if step == 0 {
        return std::array::from_fn(IDENTITY);
    }
    let mut sum = step / 2;
    std::array::from_fn(|value| {
        let level = (sum / step).min(255) as u8;
        sum += histogram[value];
        level
    })
}

/// Computes each pixel by bilinear interpolation at `source(x, y)`, with grey outside the image.
fn warp(pixels: &[u8], width: usize, height: usize, source: impl Fn(f64, f64) -> (f64, f64)) -> Vec<u8> {
    let at = |x: f64, y: f64, channel: usize| -> f64 {
        let inside = x >= 0.0 && y >= 0.0 && x < width as f64 && y < height as f64;
        if inside { f64::from(pixels[(y as usize * width + x as usize) * 3 + channel]) } else { GREY }
    };
    let mut out = Vec::with_capacity(pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (x, y) = source(x as f64, y as f64);
            let (left, top) = (x.floor(), y.floor());
            let (right, low) = (x - left, y - top);
            for c in 0..3 {
                let upper = at(left, top, c) * (1.0 - right) + at(left + 1.0, top, c) * right;
                let lower = at(left, top + 1.0, c) * (1.0 - right) + at(left + 1.0, top + 1.0, c) * right;
                out.push((upper * (1.0 - low) + lower * low).round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};

    fn picture(width: u32, height: u32) -> Rgb8 {
        let data = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
        Rgb8 { width, height, data }
    }

    fn preprocessor(side: u32) -> Preprocessor {
        Preprocessor { width: side, height: side, mean: [0.0; 3], std: [1.0; 3], rescale_factor: 1.0 }
    }

    #[test]
    fn a_text_of_sides_is_never_mirrored() {
        for text in ["a cat on the LEFT", "the right-hand door", "leftmost, a tree"] {
            assert!(speaks_of_sides(text), "{text}");
        }
        for text in ["a bright cleft", "upright", ""] {
            assert!(!speaks_of_sides(text), "{text}");
        }
        let (image, flip) = (picture(8, 8), Augment { flip: 1.0, ..Augment::NONE });
        let apply = |text| flip.apply(&image, text, &preprocessor(8), &mut generator(1, 0, Purpose::Augment)).unwrap();
        assert_eq!(apply("a cat on the left"), image.data);
        let mirrored = apply("a cat");
        assert_eq!(mirrored[..3], image.data[21..24]);
        assert_ne!(mirrored, image.data);
    }

    #[test]
    fn crops_keep_their_share_and_stay_inside() {
        for step in 0..300 {
            let rng = &mut generator(2, step, Purpose::Augment);
            let image = picture(90, 60);
            let part = random_crop(&image, [0.2, 1.0], rng);
            let share = f64::from(part.width * part.height) / 5400.0;
            assert!((0.18..=1.0).contains(&share), "{part:?}");
            assert_eq!(part.data.len(), part.width as usize * part.height as usize * 3);
            // No crop of a strip has an aspect in range.
            let strip = random_crop(&picture(500, 3), [0.5, 1.0], rng);
            assert_eq!((strip.width, strip.height), (4, 3));
        }
        let whole = crop(&picture(4, 4), 1, 2, 2, 1);
        assert_eq!(whole.data, picture(4, 4).data[27..33]);
    }

    #[test]
    fn tables_are_pillows() {
        let mut histogram = [0; 256];
        for (value, n) in [(10, 300), (60, 500), (110, 200)] {
            histogram[value] = n;
        }
        let stretched = autocontrast(&histogram);
        assert_eq!((stretched[10], stretched[60], stretched[110], stretched[200]), (0, 127, 255, 255));
        // By hand: step 800 / 255 = 3, the sum starts at 1.
        let equal = equalize(&histogram);
        assert_eq!((equal[10], equal[60], equal[110]), (0, 100, 255));
        let mut one = [0; 256];
        one[7] = 1000;
        assert_eq!((autocontrast(&one)[7], equalize(&one)[7]), (7, 7));
    }

    #[test]
    fn operations_move_pixels() {
        let image = picture(16, 16);
        let run = |operation| operate(operation, 1.0, image.data.clone(), 16, 16);
        for identity in [0, 2, 3] {
            assert_eq!(run(identity), image.data);
        }
        let moved = run(7);
        assert_eq!(moved[..3], image.data[15..18], "five pixels to the left");
        assert_eq!(moved[16 * 3 - 3..16 * 3], [128; 3]);
        for other in [1, 4, 5, 6, 8, 9] {
            assert_ne!(run(other), image.data, "{other}");
            assert_eq!(run(other).len(), image.data.len());
        }
        // A rotation by 15 degrees leaves the centre unchanged.
        let middle = (8 * 16 + 8) * 3;
        assert_eq!(run(9)[middle..middle + 3], image.data[middle..middle + 3]);
    }
}
