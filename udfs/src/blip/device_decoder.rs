//! Batched captioning on a device: rows, keys and values stay there, and the likeliest tokens of each row come back.
//!
//! A pass decodes one caption for each image of a run. Images whose captions are complete, or that have none in this
//! pass, decode on as padding: the shapes of a step are those of any other pass.

use std::collections::BTreeMap;

use ort::value::DynValue;

use super::generate::{Candidates, GenerationOptions, Kept, Row, Search};
use super::med::{Embedding, GenerateRequest, Precision};
use super::on_device::push_kv;
use super::resident::{Feed, Feeds, Resident};
use super::session::{OrtMed, Part};
use super::values::{floats, int32s, ints, tensor, tensor_f16, tensor_i32, tensor_i64};
use crate::error::{Error, Result};

/// Implements [`super::Med::generate`] for `run` images a run.
pub(super) fn generate(
    med: &OrtMed,
    images: &[&Embedding],
    requests: &[Vec<GenerateRequest>],
    options: &GenerationOptions,
    run: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Vec<u32>>>> {
    let mut captions = Vec::with_capacity(images.len());
    for (images, requests) in images.chunks(run).zip(requests.chunks(run)) {
        // (length of the prompt, number of the caption) -> images and their requests.
        let mut passes: BTreeMap<(usize, usize), Vec<(usize, &GenerateRequest)>> = BTreeMap::new();
        for (image, requests) in requests.iter().enumerate() {
            for (number, request) in requests.iter().enumerate() {
                passes.entry((request.prompt.len(), number)).or_default().push((image, request));
            }
        }
        let mut found: Vec<BTreeMap<usize, Vec<Vec<u32>>>> = vec![BTreeMap::new(); images.len()];
        if !passes.is_empty() {
            let kv = med.cross_kv_there(Part::DecoderKv, images, run)?;
            for ((_, number), members) in passes {
                for (image, sequences) in pass(med, &kv, &members, options, run, cancelled)? {
                    found[image].insert(number, sequences);
                }
            }
        }
        captions.extend(found.into_iter().map(|captions| captions.into_values().flatten().collect()));
    }
    Ok(captions)
}

/// The scores `[vocabulary]` of a decoder after `prompt`, for each image.
pub(super) fn first_scores(
    med: &OrtMed,
    part: Part,
    images: &[&Embedding],
    prompt: &[u32],
    run: usize,
) -> Result<Vec<Vec<f32>>> {
    let vocab = med.checkpoint.config.text.vocab_size;
    let mut logits = Vec::with_capacity(images.len());
    for images in images.chunks(run) {
        let kv = med.cross_kv_there(Part::DecoderKv, images, run)?;
        let mut decoder = Decoder::new(med, part, &kv, run, 1);
        let step = Step { ids: ids(prompt).cycle().take(run * prompt.len()).collect(), ..Step::first(run) };
        let scored = decoder.step(step)?;
        let rows = decoder.whole_rows(&scored.scores, &(0..images.len()).collect::<Vec<_>>())?;
        logits.extend(floats(&rows)?.chunks_exact(vocab).map(<[f32]>::to_vec));
    }
    Ok(logits)
}

fn ids(tokens: &[u32]) -> impl Iterator<Item = i64> + Clone + '_ {
    tokens.iter().map(|&token| i64::from(token))
}

/// Decodes one caption for each of `members`, images of the run and requests with prompts of one length. Returns the
/// sequences of each image.
fn pass(
    med: &OrtMed,
    kv: &[Resident],
    members: &[(usize, &GenerateRequest)],
    options: &GenerationOptions,
    run: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<(usize, Vec<Vec<u32>>)>> {
    let (eos, vocab) = (med.checkpoint.tokenizer.sep(), med.checkpoint.config.text.vocab_size);
    let is_beam = options.reads_log_probs();
    let part = if is_beam { Part::BeamDecoder } else { Part::Decoder };
    let mut decoder = Decoder::new(med, part, kv, run, options.kept());
    let mut searches: Vec<Option<Search>> = (0..run).map(|_| None).collect();
    let Some(filler) = members.first().map(|(_, request)| &*request.prompt) else { return Ok(vec![]) };
    let mut prompts = vec![filler; run];
    for (image, request) in members {
        searches[*image] = Some(Search::new(options, &request.prompt, eos, vocab, request.key));
        prompts[*image] = &request.prompt;
    }
    let mut step = Step { ids: prompts.iter().flat_map(|prompt| ids(prompt)).collect(), ..Step::first(run) };
    step.own = own_tokens(&searches, 1, vocab);
    while searches.iter().flatten().any(|search| !search.is_done()) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let before = step.rows / run;
        let scored = decoder.step(step)?;
        advance(&decoder, &scored, &mut searches, before)?;
        step = next(&searches, if is_beam { options.num_beams } else { 1 }, before, vocab);
    }
    let finished = searches.into_iter().enumerate().filter_map(|(image, search)| Some((image, search?)));
    Ok(finished.map(|(image, search)| (image, search.into_sequences())).collect())
}

