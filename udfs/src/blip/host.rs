//! Runs of a checkpoint whose inputs and outputs are in the host's memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::value::TensorRef;

use super::med::Embedding;
use super::session::{OrtMed, Part};
use super::values::{CrossKv, floats, inputs, internal, ints, tensor};
use crate::error::{Error, Result};

/// Index of an image in a batch, and indices of some of its texts.
type ImageTexts = (usize, Vec<usize>);

impl OrtMed {
    /// Encodes normalised pixels `[count, 3, size, size]`.
    pub(super) fn encode_pixels_here(&self, pixels: &[f32]) -> Result<Vec<Embedding>> {
        let vision = &self.checkpoint.config.vision;
        let each = 3 * vision.image_size.pow(2);
        // A larger run exceeds the caches: at BLIP-base's size an image in a batch of 1 took 10 % less time than in a
        // batch of 8 in fp32, 13 % in int8 (2 cores, AVX2). Small models still run several images at once.
        let most = (1024 / vision.tokens()).max(1);
        let mut embeddings = Vec::with_capacity(pixels.len() / each);
        for run in pixels.chunks(most * each) {
            let shape = [run.len() / each, 3, vision.image_size, vision.image_size];
            let pixels = TensorRef::from_array_view((shape.to_vec(), run)).map_err(internal)?;
            let outputs = self.run(Part::Vision, vec![("pixels".into(), pixels.into())])?;
            let values = floats(&outputs[0])?;
            let images = values.chunks_exact(vision.tokens() * vision.width);
            embeddings.extend(images.map(|image| Embedding::Host(image.into())));
        }
        Ok(embeddings)
    }

    /// Unit-length image embeddings.
    pub(super) fn project_here(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>> {
        let width = self.checkpoint.config.vision.width;
        let mut class = Vec::with_capacity(images.len() * width);
        for image in images {
            class.extend_from_slice(&on_host(image)?[..width]);
        }
        let class = tensor(&[images.len(), width], class)?;
        let outputs = self.run(Part::ImageProjection, vec![("class_token".into(), class.into())])?;
        self.unit_vectors(&outputs[0])
    }

    /// Cross-attention keys and values for a batch of images.
    pub(super) fn cross_kv(&self, part: Part, images: &[&Embedding]) -> Result<CrossKv> {
        let config = &self.checkpoint.config;
        let shape = [images.len(), config.vision.tokens(), config.vision.width];
        let mut joined = Vec::with_capacity(shape.iter().product());
        for image in images {
            joined.extend_from_slice(on_host(image)?);
        }
        let image = tensor(&shape, joined)?;
        let values = self.run(part, vec![("image".into(), image.into())])?;
        Ok(CrossKv { values, images: images.len() })
    }

    /// ITM logits `[no match, match]` for each image's texts, which must be of equal length and number.
    fn match_group(&self, kv: &CrossKv, images: &[usize], texts: &[&[u32]], bucket: usize) -> Result<Vec<[f32; 2]>> {
        let (n, k, width) = (texts.len(), texts.len() / images.len(), self.checkpoint.config.text.width);
        let mut inputs = inputs(self.text_inputs(texts, bucket)?);
        inputs.push(("queries".into(), ints(&[images.len(), k * bucket, width])?.into()));
        inputs.push(("rows".into(), ints(&[n, bucket, width])?.into()));
        let taken;
        let (kv, first) = if images.windows(2).all(|w| w[1] == w[0] + 1) {
            (kv, images[0])
        } else {
            taken = kv.take(images)?;
            (&taken, 0)
        };
        kv.push_inputs(first, images.len(), &mut inputs)?;
        let outputs = self.run(Part::Match, inputs)?;
        Ok(floats(&outputs[0])?.chunks_exact(2).map(|l| [l[0], l[1]]).collect())
    }

    /// ITM logits `[no match, match]` of each image's texts.
    pub(super) fn match_logits_here(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<[f32; 2]>>> {
        /// Maximum number of texts of one image per run; more take several runs.
        const MOST: usize = 16;
        let kv = self.cross_kv(Part::EncoderKv, images)?;
        // (bucket, number of texts) -> image and its texts of that bucket.
        let mut groups: BTreeMap<(usize, usize), Vec<ImageTexts>> = BTreeMap::new();
        for (image, texts) in texts.iter().enumerate() {
            let mut by_bucket: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (i, text) in texts.iter().enumerate() {
                by_bucket.entry(self.bucket(text)).or_default().push(i);
            }
            for (bucket, indices) in by_bucket {
                for chunk in indices.chunks(MOST) {
                    groups.entry((bucket, chunk.len())).or_default().push((image, chunk.to_vec()));
                }
            }
        }
        let mut logits: Vec<Vec<[f32; 2]>> = texts.iter().map(|t| vec![[0.0; 2]; t.len()]).collect();
        for ((bucket, _), members) in groups {
            // An image with more than MOST texts of a bucket occurs several times; a run takes it once.
            let mut rounds: Vec<Vec<&ImageTexts>> = vec![];
            for member in &members {
                match rounds.iter_mut().find(|r| r.last().is_none_or(|m| m.0 < member.0)) {
                    Some(round) => round.push(member),
                    None => rounds.push(vec![member]),
                }
            }
            for round in rounds {
                let run_images: Vec<usize> = round.iter().map(|m| m.0).collect();
                let run_texts: Vec<&[u32]> = round.iter().flat_map(|m| m.1.iter().map(|&i| texts[m.0][i])).collect();
                let mut results = self.match_group(&kv, &run_images, &run_texts, bucket)?.into_iter();
                for (image, indices) in round {
                    for (&i, result) in indices.iter().zip(&mut results) {
                        logits[*image][i] = result;
                    }
                }
            }
        }
        Ok(logits)
    }
}

fn on_host(image: &Embedding) -> Result<&[f32]> {
    image.host().ok_or_else(|| Error::Internal("an image of another device came to the CPU".into()))
}
