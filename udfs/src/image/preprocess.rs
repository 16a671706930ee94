//! Preprocessing of a decoded image for the vision encoder, configured by a checkpoint's `preprocessor_config.json`.

use serde::Deserialize;
use serde_json::Value;

use super::contract::ImageError;
use super::pixels::Rgb8;
use super::resample;
use crate::json::whole;

/// Size and normalisation of the encoder's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Mean of the scaled channels (red, green, blue), subtracted first.
    pub mean: [f32; 3],
    /// Standard deviation of the scaled channels (red, green, blue), the divisor.
    pub std: [f32; 3],
    /// Factor applied to each byte before normalisation.
    pub rescale_factor: f32,
}

/// Keys that affect pixels. Absent keys take BLIP's defaults.
#[derive(Deserialize)]
struct Config {
    size: Option<Value>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_center_crop: Option<bool>,
    do_pad: Option<bool>,
    crop_size: Option<Value>,
    pad_size: Option<Value>,
    resample: Option<Value>,
    rescale_factor: Option<f32>,
    image_mean: Option<Value>,
    image_std: Option<Value>,
}

/// CLIP's mean and standard deviation, which BLIP adopted.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Default width and height in transformers.
const SIZE: (u32, u32) = (384, 384);

/// Pillow's code of the bicubic filter.
const BICUBIC: u64 = 3;

/// Sanity limit on the encoder's input side, in pixels; no encoder reaches it.
const MAX_INPUT: u64 = 8192;

impl Preprocessor {
    /// Parses Hugging Face's `preprocessor_config.json`: `size` is `{height, width}`, `[height, width]`,
    /// `{shortest_edge}` or a number (both squares), by default 384 x 384 as in transformers.
    ///
    /// # Errors
    /// Invalid JSON, and steps that BLIP lacks: other filters, crops, padding, no resize.
    pub fn from_json(text: &str) -> Result<Self, String> {
        Self::from_value(serde_json::from_str(text).map_err(|error| format!("preprocessor_config.json: {error}"))?)
    }

    /// Variant of [`Preprocessor::from_json`] that also reads a part of another file.
    pub(crate) fn from_value(value: Value) -> Result<Self, String> {
        let config = Config::deserialize(value).map_err(|error| error.to_string())?;
        if config.do_resize == Some(false) {
            return Err("do_resize = false is not supported: every image must have the encoder's size".into());
        }
        let (width, height) =
            config.size.filter(|size| !size.is_null()).map_or(Ok(SIZE), |value| size("size", &value))?;
        // Salesforce's files inherit do_pad from ViLT. Without pad_size it pads to the largest image, and all have one
        // size.
        for (step, done, key, to) in [
            ("do_center_crop", config.do_center_crop, "crop_size", Some(config.crop_size.unwrap_or_default())),
            ("do_pad", config.do_pad, "pad_size", config.pad_size),
        ] {
            let Some(to) = to.filter(|_| done == Some(true)) else { continue };
            if size(key, &to)? != (width, height) {
                return Err(format!(
                    "{step} = true with {key} = {to} is not supported: BLIP squashes the whole image to {width} x {height}"
                ));
            }
        }
        if let Some(resample) = config.resample.filter(|value| whole(value) != Some(BICUBIC) && !value.is_null()) {
            return Err(format!("resample = {resample} is not supported: only {BICUBIC} (bicubic)"));
        }
        // do_rescale = false is a factor of 1; do_normalize = false is a mean of 0 and a deviation of 1.
        let rescale_factor =
            if config.do_rescale == Some(false) { 1.0 } else { config.rescale_factor.unwrap_or(1.0 / 255.0) };
        let (mean, std) = match config.do_normalize {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (channels("image_mean", config.image_mean, MEAN)?, channels("image_std", config.image_std, STD)?),
        };
        if std.iter().any(|value| !value.is_normal())
            || !rescale_factor.is_normal()
            || mean.iter().any(|value| !value.is_finite())
        {
            return Err(format!(
                "image_mean = {mean:?}, image_std = {std:?}, rescale_factor = {rescale_factor}: not usable"
            ));
        }
        Ok(Self { width, height, mean, std, rescale_factor })
    }

    /// Resizes the whole image to `width` x `height`, bicubic with antialiasing, byte for byte as Pillow: `height` rows
    /// of `width` pixels of three bytes.
    ///
    /// # Errors
    /// Image data whose length does not match its size.
    pub fn squash(&self, image: &Rgb8) -> Result<Vec<u8>, ImageError> {
        let pixels = u64::from(image.width) * u64::from(image.height);
        if pixels == 0 || image.data.len() as u64 != pixels * 3 {
            let (width, height, bytes) = (image.width, image.height, image.data.len());
            return Err(ImageError::Resize(format!("{bytes} bytes for {width} x {height} pixels")));
        }
        Ok(resample::bicubic(&image.data, (image.width, image.height), (self.width, self.height)))
    }

    /// The value of each byte of each channel, normalised.
    pub(crate) fn tables(&self) -> [[f32; 256]; 3] {
        let value =
            |channel: usize, byte: usize| (byte as f32 * self.rescale_factor - self.mean[channel]) / self.std[channel];
        std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte)))
    }

    /// Writes the encoder's input: three planes (red, green, blue) of `height` rows of `width` floats,
    /// (byte * rescale_factor - mean) / std.
    ///
    /// # Panics
    /// `squashed` or `out` does not have `width * height * 3` elements.
    pub fn normalise_into(&self, squashed: &[u8], out: &mut [f32]) {
        let plane = self.width as usize * self.height as usize;
        assert_eq!((squashed.len(), out.len()), (plane * 3, plane * 3), "pixels of another preprocessor");
        let (red, rest) = out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let tables = self.tables();
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((r, g), b)) in squashed.as_chunks::<3>().0.iter().zip(planes) {
            *r = tables[0][usize::from(pixel[0])];
            *g = tables[1][usize::from(pixel[1])];
            *b = tables[2][usize::from(pixel[2])];
        }
    }
}

/// Width and height from any accepted spelling of a size.
fn size(key: &str, value: &Value) -> Result<(u32, u32), String> {
    let square = whole(value).or_else(|| whole(value.get("shortest_edge")?));
    let named = |key| value.get(key).and_then(whole);
    let listed = match value.as_array().map(Vec::as_slice) {
        Some([height, width]) => whole(width).zip(whole(height)),
        _ => None,
    };
    let pair = named("width").zip(named("height")).or(listed).or(square.map(|side| (side, side)));
    match pair {
        Some((width, height)) if (1..=MAX_INPUT).contains(&width) && (1..=MAX_INPUT).contains(&height) => {
            Ok((width as u32, height as u32))
        }
        _ => Err(format!("{key} = {value}: expected {{\"height\": .., \"width\": ..}}, each from 1 to {MAX_INPUT}")),
    }
}

/// One number per channel; a single number applies to all three.
fn channels(key: &str, value: Option<Value>, default: [f32; 3]) -> Result<[f32; 3], String> {
    match value {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            let single = value.as_f64().map(|number| [number as f32; 3]);
            let each = || <[f32; 3]>::deserialize(&value).ok();
            single
                .or_else(each)
                .ok_or_else(|| format!("{key} = {value}: expected a number, or one for each of three channels"))
        }
    }
}
