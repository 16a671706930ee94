//! Colour conversion of TIFF samples to Pillow's pixels.

use super::directory::Directory;
use super::layout::{FORMAT, Layout};
use crate::image::contract::ImageError;

/// Conversion of one pixel's samples to RGB.
#[derive(Debug, Clone)]
pub(super) enum Colours {
    /// Grey of up to eight bits, scaled to 0..255.
    Grey {
        most: u32,
        inverted: bool,
    },
    /// Wider numbers, clipped at 0 and 255, like Pillow's modes `I;16` and `I`.
    Clipped,
    /// [`Self::Clipped`] for signed numbers of this many bits.
    ClippedSigned(u32),
    /// 32-bit floating point, clipped in the same way.
    Float,
    Palette(Box<[[u8; 3]; 256]>),
    /// 8 bits, or the high bytes of 16.
    Rgb {
        shift: u32,
    },
    /// RGB premultiplied by the fourth sample.
    Premultiplied {
        shift: u32,
    },
    Cmyk {
        shift: u32,
    },
    YCbCr,
}

/// `a * b / 255`, rounded.
fn scale(a: u32, b: u32) -> u32 {
    let product = a * b + 128;
    (product + (product >> 8)) >> 8
}

/// An entry of Pillow's tables: 6 fractional bits, rounded towards zero after adding a half.
fn chroma(value: u32, factor: f64) -> i32 {
    ((f64::from(value) - 128.0) * factor * 64.0 + 0.5) as i32
}

impl Colours {
    pub(super) fn new(directory: &Directory<'_>, layout: &Layout) -> Result<Self, ImageError> {
        let Layout { bits, samples, photometric, .. } = *layout;
        let extra = directory.list(338).map_or(0, |list| list.len());
        let alpha = directory.first(338);
        let base = usize::from(samples).saturating_sub(extra);
        let formats: Vec<u64> = directory.list(339).map_or(vec![1], |list| list.iter().take(9).collect());
        let format = if formats.iter().all(|format| *format == formats[0]) { formats[0] } else { 0 };
        // Too small a count would index past a pixel.
        if base == 0 {
            return Err(FORMAT.corrupt(format!("{extra} extra samples of {samples}")));
        }
        let shift = u32::from(bits.saturating_sub(8));
        let inverted = photometric == 0;
        Ok(match (photometric, format, bits) {
            (0 | 1, 1, 1 | 2 | 4 | 8) | (1, 2, 8) if base == 1 && alpha != Some(1) => {
                Self::Grey { most: (1 << bits) - 1, inverted }
            }
            (6, 1, 8) if base == 1 && extra == 0 => Self::Grey { most: 255, inverted: false },
            (1, 1, 12) | (0 | 1, 1, 16) if samples == 1 => Self::Clipped,
            (1, 2, 16) if samples == 1 => Self::ClippedSigned(16),
            (1, 1 | 2, 32) if samples == 1 => Self::ClippedSigned(32),
            (0 | 1, 3, 32) if samples == 1 => Self::Float,
            (2, 1, 8 | 16) if base == 3 && alpha == Some(1) => Self::Premultiplied { shift },
            (2, 1, 8 | 16) if base == 3 || base == 4 && extra == 0 => Self::Rgb { shift },
            (3, 1, 1 | 2 | 4 | 8) if base == 1 && alpha != Some(1) => Self::palette(directory, bits)?,
            (5, 1, 8 | 16) if base == 4 => Self::Cmyk { shift },
            (6, 1, 8) if base == 3 && extra == 0 => {
                let subsampled = directory.list(530).is_none_or(|list| list.iter().any(|factor| factor != 1));
                match layout.compression {
                    7 => Self::Rgb { shift: 0 },
                    1 if !subsampled => Self::YCbCr,
                    1 => return Err(FORMAT.unsupported("subsampled YCbCr colours outside JPEG")),
                    _ => return Err(FORMAT.unsupported("compressed YCbCr colours outside JPEG")),
                }
            }
            _ => return Err(unsupported(layout, extra, format)),
        })
    }

    fn palette(directory: &Directory<'_>, bits: u16) -> Result<Self, ImageError> {
        let colours = 1_usize << bits;
        let list = directory.list(320).ok_or_else(|| FORMAT.corrupt("a palette without colours"))?;
        if list.len() != colours * 3 {
            return Err(FORMAT.corrupt(format!("{} numbers for a palette of {colours} colours", list.len())));
        }
        let mut palette = Box::new([[0; 3]; 256]);
        for (at, number) in list.iter().enumerate() {
            palette[at % colours][at / colours] = (number >> 8) as u8;
        }
        Ok(Self::Palette(palette))
    }

    /// Colour of one pixel; `samples` must be at least as many as the colours need.
    pub(super) fn rgb(&self, samples: &[u32]) -> [u8; 3] {
        let clip = |number: i32| number.clamp(0, 255) as u8;
        match self {
            Self::Grey { most, inverted } => {
                let grey = (samples[0] * (255 / most)) as u8;
                [if *inverted { !grey } else { grey }; 3]
            }
            Self::Clipped => [samples[0].min(255) as u8; 3],
            Self::ClippedSigned(bits) => [clip((samples[0] << (32 - bits)) as i32 >> (32 - bits)); 3],
            // The cast truncates and saturates at 0 and 255.
            Self::Float => [f32::from_bits(samples[0]) as u8; 3],
            Self::Palette(palette) => palette[samples[0] as usize & 255],
            Self::Rgb { shift } => [0, 1, 2].map(|at| (samples[at] >> shift) as u8),
            Self::Premultiplied { shift } => {
                let alpha = samples[3] >> shift;
                [0, 1, 2].map(|at| match samples[at] >> shift {
                    _ if alpha == 0 => 0,
                    sample => (sample * 255 / alpha).min(255) as u8,
                })
            }
            Self::Cmyk { shift } => {
                let white = 255 - (samples[3] >> shift);
                [0, 1, 2].map(|at| white.saturating_sub(scale(samples[at] >> shift, white)) as u8)
            }
            Self::YCbCr => {
                let (y, cb, cr) = (samples[0] as i32, samples[1], samples[2]);
                [
                    clip(y + (chroma(cr, 1.402) >> 6)),
                    clip(y + ((chroma(cb, -0.34414) + chroma(cr, -0.71414)) >> 6)),
                    clip(y + (chroma(cb, 1.772) >> 6)),
                ]
            }
        }
    }
}

/// Error for unsupported samples, by kind.
fn unsupported(layout: &Layout, extra: usize, format: u64) -> ImageError {
    let colours = match layout.photometric {
        0 | 1 => "grey",
        2 => "RGB",
        3 => "palette",
        4 => return FORMAT.unsupported("a transparency mask without its picture"),
        5 => "CMYK",
        6 => "YCbCr",
        8..=10 => return FORMAT.unsupported("CIE L*a*b* colours"),
        32_803 => return FORMAT.unsupported("raw camera data (a colour filter array)"),
        34_892 => return FORMAT.unsupported("raw camera data (linear)"),
        32_844 | 32_845 => return FORMAT.unsupported("LogLuv colours"),
        other => return FORMAT.unsupported(format!("colours of kind {other}")),
    };
    let numbers = match format {
        1 => "unsigned",
        2 => "signed",
        3 => "floating-point",
        5 | 6 => "complex",
        _ => "mixed",
    };
    let Layout { bits, samples, .. } = layout;
    let with = if extra > 0 { format!(", {extra} of them extra") } else { String::new() };
    FORMAT.unsupported(format!("{colours} of {samples} {numbers} samples of {bits} bits{with}"))
}
