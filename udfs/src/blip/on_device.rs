//! Runs of a checkpoint on a device apart from the host, where images, keys and values stay.
//!
//! Every run has the same number of images, of which the last repeat the first, and one text for each. So a result
//! depends on shapes that are fixed, and not on its neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::graph::{self, Source};
use super::med::Embedding;
use super::resident::{Crossed, Feed, Feeds, Resident};
use super::session::{OrtMed, Part};
use super::values::{Named, floats, ints, tensor, tensor_i32, tensor_u8};
use crate::error::{Error, Result};

impl OrtMed {
    /// Encodes images of `3 * size * size` bytes.
    pub(super) fn encode_there(&self, images: &[&[u8]], run: usize) -> Result<Vec<Embedding>> {
        let size = self.checkpoint.config.vision.image_size;
        let mut embeddings = Vec::with_capacity(images.len());
        for images in images.chunks(run) {
            let each = size * size * 3;
            if images.iter().any(|image| image.len() != each) {
                return Err(Error::Internal("pixels of another preprocessor".into()));
            }
            let mut bytes = images.concat();
            bytes.resize(run * each, 0);
            let bytes = Feed::Host(tensor_u8(&[run, size, size, 3], bytes)?);
            let pixels = self.run_there(Part::Pixels, vec![("bytes".into(), bytes)], &[])?;
            let pixels = pixels.resident.first().map(Feed::Resident);
            let pixels = pixels.ok_or_else(|| Error::Internal("no pixels".into()))?;
            embeddings.extend(self.encode_run_there(pixels, images.len())?);
        }
        Ok(embeddings)
    }

    /// Encodes normalised pixels `[count, 3, size, size]`.
    pub(super) fn encode_pixels_there(&self, pixels: &[f32], run: usize) -> Result<Vec<Embedding>> {
        let size = self.checkpoint.config.vision.image_size;
        let each = 3 * size * size;
        let mut embeddings = Vec::with_capacity(pixels.len() / each);
        for pixels in pixels.chunks(run * each) {
            let mut padded = pixels.to_vec();
            padded.resize(run * each, 0.0);
            let padded = Feed::Host(tensor(&[run, 3, size, size], padded)?);
            embeddings.extend(self.encode_run_there(padded, pixels.len() / each)?);
        }
        Ok(embeddings)
    }

    fn encode_run_there(&self, pixels: Feed<'_>, count: usize) -> Result<impl Iterator<Item = Embedding>> {
        let images = self.run_there(Part::Vision, vec![("pixels".into(), pixels)], &[])?.resident;
        Ok(images.into_iter().take(count).map(|image| Embedding::Device(Arc::new(image))))
    }

