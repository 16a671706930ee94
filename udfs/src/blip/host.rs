//! Runs of a checkpoint whose inputs and outputs are in the host's memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::value::{DynValue, TensorRef};

use super::graph::Source;
use super::med::Embedding;
use super::session::{OrtMed, Part};
use super::values::{CrossKv, Named, floats, inputs, internal, ints, tensor};
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

    /// Tokens that a part's cross-attention reads of an image, or of a question, with its padding. They depend only on the
    /// question, so that a batch cannot change the order of summation.
    pub(super) fn source_tokens(&self, part: Part, source: &Embedding) -> usize {
        match self.source(part) {
            Source::Image => self.checkpoint.config.vision.tokens(),
            Source::Question => {
                let width = Source::Question.width(&self.checkpoint.config.text);
                self.padded(source.host().map_or(0, |states| states.len() / width))
            }
        }
    }

    /// Indices of what the decoder reads, in groups of equal [`Self::source_tokens`].
    pub(super) fn by_source_tokens(&self, sources: &[&Embedding]) -> impl Iterator<Item = Vec<usize>> + use<> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, source) in sources.iter().enumerate() {
            groups.entry(self.source_tokens(Part::DecoderKv, source)).or_default().push(i);
        }
        groups.into_values()
    }

    /// Cross-attention keys and values for a batch of images, or of questions with equal [`Self::source_tokens`].
    pub(super) fn cross_kv(&self, part: Part, images: &[&Embedding]) -> Result<CrossKv> {
        let (source, width) = (self.source(part), self.source(part).width(&self.checkpoint.config.text));
        let tokens = images.first().map_or(0, |image| self.source_tokens(part, image));
        let mut joined = Vec::with_capacity(images.len() * tokens * width);
        let mut mask = Vec::new();
        for (i, image) in (1..).zip(images) {
            let values = on_host(image)?;
            joined.extend_from_slice(values);
            joined.resize(i * tokens * width, 0.0);
            if source == Source::Question {
                mask.extend((0..tokens).map(|token| i32::from(token < values.len() / width)));
            }
        }
        let image = tensor(&[images.len(), tokens, width], joined)?;
        let values = self.run(part, vec![("image".into(), image.into())])?;
        Ok(CrossKv { values, images: images.len(), mask: (source == Source::Question).then_some(mask) })
    }

    /// Runs a part over texts that are padded to `bucket` tokens, equally many for each of `images`, whose keys and values
    /// are among `kv`.
    pub(super) fn run_texts(
        &self,
        part: Part,
        kv: &CrossKv,
        images: &[usize],
        (texts, bucket): (Named, usize),
        rows: usize,
    ) -> Result<Vec<DynValue>> {
        let (n, k, width) = (rows, rows / images.len(), self.checkpoint.config.text.width);
        let mut inputs = inputs(texts);
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
        self.run(part, inputs)
    }

    /// ITM logits `[no match, match]` of each image's texts.
    pub(super) fn match_logits_here(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<[f32; 2]>>> {
        let kv = self.cross_kv(Part::EncoderKv, images)?;
        self.in_groups(texts, usize::MAX, |images, texts, bucket| {
            let inputs = (self.text_inputs(texts, bucket)?, bucket);
            let outputs = self.run_texts(Part::Match, &kv, images, inputs, texts.len())?;
            Ok(floats(&outputs[0])?.chunks_exact(2).map(|l| [l[0], l[1]]).collect())
        })
    }

    /// Runs each image's texts in groups: those of a run have one padded length, and each image in it has equally many, at
    /// most `most_tokens` together or one. Returns the results of `run` for each text.
    pub(super) fn in_groups<T: Clone>(
        &self,
        texts: &[Vec<&[u32]>],
        most_tokens: usize,
        mut run: impl FnMut(&[usize], &[&[u32]], usize) -> Result<Vec<T>>,
    ) -> Result<Vec<Vec<T>>> {
        /// Maximum number of texts of one image per run; more take several runs.
        const MOST: usize = 16;
        let most_rows = |bucket: usize| (most_tokens / bucket.max(1)).max(1);
        // (bucket, number of texts) -> image and its texts of that bucket.
        let mut groups: BTreeMap<(usize, usize), Vec<ImageTexts>> = BTreeMap::new();
        for (image, texts) in texts.iter().enumerate() {
            let mut by_bucket: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (i, text) in texts.iter().enumerate() {
                by_bucket.entry(self.bucket(text)).or_default().push(i);
            }
            for (bucket, indices) in by_bucket {
                for chunk in indices.chunks(MOST.min(most_rows(bucket))) {
                    groups.entry((bucket, chunk.len())).or_default().push((image, chunk.to_vec()));
                }
            }
        }
        let mut found: Vec<Vec<Option<T>>> = texts.iter().map(|t| vec![None; t.len()]).collect();
        for ((bucket, each), members) in groups {
            // An image with more than MOST texts of a bucket occurs several times; a run takes it once.
            let mut rounds: Vec<Vec<&ImageTexts>> = vec![];
            let most_images = (most_rows(bucket) / each).max(1);
            for member in &members {
                let has_room =
                    |r: &&mut Vec<&ImageTexts>| r.len() < most_images && r.last().is_none_or(|m| m.0 < member.0);
                match rounds.iter_mut().find(has_room) {
                    Some(round) => round.push(member),
                    None => rounds.push(vec![member]),
                }
            }
            for round in rounds {
                let run_images: Vec<usize> = round.iter().map(|m| m.0).collect();
                let run_texts: Vec<&[u32]> = round.iter().flat_map(|m| m.1.iter().map(|&i| texts[m.0][i])).collect();
                let mut results = run(&run_images, &run_texts, bucket)?.into_iter();
                for (image, indices) in round {
                    for (&i, result) in indices.iter().zip(&mut results) {
                        found[*image][i] = Some(result);
                    }
                }
            }
        }
        let found = found.into_iter().map(|of| of.into_iter().collect::<Option<Vec<T>>>());
        found.collect::<Option<_>>().ok_or_else(|| Error::Internal("a text got no result".into()))
    }
}

fn on_host(image: &Embedding) -> Result<&[f32]> {
    image.host().ok_or_else(|| Error::Internal("an image of another device came to the CPU".into()))
}
