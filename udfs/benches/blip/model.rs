//! The models without SQL, in seconds per image or pair.

use std::sync::Arc;

use capfilt_udfs::blip::generate::GenerationOptions;
use capfilt_udfs::blip::{Embedding, GenerateRequest, Med, OrtMed, Precision};
use serde_json::Value;

use crate::checkpoint::{DEC, ENC, Normal, Pair, SEP};
use crate::{REPEATS, Result, Timing};

pub(crate) const BATCHES: [usize; 2] = [1, 8];

/// Tokens of a caption, including [DEC], and of a text to match, including [ENC] and [SEP].
pub(crate) const TOKENS: usize = 20;

/// Beam search that always takes [`TOKENS`] tokens.
pub(crate) fn beams() -> GenerationOptions {
    GenerationOptions { num_beams: 3, min_length: TOKENS, max_length: TOKENS, ..GenerationOptions::default() }
}

/// [ENC], `inner` truncated to fit, [SEP].
pub(crate) fn framed(inner: &[u32]) -> Vec<u32> {
    [&[ENC], &inner[..inner.len().min(TOKENS - 2)], &[SEP]].concat()
}

pub(crate) fn random_text(random: &mut Normal) -> Vec<u32> {
    let words: Vec<u32> = (0..TOKENS - 2).map(|_| 2000 + (random.bits() % 20_000) as u32).collect();
    framed(&words)
}

/// A batch of images with two texts each, the same on every run.
pub(crate) struct Work {
    batch: usize,
    pixels: Vec<f32>,
    texts: Vec<[Vec<u32>; 2]>,
}

impl Work {
    pub(crate) fn new(pair: &Pair, batch: usize) -> Self {
        let mut random = Normal::new(3);
        let pixels = (0..batch * 3 * pair.shape.image_size.pow(2)).map(|_| random.draw()).collect();
        let texts = (0..batch).map(|_| [random_text(&mut random), random_text(&mut random)]).collect();
        Self { batch, pixels, texts }
    }

    fn encode(&self, med: &OrtMed) -> Result<Vec<Embedding>> {
        Ok(med.encode_pixels(self.batch, self.pixels.clone())?)
    }

    fn decode(&self, captioner: &OrtMed, images: &[Embedding]) -> Result<Vec<Vec<u32>>> {
        let images: Vec<&Embedding> = images.iter().collect();
        let request = GenerateRequest { prompt: Arc::from([DEC]), key: [0; 32] };
        let captions = captioner.generate(&images, &vec![vec![request]; self.batch], &beams(), &|| false)?.concat();
        match captions.iter().find(|ids| ids.len() != TOKENS - 1) {
            Some(ids) => Err(format!("a caption has {} tokens", ids.len() + 1).into()),
            None => Ok(captions),
        }
    }

    /// Encodes the images and captions them.
    pub(crate) fn caption(&self, captioner: &OrtMed) -> Result<Vec<Vec<u32>>> {
        self.decode(captioner, &self.encode(captioner)?)
    }

    /// Encodes the images and matches each with its two texts.
    pub(crate) fn itm(&self, filter: &OrtMed) -> Result<()> {
        let texts: Vec<Vec<&[u32]>> = self.texts.iter().map(|[a, b]| vec![a.as_slice(), b]).collect();
        self.match_with(filter, &texts)
    }

    fn match_with(&self, filter: &OrtMed, texts: &[Vec<&[u32]>]) -> Result<()> {
        let images = self.encode(filter)?;
        let scores = filter.match_texts(&images.iter().collect::<Vec<_>>(), texts)?;
        match scores.iter().flatten().all(|s| s.is_finite()) {
            true => Ok(()),
            false => Err("a score is not finite".into()),
        }
    }

    /// Runs CapFilt on each image: the captioner's synthetic text, and the filter's scores of it and of the web text.
    pub(crate) fn pair(&self, captioner: &OrtMed, filter: &OrtMed) -> Result<()> {
        let synthetic: Vec<Vec<u32>> = self.caption(captioner)?.iter().map(|ids| framed(ids)).collect();
        let texts: Vec<Vec<&[u32]>> =
            self.texts.iter().zip(&synthetic).map(|([web, _], synthetic)| vec![web.as_slice(), synthetic]).collect();
        self.match_with(filter, &texts)
    }
}

/// Seconds per image or pair of a batch.
pub(crate) struct Speed {
    pub(crate) batch: usize,
    /// Name and time of each part, in the order of the table.
    pub(crate) parts: [(&'static str, Timing); 5],
}

/// Speeds of one precision.
pub(crate) struct Speeds(pub(crate) Vec<Speed>);

impl Speeds {
    pub(crate) fn json(&self) -> Value {
        let batch = |speed: &Speed| -> Value {
            speed
                .parts
                .iter()
                .map(|(name, time)| (name.to_string(), time.json()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        self.0.iter().map(|speed| (speed.batch.to_string(), batch(speed))).collect::<serde_json::Map<_, _>>().into()
    }

    /// The best time of a part at the largest batch.
    pub(crate) fn best(&self, part: &str) -> Result<f64> {
        let found = self.0.last().and_then(|speed| speed.parts.iter().find(|(name, _)| *name == part));
        Ok(found.ok_or_else(|| format!("{part} was not measured"))?.1.min())
    }
}

pub(crate) fn time(pair: &Pair, precision: Precision, threads: usize) -> Result<Speeds> {
    let (captioner, filter) = (pair.captioner(precision, threads)?, pair.filter(precision, threads)?);
    // Creates the sessions.
    Work::new(pair, 1).pair(&captioner, &filter)?;
    let mut speeds = vec![];
    for batch in BATCHES {
        let work = Work::new(pair, batch);
        let time = |run: &dyn Fn() -> Result<()>| Timing::of(REPEATS, run).map(|t| t.each(batch));
        let images = work.encode(&captioner)?;
        let parts = [
            ("vit", time(&|| work.encode(&captioner).map(drop))?),
            ("decode", time(&|| work.decode(&captioner, &images).map(drop))?),
            ("caption", time(&|| work.caption(&captioner).map(drop))?),
            ("itm", time(&|| work.itm(&filter))?),
            ("pair", time(&|| work.pair(&captioner, &filter))?),
        ];
        speeds.push(Speed { batch, parts });
    }
    Ok(Speeds(speeds))
}