    /// At most a run's images, and the first again in the place of those that lack.
    fn image_feeds<'v>(&self, images: &[&'v Embedding], run: usize) -> Result<Feeds<'v>> {
        let image = |i: usize| images.get(i).or(images.first());
        let feed = |i: usize| match image(i) {
            Some(Embedding::Device(tensor)) => Ok((graph::image_name(i).into(), Feed::Resident(tensor))),
            _ => Err(Error::Internal(format!("an image is not on {}", self.device_name))),
        };
        (0..run).map(feed).collect()
    }

    /// Cross-attention keys and values of at most a run's images, or questions with equal `source_tokens`.
    pub(super) fn cross_kv_there(&self, part: Part, images: &[&Embedding], run: usize) -> Result<CrossThere> {
        let values = self.run_there(part, self.image_feeds(images, run)?, &[])?.resident;
        if self.source(part) == Source::Image {
            return Ok(CrossThere { values, mask: None });
        }
        let padded = images.first().map_or(0, |image| self.source_tokens(part, image));
        let tokens = |i: usize| match images.get(i).or(images.first()) {
            Some(Embedding::Device(states)) => states.tokens().ok_or_else(|| Error::Internal("no question".into())),
            _ => Err(Error::Internal(format!("a question is not on {}", self.device_name))),
        };
        let mut mask = Vec::with_capacity(run * padded);
        for i in 0..run {
            let tokens = tokens(i)?;
            mask.extend((0..padded).map(|token| i32::from(token < tokens)));
        }
        Ok(CrossThere { values, mask: Some((run, mask)) })
    }

    /// Unit-length image embeddings.
    pub(super) fn project_there(&self, images: &[&Embedding], run: usize) -> Result<Vec<Arc<[f32]>>> {
        let mut vectors = Vec::with_capacity(images.len());
        for images in images.chunks(run) {
            let outputs = self.run_there(Part::ImageProjection, self.image_feeds(images, run)?, &["embedding"])?;
            vectors.extend(self.unit_vectors(&outputs.host[0])?.into_iter().take(images.len()));
        }
        Ok(vectors)
    }

    /// Unit-length embeddings of texts that are padded to `bucket` tokens.
    pub(super) fn encode_texts_there(&self, texts: &[&[u32]], bucket: usize, run: usize) -> Result<Vec<Arc<[f32]>>> {
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(run) {
            let mut padded = texts.to_vec();
            padded.resize(run, texts[0]);
            let feeds = host_feeds(self.text_inputs(&padded, bucket)?);
            let outputs = self.run_there(Part::Text, feeds, &["embedding"])?;
            vectors.extend(self.unit_vectors(&outputs.host[0])?.into_iter().take(texts.len()));
        }
        Ok(vectors)
    }

    /// ITM logits `[no match, match]` of each image's texts.
    pub(super) fn match_logits_there(
        &self,
        images: &[&Embedding],
        texts: &[Vec<&[u32]>],
        run: usize,
    ) -> Result<Vec<Vec<[f32; 2]>>> {
        self.in_rounds(Part::EncoderKv, images, texts, run, |kv, texts, bucket| {
            let feeds = self.text_feeds(kv, (self.text_inputs(texts, bucket)?, bucket), run)?;
            let outputs = self.run_there(Part::Match, feeds, &["logits"])?;
            Ok(floats(&outputs.host[0])?.chunks_exact(2).map(|l| [l[0], l[1]]).collect())
        })
    }

    /// Runs texts that are padded to one length, one for each image of a run, until each image's texts are done.
    /// `keys` makes the images' keys and values, and `round` returns a result for each image. Returns those of each text.
    pub(super) fn in_rounds<T>(
        &self,
        keys: Part,
        images: &[&Embedding],
        texts: &[Vec<&[u32]>],
        run: usize,
        mut round: impl FnMut(&CrossThere, &[&[u32]], usize) -> Result<Vec<T>>,
    ) -> Result<Vec<Vec<T>>> {
        let mut found: Vec<Vec<Option<T>>> = texts.iter().map(|texts| texts.iter().map(|_| None).collect()).collect();
        for group in self.by_source_tokens(keys, images) {
            for group in group.chunks(run) {
                // (bucket, place among the image's texts of that bucket) -> images of the run and texts.
                let mut rounds: BTreeMap<(usize, usize), Vec<(usize, usize)>> = BTreeMap::new();
                for (image, &place) in group.iter().enumerate() {
                    let mut places: BTreeMap<usize, usize> = BTreeMap::new();
                    for (i, text) in texts[place].iter().enumerate() {
                        let bucket = self.bucket(text);
                        let place = places.entry(bucket).or_default();
                        rounds.entry((bucket, *place)).or_default().push((image, i));
                        *place += 1;
                    }
                }
                if rounds.is_empty() {
                    continue;
                }
                let own: Vec<&Embedding> = group.iter().map(|&place| images[place]).collect();
                let kv = self.cross_kv_there(keys, &own, run)?;
                for ((bucket, _), members) in rounds {
                    let filler = [self.checkpoint.tokenizer.pad()];
                    let mut row: Vec<&[u32]> = vec![&filler; run];
                    members.iter().for_each(|&(image, i)| row[image] = texts[group[image]][i]);
                    let mut results: Vec<Option<T>> = round(&kv, &row, bucket)?.into_iter().map(Some).collect();
                    for (image, i) in members {
                        found[group[image]][i] = results.get_mut(image).and_then(Option::take);
                    }
                }
            }
        }
        let found = found.into_iter().map(|of| of.into_iter().collect::<Option<Vec<T>>>());
        found.collect::<Option<_>>().ok_or_else(|| Error::Internal("a text got no result".into()))
    }

    /// Inputs of a part over texts that are padded to `bucket` tokens, one for each of a run's images.
    pub(super) fn text_feeds<'v>(
        &self,
        kv: &'v CrossThere,
        (texts, bucket): (Named, usize),
        run: usize,
    ) -> Result<Feeds<'v>> {
        let shape = [run, bucket, self.checkpoint.config.text.width];
        let mut feeds: Feeds<'v> = host_feeds(texts);
        feeds.push(("queries".into(), Feed::Host(ints(&shape)?)));
        feeds.push(("rows".into(), Feed::Host(ints(&shape)?)));
        kv.push(&mut feeds)?;
        Ok(feeds)
    }

    /// An image's embedding, brought from the device if it is there. For tests.
    #[doc(hidden)]
    pub fn embedding_values(&self, image: &Embedding) -> Result<Vec<f32>> {
        match image {
            Embedding::Host(values) => Ok(values.to_vec()),
            Embedding::Device(tensor) => {
                let feeds = vec![("x".into(), Feed::Resident(tensor)), ("rows".into(), Feed::Host(ints(&[0])?))];
                let outputs = self.run_there(Part::ImageRows, feeds, &["selected"])?;
                Ok(floats(&outputs.host[0])?.to_vec())
            }
        }
    }

    /// What has crossed between the host and the device so far, by the stage of its runs. For tests.
    #[doc(hidden)]
    pub fn crossed(&self) -> BTreeMap<&'static str, Crossed> {
        self.meter.read()
    }
}

