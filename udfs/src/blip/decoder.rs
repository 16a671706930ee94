//! Batched captioning: the rows of all images' searches go through the decoder together, one step at a time.

use std::collections::BTreeMap;

use ort::value::DynValue;

use super::device_decoder;
use super::generate::{Candidates, GenerationOptions, Row, Search};
use super::med::{Embedding, GenerateRequest};
use super::session::{OrtMed, Part};
use super::values::{CrossKv, Inputs, floats, ints, tensor, tensor_i64};
use crate::error::{Error, Result};

/// Implements [`super::Med::generate`].
pub(super) fn generate(
    med: &OrtMed,
    images: &[&Embedding],
    requests: &[Vec<GenerateRequest>],
    options: &GenerationOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Vec<u32>>>> {
    let mut options = options.clone();
    let positions = med.checkpoint.config.text.max_positions;
    let longest = requests.iter().flatten().map(|r| r.prompt.len()).max().unwrap_or(0);
    options.check_room(longest, positions).map_err(Error::Option)?;
    options.max_length = options.max_length.min(positions);
    if let Some(run) = med.apart() {
        return device_decoder::generate(med, images, requests, &options, run, cancelled);
    }
    // Images with equal prompt lengths and caption counts form a group, so that the first step feeds all prompts at
    // once. Questions of a group are padded to one length.
    let mut groups: BTreeMap<(usize, usize, usize), Vec<usize>> = BTreeMap::new();
    for (image, requests) in requests.iter().enumerate() {
        if let Some(first) = requests.first() {
            if requests.iter().any(|r| r.prompt.len() != first.prompt.len()) {
                return Err(Error::Internal("prompts of one image differ in length".into()));
            }
            let tokens = med.source_tokens(Part::DecoderKv, images[image]);
            groups.entry((first.prompt.len(), requests.len(), tokens)).or_default().push(image);
        }
    }
    let mut captions: Vec<Vec<Vec<u32>>> = vec![vec![]; images.len()];
    for members in groups.into_values() {
        let embeddings: Vec<&Embedding> = members.iter().map(|&i| images[i]).collect();
        let requests: Vec<&[GenerateRequest]> = members.iter().map(|&i| requests[i].as_slice()).collect();
        for (image, found) in members.iter().zip(Batch::run(med, &embeddings, &requests, &options, cancelled)?) {
            captions[*image] = found;
        }
    }
    Ok(captions)
}

/// The scores `[vocabulary]` of a decoder after `prompt`, for each image.
pub(super) fn first_scores(med: &OrtMed, part: Part, images: &[&Embedding], prompt: &[u32]) -> Result<Vec<Vec<f32>>> {
    if let Some(run) = med.apart() {
        return device_decoder::first_scores(med, part, images, prompt, run);
    }
    let vocab = med.checkpoint.config.text.vocab_size;
    let mut scores = vec![vec![]; images.len()];
    for members in med.by_source_tokens(images) {
        let embeddings: Vec<&Embedding> = members.iter().map(|&i| images[i]).collect();
        let kv = med.cross_kv(Part::DecoderKv, &embeddings)?;
        let rows = members.len();
        let slots = (0..rows).map(|image| Slot { image, searches: vec![], starts: vec![] }).collect();
        let batch = Batch { med, part, kv, slots, past: vec![], past_tokens: 0, finished: vec![] };
        let ids = members.iter().flat_map(|_| prompt.iter().map(|&id| i64::from(id))).collect();
        let outputs = batch.decode(ids, (0..rows).collect(), rows, prompt.len())?;
        for (i, row) in members.into_iter().zip(floats(&outputs[0])?.chunks_exact(vocab)) {
            scores[i] = row.to_vec();
        }
    }
    Ok(scores)
}

/// One image in the batch: its searches, and the index of each one's first row in the previous step.
struct Slot {
    image: usize,
    searches: Vec<Search>,
    starts: Vec<usize>,
}

impl Slot {
    fn rows(&self) -> usize {
        self.searches.iter().map(|s| s.rows().len()).sum()
    }
}

struct Batch<'a> {
    med: &'a OrtMed,
    /// The decoder with the scores that the searches read.
    part: Part,
    kv: CrossKv,
    /// Live images; their keys and values are the first of `kv`, in this order.
    slots: Vec<Slot>,
    /// Keys and values of the rows so far, per layer; empty before the first step.
    past: Vec<DynValue>,
    past_tokens: usize,
    finished: Vec<Vec<Vec<u32>>>,
}