/// The step that feeds each search's rows, `wide` for each image, after one of `before` rows for each.
fn next(searches: &[Option<Search>], wide: usize, before: usize, vocab: usize) -> Step {
    let rows = searches.len() * wide;
    let mut step = Step { rows, ids: Vec::with_capacity(rows), reorder: Vec::with_capacity(rows), own: vec![] };
    for (image, search) in searches.iter().enumerate() {
        let rows = search.as_ref().map_or(&[][..], Search::rows);
        for place in 0..wide {
            let row = rows.get(place).or(rows.first()).copied().unwrap_or(Row { parent: 0, token: 0 });
            step.reorder.push(image * before + row.parent);
            step.ids.push(i64::from(row.token));
        }
    }
    step.own = own_tokens(searches, wide, vocab);
    step
}

/// The searches' own tokens, row by row, each row as long as the longest and not empty.
fn own_tokens(searches: &[Option<Search>], wide: usize, vocab: usize) -> Vec<i32> {
    let of = |search: &Option<Search>, place| search.as_ref().map_or(vec![], |search| search.own_tokens(place));
    let rows: Vec<Vec<u32>> =
        searches.iter().flat_map(|search| (0..wide).map(move |place| of(search, place))).collect();
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
    // The search has no use for the scores of tokens outside the vocabulary, nor for those that fill up.
    let token = |token: Option<&u32>| token.filter(|&&token| (token as usize) < vocab).map_or(0, |&token| token as i32);
    rows.iter().flat_map(|row| (0..longest).map(|place| token(row.get(place)))).collect()
}

/// Advances the searches by a step's candidates, and by whole rows where these do not decide.
fn advance(decoder: &Decoder<'_>, scored: &Scored, searches: &mut [Option<Search>], wide: usize) -> Result<()> {
    let (kept, tokens, own) = (floats(&scored.kept)?, int32s(&scored.tokens)?, floats(&scored.own)?);
    let rows = searches.len() * wide;
    let (k, longest) = (kept.len() / rows, own.len() / rows);
    let candidates = |search: &Search, image: usize, place: usize| {
        let row = image * wide + place;
        let own = &own[row * longest..][..search.own_tokens(place).len()];
        Candidates::Kept(Kept { tokens: &tokens[row * k..][..k], scores: &kept[row * k..][..k], own })
    };
    let mut undecided: Vec<(usize, Vec<usize>)> = vec![];
    for (image, search) in searches.iter_mut().enumerate() {
        let Some(search) = search.as_mut().filter(|search| !search.is_done()) else { continue };
        let rows: Vec<Candidates<'_>> =
            (0..search.rows().len()).map(|place| candidates(search, image, place)).collect();
        let places = search.advance(&rows);
        if !places.is_empty() {
            undecided.push((image, places));
        }
    }
    if undecided.is_empty() {
        return Ok(());
    }
    let rows: Vec<usize> =
        undecided.iter().flat_map(|(image, places)| places.iter().map(move |place| image * wide + place)).collect();
    let whole = decoder.whole_rows(&scored.scores, &rows)?;
    let mut whole = floats(&whole)?.chunks_exact(decoder.med.checkpoint.config.text.vocab_size);
    for (image, places) in undecided {
        let Some(search) = &mut searches[image] else { continue };
        let mut rows: Vec<Candidates<'_>> =
            (0..search.rows().len()).map(|place| candidates(search, image, place)).collect();
        for place in places {
            rows[place] = Candidates::Whole(whole.next().unwrap_or_default());
        }
        if !search.advance(&rows).is_empty() {
            return Err(Error::Internal("a search does not decide on whole rows".into()));
        }
    }
    Ok(())
}

