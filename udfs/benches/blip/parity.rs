//! Inputs and this crate's fp32 logits, which tests/bench/peers.py compares with transformers before it prints a ratio.

use std::collections::BTreeMap;
use std::path::Path;

use capfilt_udfs::blip::{Embedding, Precision};
use safetensors::tensor::{Dtype, TensorView};

use crate::Result;
use crate::checkpoint::{DEC, Normal, Pair};
use crate::model::random_text;

const IMAGES: usize = 2;

pub(crate) fn write(out: &Path, base: &Pair, large: &Pair, threads: usize) -> Result<()> {
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, pair) in [("base", base), ("large", large)] {
        let side = pair.shape.image_size;
        let mut random = Normal::new(4);
        // Pure noise averages out in cross-attention; so use a dark and a bright image, which must differ.
        let mut image = |light: f32| -> Vec<f32> { (0..3 * side * side).map(|_| light + random.draw()).collect() };
        let pixels = [image(-1.0), image(1.0)].concat();
        let prompt = [DEC, 1037, 3861, 1997];
        let texts = [random_text(&mut random), random_text(&mut random)];

        let captioner = pair.captioner(Precision::Fp32, threads)?;
        let images = captioner.encode_pixels(IMAGES, pixels.clone())?;
        let logits = captioner.first_logits(&images.iter().collect::<Vec<_>>(), &prompt)?;
        drop(captioner);
        let filter = pair.filter(Precision::Fp32, threads)?;
        let images: Vec<Embedding> = filter.encode_pixels(IMAGES, pixels.clone())?;
        let both: Vec<Vec<&[u32]>> = vec![texts.iter().map(Vec::as_slice).collect(); IMAGES];
        let itm = filter.match_logits(&images.iter().collect::<Vec<_>>(), &both)?;

        let mut floats = |key: &str, shape: &[usize], values: &[f32]| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.insert(format!("{name}.{key}"), (Dtype::F32, shape.into(), bytes));
        };
        floats("pixels", &[IMAGES, 3, side, side], &pixels);
        floats("decoder_logits", &[IMAGES, logits[0].len()], &logits.concat());
        floats("itm_logits", &[IMAGES, texts.len(), 2], &itm.concat().concat());
        let mut ids = |key: &str, shape: &[usize], values: &[u32]| {
            let bytes = values.iter().flat_map(|&v| i64::from(v).to_le_bytes()).collect();
            tensors.insert(format!("{name}.{key}"), (Dtype::I64, shape.into(), bytes));
        };
        ids("prompt", &[prompt.len()], &prompt);
        ids("texts", &[texts.len(), texts[0].len()], &texts.concat());
    }
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize_to_file(views, None, &out.join("parity.safetensors"))?)
}