impl<'a> Batch<'a> {
    fn run(
        med: &'a OrtMed,
        images: &[&Embedding],
        requests: &[&[GenerateRequest]],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        let eos = med.checkpoint.tokenizer.sep();
        let vocab = med.checkpoint.config.text.vocab_size;
        let slots = requests
            .iter()
            .enumerate()
            .map(|(image, requests)| Slot {
                image,
                searches: requests.iter().map(|r| Search::new(options, &r.prompt, eos, vocab, r.key)).collect(),
                starts: (0..requests.len()).collect(),
            })
            .collect();
        let kv = med.cross_kv(Part::DecoderKv, images)?;
        let part = if options.reads_log_probs() { Part::BeamDecoder } else { Part::Decoder };
        let finished = vec![vec![]; images.len()];
        let mut batch = Batch { med, part, kv, slots, past: vec![], past_tokens: 0, finished };
        batch.retire()?;
        let prompts: Vec<&[u32]> = requests.iter().flat_map(|r| r.iter().map(|r| &*r.prompt)).collect();
        let mut first = Some(prompts);
        while !batch.slots.is_empty() {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            batch.step(first.take())?;
            batch.retire()?;
        }
        Ok(batch.finished)
    }

    /// Feeds each live row its token (in the first step, its prompt) and advances the searches.
    fn step(&mut self, prompts: Option<Vec<&[u32]>>) -> Result<()> {
        // Every image has the same number of query rows; an image that needs fewer repeats a row.
        let wide = self.slots.iter().map(Slot::rows).max().unwrap_or(1);
        let rows = self.slots.len() * wide;
        let tokens = prompts.as_ref().map_or(1, |p| p[0].len());
        let mut ids: Vec<i64> = Vec::with_capacity(rows * tokens);
        let mut reorder = Vec::with_capacity(rows);
        for (s, slot) in self.slots.iter_mut().enumerate() {
            let mut fed: Vec<(usize, Row)> = vec![];
            for (search, start) in slot.searches.iter().zip(&mut slot.starts) {
                let before = *start;
                *start = s * wide + fed.len();
                fed.extend(search.rows().iter().map(|&row| (before + row.parent, row)));
            }
            fed.resize(wide, fed[0]);
            for (parent, row) in fed {
                reorder.push(parent);
                if prompts.is_none() {
                    ids.push(i64::from(row.token));
                }
            }
        }
        if let Some(prompts) = prompts {
            // No search has retired or grown yet, so rows and prompts are in the same order.
            ids = prompts.iter().flat_map(|p| p.iter().map(|&id| i64::from(id))).collect();
            reorder = (0..rows).collect();
        }
        let outputs = self.decode(ids, reorder, rows, tokens)?;
        let scores = floats(&outputs[0])?;
        let vocab = self.med.checkpoint.config.text.vocab_size;
        for slot in &mut self.slots {
            for (search, start) in slot.searches.iter_mut().zip(&slot.starts) {
                if !search.is_done() {
                    let range = start * vocab..(start + search.rows().len()) * vocab;
                    if !search.advance(&Candidates::rows(&scores[range], vocab)).is_empty() {
                        return Err(Error::Internal("a search does not decide on whole rows".into()));
                    }
                }
            }
        }
        self.past = outputs.into_iter().skip(1).collect();
        self.past_tokens += tokens;
        Ok(())
    }

    fn decode(&self, ids: Vec<i64>, reorder: Vec<usize>, rows: usize, tokens: usize) -> Result<Vec<DynValue>> {
        let text = &self.med.checkpoint.config.text;
        let positions: Vec<usize> = (self.past_tokens..self.past_tokens + tokens).collect();
        let images = self.slots.len();
        let mut inputs: Inputs<'_> = vec![
            ("ids".into(), tensor_i64(&[rows, tokens], ids)?.into()),
            ("positions".into(), ints(&positions)?.into()),
            ("reorder".into(), ints(&reorder)?.into()),
            ("queries".into(), ints(&[images, rows / images * tokens, text.width])?.into()),
            ("rows".into(), ints(&[rows, tokens, text.width])?.into()),
        ];
        let names = (0..text.layers).flat_map(|i| [format!("past_k.{i}"), format!("past_v.{i}")]);
        if self.past.is_empty() {
            for name in names {
                inputs.push((name.into(), tensor(&[rows, text.heads, 0, text.head_size()], vec![])?.into()));
            }
        } else {
            for (name, value) in names.zip(&self.past) {
                inputs.push((name.into(), value.into()));
            }
        }
        self.kv.push_inputs(0, images, &mut inputs)?;
        self.med.run(self.part, inputs)
    }

    /// Removes images whose captions are complete from the batch.
    fn retire(&mut self) -> Result<()> {
        let mut s = 0;
        while s < self.slots.len() {
            if self.slots[s].searches.iter().all(Search::is_done) {
                self.kv.swap_remove(s, self.slots.len())?;
                let slot = self.slots.swap_remove(s);
                self.finished[slot.image] = slot.searches.into_iter().flat_map(Search::into_sequences).collect();
            } else {
                s += 1;
            }
        }
        Ok(())
    }
}
