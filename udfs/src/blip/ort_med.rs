//! [`Med`] on ONNX Runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::answers;
use super::checkpoint::{NO_DECODER, NO_QUESTIONS};
use super::decoder;
use super::generate::GenerationOptions;
use super::med::{AnswerScore, DeviceMemory, Embedding, GenerateRequest, Med, Precision, WorkBytes};
use super::session::{OrtMed, Part};
use super::values::inputs;
use super::work::work_bytes;
use crate::error::{Error, Result};
use crate::image::Preprocessor;
use crate::text::Tokenizer;

impl Med for OrtMed {
    fn name(&self) -> &str {
        &self.name
    }
    fn digest(&self) -> [u8; 32] {
        self.digest
    }
    fn device(&self) -> &str {
        &self.device_name
    }
    fn precision(&self) -> Precision {
        self.precision
    }
    fn tokenizer(&self) -> &Tokenizer {
        &self.checkpoint.tokenizer
    }
    fn preprocessor(&self) -> &Preprocessor {
        &self.checkpoint.preprocessor
    }
    fn resident_bytes(&self) -> usize {
        self.checkpoint.resident_bytes(self.precision)
    }

    fn work_bytes(&self) -> WorkBytes {
        let (v, t) = (&self.checkpoint.config.vision, &self.checkpoint.config.text);
        if self.apart().is_some() {
            // The host's share: pixels as they are sent, and whole rows of scores.
            let row = 4 * t.vocab_size;
            let pixels = 2 * 3 * v.image_size.pow(2);
            return WorkBytes { encode: pixels, generate: row, per_sequence: row, match_text: row, answer: row };
        }
        work_bytes(&self.checkpoint.config, self.precision)
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        self.memory()
    }

    fn run_images(&self) -> usize {
        self.apart().unwrap_or(1)
    }

    fn encode(&self, images: &[&[u8]]) -> Result<Vec<Embedding>> {
        if let Some(run) = self.apart() {
            return self.encode_there(images, run);
        }
        let side = self.checkpoint.config.vision.image_size;
        let each = 3 * side * side;
        let mut pixels = vec![0f32; images.len() * each];
        for (image, out) in images.iter().zip(pixels.chunks_exact_mut(each)) {
            self.checkpoint.preprocessor.normalise_into(image, out);
        }
        self.encode_pixels_here(&pixels)
    }

    fn project(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>> {
        match self.apart() {
            Some(run) => self.project_there(images, run),
            None => self.project_here(images),
        }
    }

    fn encode_texts(&self, texts: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        let mut buckets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            buckets.entry(self.bucket(text)).or_default().push(i);
        }
        let mut vectors: Vec<Option<Arc<[f32]>>> = vec![None; texts.len()];
        for (bucket, indices) in buckets {
            let members: Vec<&[u32]> = indices.iter().map(|&i| texts[i]).collect();
            let found = match self.apart() {
                Some(run) => self.encode_texts_there(&members, bucket, run)?,
                None => {
                    let outputs = self.run(Part::Text, inputs(self.text_inputs(&members, bucket)?))?;
                    self.unit_vectors(&outputs[0])?
                }
            };
            for (i, vector) in indices.into_iter().zip(found) {
                vectors[i] = Some(vector);
            }
        }
        vectors.into_iter().map(|v| v.ok_or_else(|| Error::Internal("a text got no vector".into()))).collect()
    }

    fn match_texts(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<f32>>> {
        let logits = self.match_logits(images, texts)?;
        // Probability of the softmax's second class.
        let probability = |[no, yes]: [f32; 2]| 1.0 / (1.0 + (no - yes).exp());
        Ok(logits.into_iter().map(|image| image.into_iter().map(probability).collect()).collect())
    }

    fn generate(
        &self,
        images: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        self.refuse(!self.checkpoint.parts.answerer, NO_DECODER)?;
        decoder::generate(self, images, requests, options, cancelled)
    }

    fn encode_questions(&self, images: &[&Embedding], questions: &[Vec<&[u32]>]) -> Result<Vec<Vec<Embedding>>> {
        self.refuse(self.checkpoint.parts.answerer, NO_QUESTIONS)?;
        answers::encode_questions(self, images, questions)
    }

    fn answer(
        &self,
        questions: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        self.refuse(self.checkpoint.parts.answerer, NO_QUESTIONS)?;
        decoder::generate(self, questions, requests, options, cancelled)
    }

    fn first_tokens(&self, questions: &[&Embedding]) -> Result<Vec<Vec<f32>>> {
        self.refuse(self.checkpoint.parts.answerer, NO_QUESTIONS)?;
        decoder::first_scores(self, Part::BeamDecoder, questions, &self.checkpoint.tokenizer.caption_prompt(""))
    }

    fn score_answers(
        &self,
        questions: &[&Embedding],
        answers: &[Vec<&[u32]>],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<AnswerScore>>> {
        self.refuse(self.checkpoint.parts.answerer, NO_QUESTIONS)?;
        answers::score(self, questions, answers, cancelled)
    }
}

impl OrtMed {
    /// Refuses work that another kind of checkpoint does, and whose tensors this one may have under the same names.
    fn refuse(&self, is_fit: bool, lacking: &str) -> Result<()> {
        if is_fit { Ok(()) } else { Err(self.checkpoint.lacks(lacking)) }
    }

    /// Vision encoder over normalised pixels `[count, 3, size, size]`.
    pub fn encode_pixels(&self, count: usize, pixels: Vec<f32>) -> Result<Vec<Embedding>> {
        let side = self.checkpoint.config.vision.image_size;
        if pixels.len() != count * 3 * side * side {
            return Err(Error::Internal(format!("{} floats are not the pixels of {count} images", pixels.len())));
        }
        match self.apart() {
            Some(run) => self.encode_pixels_there(&pixels, run),
            None => self.encode_pixels_here(&pixels),
        }
    }

    /// ITM logits `[no match, match]` of each image's texts.
    pub fn match_logits(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<[f32; 2]>>> {
        match self.apart() {
            Some(run) => self.match_logits_there(images, texts, run),
            None => self.match_logits_here(images, texts),
        }
    }

    /// The decoder's logits `[vocabulary]` after `prompt` (its first token is [DEC]), for each image, or for each question
    /// of an answerer, given as its states.
    pub fn first_logits(&self, images: &[&Embedding], prompt: &[u32]) -> Result<Vec<Vec<f32>>> {
        decoder::first_scores(self, Part::Decoder, images, prompt)
    }
}