/// Cross-attention keys and values of a run, which are on the device.
pub(super) struct CrossThere {
    values: Vec<Resident>,
    /// Images of the run and, for each, 1 where a question has a token and 0 where it is padded.
    mask: Option<(usize, Vec<i32>)>,
}

impl CrossThere {
    /// Adds the inputs of cross-attention.
    pub(super) fn push<'v>(&'v self, feeds: &mut Feeds<'v>) -> Result<()> {
        let name = |i: usize| format!("{}.{}", if i.is_multiple_of(2) { "ck" } else { "cv" }, i / 2);
        feeds.extend(self.values.iter().enumerate().map(|(i, tensor)| (name(i).into(), Feed::Resident(tensor))));
        if let Some((run, mask)) = &self.mask {
            let mask = tensor_i32(&[*run, mask.len() / run], mask.clone())?;
            feeds.push(("cross_mask".into(), Feed::Host(mask)));
        }
        Ok(())
    }
}

fn host_feeds(values: Named) -> Feeds<'static> {
    values.into_iter().map(|(name, value)| (name, Feed::Host(value))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::generate::GenerationOptions;
    use super::super::med::{GenerateRequest, Med as _, Precision};
    use super::*;
    use crate::blip::Checkpoint;

    #[test]
    fn runs_are_halved_when_memory_runs_out() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/captioner");
        let checkpoint = Arc::new(Checkpoint::open(&folder).unwrap());
        let med = OrtMed::on_fake_device(checkpoint, Precision::Fp32, 4, 0).unwrap();
        let bytes: Vec<Vec<u8>> = (1..=3u8).map(|i| (0..64 * 64 * 3).map(|n| (n % 251) as u8 / i).collect()).collect();
        let captions = || {
            let images = med.encode(&bytes.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            let request = GenerateRequest { prompt: med.tokenizer().caption_prompt(""), key: [0; 32] };
            let images: Vec<&Embedding> = images.iter().collect();
            med.generate(&images, &vec![vec![request]; 3], &GenerationOptions::default(), &|| false).unwrap()
        };
        let runs = || med.crossed()["the vision encoder"].runs;
        let expected = captions();
        assert_eq!((med.run_images(), runs()), (4, 1));
        med.shrink(&Error::Internal("of another kind".into()));
        assert_eq!(med.run_images(), 4);
        for (images, more) in [(2, 2), (1, 3), (1, 3)] {
            let before = runs();
            med.shrink(&Error::OutOfMemory("Failed to allocate memory for requested buffer".into()));
            assert_eq!(captions(), expected);
            assert_eq!((med.run_images(), runs() - before), (images, more));
        }
    }
}