/// Inputs of one step.
struct Step {
    rows: usize,
    /// Ids of the tokens, as many for each row.
    ids: Vec<i64>,
    /// The row of the previous step that each row continues.
    reorder: Vec<usize>,
    /// Tokens whose scores are needed in any case, as many for each row.
    own: Vec<i32>,
}

impl Step {
    /// The step of the prompts, without its ids.
    fn first(rows: usize) -> Self {
        Self { rows, ids: vec![], reorder: (0..rows).collect(), own: vec![0; rows] }
    }
}

/// Outputs of one step: all scores, on the device, and those of the likeliest and of the own tokens.
struct Scored {
    scores: Resident,
    kept: DynValue,
    tokens: DynValue,
    own: DynValue,
}

/// The decoder's state on the device.
struct Decoder<'a> {
    med: &'a OrtMed,
    part: Part,
    kv: &'a [Resident],
    images: usize,
    /// Number of the likeliest tokens that come back.
    k: usize,
    /// Keys and values of the rows so far, per layer; empty before the first step.
    past: Vec<Resident>,
    past_tokens: usize,
}

impl<'a> Decoder<'a> {
    fn new(med: &'a OrtMed, part: Part, kv: &'a [Resident], images: usize, k: usize) -> Self {
        let k = k.min(med.checkpoint.config.text.vocab_size);
        Self { med, part, kv, images, k, past: vec![], past_tokens: 0 }
    }

    /// Keys or values of no tokens.
    fn no_past(&self, rows: usize) -> Result<DynValue> {
        let text = &self.med.checkpoint.config.text;
        let shape = [rows, text.heads, 0, text.head_size()];
        if self.med.precision == Precision::Fp16 { tensor_f16(&shape, vec![]) } else { tensor(&shape, vec![]) }
    }

    fn step(&mut self, step: Step) -> Result<Scored> {
        let text = &self.med.checkpoint.config.text;
        let Step { rows, ids, reorder, own } = step;
        let (tokens, owned) = (ids.len() / rows, own.len() / rows);
        let positions: Vec<usize> = (self.past_tokens..self.past_tokens + tokens).collect();
        let mut feeds: Feeds<'_> = vec![
            ("ids".into(), Feed::Host(tensor_i64(&[rows, tokens], ids)?)),
            ("positions".into(), Feed::Host(ints(&positions)?)),
            ("reorder".into(), Feed::Host(ints(&reorder)?)),
            ("queries".into(), Feed::Host(ints(&[self.images, rows / self.images * tokens, text.width])?)),
            ("rows".into(), Feed::Host(ints(&[rows, tokens, text.width])?)),
            ("k".into(), Feed::Host(ints(&[self.k])?)),
            ("own".into(), Feed::Host(tensor_i32(&[rows, owned], own)?)),
        ];
        for (i, name) in (0..text.layers).flat_map(|i| [format!("past_k.{i}"), format!("past_v.{i}")]).enumerate() {
            let feed = match self.past.get(i) {
                Some(past) => Feed::Resident(past),
                None => Feed::Host(self.no_past(rows)?),
            };
            feeds.push((name.into(), feed));
        }
        push_kv(self.kv, &mut feeds);
        let outputs = self.med.run_there(self.part, feeds, &["kept", "tokens", "own_scores"])?;
        let mut resident = outputs.resident.into_iter();
        let missing = || Error::Internal("the decoder has no scores".into());
        let scores = resident.next().ok_or_else(missing)?;
        let [kept, tokens_kept, own] = <[DynValue; 3]>::try_from(outputs.host).map_err(|_| missing())?;
        self.past = resident.collect();
        self.past_tokens += tokens;
        Ok(Scored { scores, kept, tokens: tokens_kept, own })
    }

    /// Brings whole rows of scores from the device.
    fn whole_rows(&self, scores: &Resident, rows: &[usize]) -> Result<DynValue> {
        let feeds = vec![("x".into(), Feed::Resident(scores)), ("rows".into(), Feed::Host(ints(rows)?))];
        let outputs = self.med.run_there(Part::ScoreRows, feeds, &["selected"])?;
        outputs.host.into_iter().next().ok_or_else(|| Error::Internal("no rows of scores".into()))
    }
}
