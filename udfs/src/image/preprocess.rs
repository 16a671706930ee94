//! From a decoded picture to the vision encoder's input, as a checkpoint's `preprocessor_config.json` says.

use serde::Deserialize;
use serde_json::Value;

use super::{ImageError, Rgb8, resample};

/// Size and scale of the encoder's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Subtracted from each scaled channel: red, green, blue.
    pub mean: [f32; 3],
    /// Each channel is then divided by it.
    pub std: [f32; 3],
    /// What a byte is multiplied with first.
    pub rescale_factor: f32,
}

/// The keys that change a pixel. Absent ones are BLIP's.
#[derive(Deserialize)]
struct Config {
    size: Option<Value>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_center_crop: Option<bool>,
    do_pad: Option<bool>,
    resample: Option<Value>,
    rescale_factor: Option<f32>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// CLIP's, which BLIP took over.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Pillow's number for bicubic.
const BICUBIC: u64 = 3;

/// A side that no encoder has.
const MAX_INPUT: u64 = 8192;

impl Preprocessor {
    /// Reads Hugging Face's `preprocessor_config.json`: `size` as `{height, width}`, `{shortest_edge}` or a number, the
    /// last two meaning a square.
    ///
    /// # Errors
    /// Text that is no such JSON, a missing size, and whatever BLIP does not do: other filters, crops, pads, no resize.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let config: Config =
            serde_json::from_str(text).map_err(|error| format!("preprocessor_config.json: {error}"))?;
        if config.do_resize == Some(false) {
            return Err("do_resize = false is not supported: every image must have the encoder's size".into());
        }
        for (key, value) in [("do_center_crop", config.do_center_crop), ("do_pad", config.do_pad)] {
            if value == Some(true) {
                return Err(format!("{key} = true is not supported: BLIP squashes the whole image"));
            }
        }
        if let Some(resample) = config.resample.filter(|value| value.as_u64() != Some(BICUBIC) && !value.is_null()) {
            return Err(format!("resample = {resample} is not supported: only {BICUBIC} (bicubic)"));
        }
        let (width, height) = size(config.size.as_ref())?;
        // No scaling is scaling by one, and no normalising takes nothing away.
        let rescale_factor =
            if config.do_rescale == Some(false) { 1.0 } else { config.rescale_factor.unwrap_or(1.0 / 255.0) };
        let (mean, std) = match config.do_normalize {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (config.image_mean.unwrap_or(MEAN), config.image_std.unwrap_or(STD)),
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

    /// Bicubic with antialias, the whole picture to `width` x `height`, to the byte as Pillow: `height` rows of `width`
    /// pixels of three bytes.
    ///
    /// # Errors
    /// A picture whose data do not fit its size.
    pub fn squash(&self, image: &Rgb8) -> Result<Vec<u8>, ImageError> {
        let pixels = u64::from(image.width) * u64::from(image.height);
        if pixels == 0 || image.data.len() as u64 != pixels * 3 {
            let (width, height, bytes) = (image.width, image.height, image.data.len());
            return Err(ImageError::Resize(format!("{bytes} bytes for {width} x {height} pixels")));
        }
        Ok(resample::bicubic(&image.data, (image.width, image.height), (self.width, self.height)))
    }

    /// Writes the encoder's input: three planes (red, green, blue) of `height` rows of `width` floats,
    /// (byte * rescale_factor - mean) / std.
    ///
    /// # Panics
    /// Where `squashed` and `out` do not both have `width * height * 3` elements.
    pub fn normalise_into(&self, squashed: &[u8], out: &mut [f32]) {
        let plane = self.width as usize * self.height as usize;
        assert_eq!((squashed.len(), out.len()), (plane * 3, plane * 3), "pixels of another preprocessor");
        let table = |channel: usize| -> [f32; 256] {
            std::array::from_fn(|byte| (byte as f32 * self.rescale_factor - self.mean[channel]) / self.std[channel])
        };
        let (red, rest) = out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let tables = [table(0), table(1), table(2)];
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((r, g), b)) in squashed.as_chunks::<3>().0.iter().zip(planes) {
            *r = tables[0][usize::from(pixel[0])];
            *g = tables[1][usize::from(pixel[1])];
            *b = tables[2][usize::from(pixel[2])];
        }
    }
}

fn size(value: Option<&Value>) -> Result<(u32, u32), String> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Err("no size: expected {\"height\": .., \"width\": ..}".into());
    };
    let square = value.as_u64().or_else(|| value.get("shortest_edge")?.as_u64());
    let pair = value.get("width").and_then(Value::as_u64).zip(value.get("height").and_then(Value::as_u64));
    match pair.or(square.map(|side| (side, side))) {
        Some((width, height)) if (1..=MAX_INPUT).contains(&width) && (1..=MAX_INPUT).contains(&height) => {
            Ok((width as u32, height as u32))
        }
        _ => Err(format!("size = {value}: expected {{\"height\": .., \"width\": ..}}, each from 1 to {MAX_INPUT}")),
    }
}
