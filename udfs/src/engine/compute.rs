//! The stage of a batch after the encoder: what models make of images, questions and texts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inputs::Encoded;
use super::memory::Loaded;
use super::shared::{Inner, work_bytes};
use super::stage::Stage;
use super::stats::Counters;
use super::task::{Key, Outcome, Work, question_key, sample_key};
use super::unit::{Unit, expect, guarded, share};
use crate::blip::generate::Strategy;
use crate::blip::{AnswerScore, Embedding, GenerateRequest, Med, answers};
use crate::error::{Error, Result};

/// Stage after the encoder: generates, matches, answers, projects, or embeds texts.
pub(super) struct Compute<'a> {
    pub(super) inner: &'a Inner,
    pub(super) model: &'a Loaded,
    pub(super) med: &'a Arc<dyn Med>,
    pub(super) device: usize,
}

/// What a decoder reads, an image or the states of a question, and the indices of the units that ask for it.
type Asked = (Embedding, Vec<usize>);

/// An image, and its questions whose states are not in the cache: their keys, ids and places among those asked.
type Missing<'u> = (Embedding, Vec<(Key, &'u [u32], usize)>);

impl Stage<Unit> for Compute<'_> {
    fn bytes(&self, units: &[Unit]) -> usize {
        let bytes = self.model.med.work_bytes();
        let mut before = None;
        let costs = units.iter().map(|unit| {
            let first = std::mem::replace(&mut before, unit.image_id()) != unit.image_id();
            work_bytes(&bytes, &unit.work, first)
        });
        costs.fold(0, usize::saturating_add)
    }

    /// Prefers a boundary between two images.
    fn middle(&self, units: &[Unit]) -> usize {
        let starts: Vec<usize> = (1..units.len()).filter(|&i| units[i].image_id() != units[i - 1].image_id()).collect();
        if starts.is_empty() { units.len() / 2 } else { starts[starts.len() / 2] }
    }

    fn is_cancelled(&self, units: &[Unit]) -> bool {
        units.iter().all(Unit::is_cancelled)
    }

    fn call(&mut self, units: &mut [Unit]) -> Result<()> {
        let start = Instant::now();
        let outcomes = match self.compute(units) {
            // These units are dropped, which answers their jobs.
            Err(Error::Cancelled) if self.is_cancelled(units) => return Ok(()),
            Err(Error::Cancelled) => Err(Error::Internal("a model stopped work that nobody had cancelled".into())),
            other => other,
        }?;
        let outcomes = expect(self.model, "compute", outcomes, units.len())?;
        let each = share(start, units.len());
        for (unit, outcome) in units.iter_mut().zip(outcomes) {
            if let Some(job) = unit.jobs.first() {
                job.count(|counters| count(counters, &unit.work, &outcome, each));
                self.inner.remember(job.key, &outcome);
            }
            unit.answer(&Ok(outcome));
        }
        Ok(())
    }

    fn fail(&mut self, units: &mut [Unit], error: Error) {
        for unit in units {
            unit.answer(&Err(error.clone()));
        }
    }
}

impl Compute<'_> {
    fn compute(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        match units.first().map(|unit| &unit.work) {
            None => Ok(vec![]),
            Some(Work::Caption { .. } | Work::Answer { .. }) => self.generate(units),
            Some(Work::RankAnswers { .. }) => self.rank_answers(units),
            Some(Work::ScoreAnswer { .. }) => self.score_answers(units),
            Some(Work::Match { .. }) => self.match_texts(units),
            Some(Work::EmbedImage) => self.project(units),
            Some(Work::EmbedText { .. }) => self.encode_texts(units),
        }
    }

    fn generate(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        let Some(Work::Caption { options, .. } | Work::Answer { options, .. }) = units.first().map(|unit| &unit.work)
        else {
            return Ok(vec![]);
        };
        let asked = self.asked(units)?;
        let request = |&place: &usize| {
            let unit = &units[place];
            let (prompt, seed, candidate) = match &unit.work {
                Work::Caption { prompt, seed, candidate, .. } => (prompt, *seed, *candidate),
                Work::Answer { prompt, seed, .. } => (prompt, *seed, 0),
                _ => return None,
            };
            let key = match options.strategy {
                Strategy::Nucleus => sample_key(seed, &unit.image.as_ref()?.sha256, candidate),
                Strategy::Beam | Strategy::Greedy => [0; 32],
            };
            Some(GenerateRequest { prompt: Arc::clone(prompt), key })
        };
        let (embeddings, requests): (Vec<&Embedding>, Vec<Vec<GenerateRequest>>) =
            asked.iter().map(|(embedding, places)| (embedding, places.iter().filter_map(request).collect())).unzip();
        let cancelled = || self.is_cancelled(units);
        let (is_answer, med) = (units[0].work.question().is_some(), self.med);
        let texts = guarded(self.model, "generate", || match is_answer {
            true => med.answer(&embeddings, &requests, options, &cancelled),
            false => med.generate(&embeddings, &requests, options, &cancelled),
        })?;
        let each = options.returned();
        let texts = per_source(self.model, "generate", texts, asked.iter().map(|(_, places)| places.len() * each))?;
        let texts: Vec<Arc<[u32]>> = texts.into_iter().map(Arc::from).collect();
        let outcomes = texts.chunks(each).map(|sequences| Outcome::Ids(sequences.into()));
        in_order(units.len(), &asked, outcomes)
    }

    /// What the decoder reads for each unit: its image, or the states of its question.
    fn asked(&self, units: &[Unit]) -> Result<Vec<Asked>> {
        let is_question = units.first().is_some_and(|unit| unit.work.question().is_some());
        let mut asked: Vec<(Option<Embedding>, Vec<usize>)> = vec![];
        let mut missing: Vec<Missing<'_>> = vec![];
        let mut first = 0;
        for (embedding, of_image) in by_image(units)? {
            let places = first..first + of_image.len();
            first = places.end;
            if !is_question {
                asked.push((Some(embedding), places.collect()));
                continue;
            }
            let (mut known, mut new) = (HashMap::new(), vec![]);
            for (unit, place) in of_image.iter().zip(places) {
                let (Some(question), Some(image)) = (unit.work.question(), &unit.image) else {
                    return Err(Error::Internal("a batch of questions has other work".into()));
                };
                let index = *known.entry(&**question).or_insert_with_key(|ids| {
                    let key = question_key(image.key(), ids);
                    let states = self.inner.cached(&key).filter(|cached| cached.home == self.device);
                    if states.is_none() {
                        new.push((key, *ids, asked.len()));
                    }
                    asked.push((states.map(|cached| cached.embedding), vec![]));
                    asked.len() - 1
                });
                asked[index].1.push(place);
            }
            if !new.is_empty() {
                missing.push((embedding, new));
            }
        }
        self.encode_questions(&missing, &mut asked)?;
        let all = asked.into_iter().map(|(states, places)| Some((states?, places)));
        all.collect::<Option<_>>().ok_or_else(|| Error::Internal("a question was not encoded".into()))
    }

    /// Encodes questions about images, caches their states and puts them into their places.
    fn encode_questions(&self, missing: &[Missing<'_>], asked: &mut [(Option<Embedding>, Vec<usize>)]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let (images, questions): (Vec<&Embedding>, Vec<Vec<&[u32]>>) =
            missing.iter().map(|(image, new)| (image, new.iter().map(|(_, ids, _)| *ids).collect())).unzip();
        let states = guarded(self.model, "encode_questions", || self.med.encode_questions(&images, &questions))?;
        let states =
            per_source(self.model, "encode_questions", states, missing.iter().map(|(_, questions)| questions.len()))?;
        for ((key, _, place), states) in missing.iter().flat_map(|(_, new)| new).zip(states) {
            let encoded = Encoded { embedding: states.clone(), pixels: None, home: self.device };
            self.inner.cache(self.model, *key, encoded);
            asked[*place].0 = Some(states);
        }
        Ok(())
    }

    fn score_answers(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        let asked = self.asked(units)?;
        let answer = |&place: &usize| match &units[place].work {
            Work::ScoreAnswer { answer, .. } => Some(&**answer),
            _ => None,
        };
        let answers = asked.iter().map(|(_, places)| places.iter().filter_map(answer).collect()).collect();
        let scores = self.scores(units, &asked, answers)?.into_iter();
        in_order(units.len(), &asked, scores.map(|score| Outcome::Score(score.log_likelihood.exp())))
    }

    /// Scores of the answers to each question, all in one row.
    fn scores(&self, units: &[Unit], asked: &[Asked], answers: Vec<Vec<&[u32]>>) -> Result<Vec<AnswerScore>> {
        let states: Vec<&Embedding> = asked.iter().map(|(states, _)| states).collect();
        let cancelled = || self.is_cancelled(units);
        let scores = guarded(self.model, "score_answers", || self.med.score_answers(&states, &answers, &cancelled))?;
        per_source(self.model, "score_answers", scores, answers.iter().map(Vec::len))
    }

    fn rank_answers(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        let asked = self.asked(units)?;
        let lists = |place: usize| match &units[place].work {
            Work::RankAnswers { answers, k, smoothed, .. } => Ok((answers, *k, *smoothed)),
            _ => Err(Error::Internal("a batch of ranks has other work".into())),
        };
        let mut first = None;
        if (0..units.len()).any(|place| lists(place).is_ok_and(|(answers, k, _)| k < answers.len())) {
            let states: Vec<&Embedding> = asked.iter().map(|(states, _)| states).collect();
            let tokens = guarded(self.model, "first_tokens", || self.med.first_tokens(&states))?;
            first = Some(expect(self.model, "first_tokens", tokens, states.len())?);
        }
        // Of each unit, in the order of `asked`, the answers to score.
        let mut chosen: Vec<Vec<usize>> = vec![];
        let mut answers: Vec<Vec<&[u32]>> = vec![];
        for (question, (_, places)) in asked.iter().enumerate() {
            let mut of_question = vec![];
            for &place in places {
                let (list, k, _) = lists(place)?;
                let likeliest = match &first {
                    Some(first) if k < list.len() => answers::likeliest(&first[question], list, k),
                    _ => (0..list.len()).collect(),
                };
                of_question.extend(likeliest.iter().map(|&i| &*list[i]));
                chosen.push(likeliest);
            }
            answers.push(of_question);
        }
        let mut scores = self.scores(units, &asked, answers)?.into_iter();
        let mut outcomes = vec![];
        for (place, chosen) in asked.iter().flat_map(|(_, places)| places).zip(chosen) {
            let (_, _, smoothed) = lists(*place)?;
            let own = scores.by_ref().take(chosen.len());
            let own = own.map(|score| if smoothed { score.smoothed() } else { score.log_likelihood });
            let best = answers::best(own).ok_or_else(|| Error::Internal("no answers to rank".into()))?;
            outcomes.push(Outcome::Best(chosen[best]));
        }
        in_order(units.len(), &asked, outcomes.into_iter())
    }

    fn match_texts(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        let by_image = by_image(units)?;
        let (embeddings, texts): (Vec<&Embedding>, Vec<Vec<&[u32]>>) =
            by_image.iter().map(|(embedding, units)| (embedding, units.iter().filter_map(ids).collect())).unzip();
        let scores = guarded(self.model, "match_texts", || self.med.match_texts(&embeddings, &texts))?;
        let scores = per_source(self.model, "match_texts", scores, by_image.iter().map(|(_, units)| units.len()))?;
        Ok(scores.into_iter().map(Outcome::Score).collect())
    }

    fn project(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        let by_image = by_image(units)?;
        let embeddings: Vec<&Embedding> = by_image.iter().map(|(embedding, _)| embedding).collect();
        let vectors = guarded(self.model, "project", || self.med.project(&embeddings))?;
        Ok(vectors.into_iter().map(Outcome::Vector).collect())
    }

    fn encode_texts(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        let texts: Vec<&[u32]> = units.iter().filter_map(ids).collect();
        let vectors = guarded(self.model, "encode_texts", || self.med.encode_texts(&texts))?;
        Ok(vectors.into_iter().map(Outcome::Vector).collect())
    }
}

/// Counts one result, and the time that it took.
fn count(counters: &Counters, work: &Work, outcome: &Outcome, time: Duration) {
    match (work, outcome) {
        (Work::Caption { .. } | Work::Answer { .. }, Outcome::Ids(sequences)) => {
            counters.captions.add(sequences.len());
            counters.tokens_decoded.add(sequences.iter().map(|ids| ids.len()).sum());
            counters.generate.add(time);
        }
        (Work::Match { .. } | Work::ScoreAnswer { .. }, _) => {
            counters.texts_scored.add(1);
            counters.score.add(time);
        }
        (Work::RankAnswers { answers, k, .. }, _) => {
            counters.texts_scored.add(answers.len().min(*k));
            counters.score.add(time);
        }
        (Work::EmbedText { .. }, _) => {
            counters.texts_encoded.add(1);
            counters.score.add(time);
        }
        (Work::EmbedImage | Work::Caption { .. } | Work::Answer { .. }, _) => counters.score.add(time),
    }
}

fn ids(unit: &Unit) -> Option<&[u32]> {
    match &unit.work {
        Work::Match { ids } | Work::EmbedText { ids } => Some(ids),
        _ => None,
    }
}

/// Groups consecutive units by image and pairs each group with the image's embedding.
fn by_image(units: &[Unit]) -> Result<Vec<(Embedding, &[Unit])>> {
    let chunks = units.chunk_by(|a, b| a.image_id() == b.image_id());
    let with_embedding = chunks.map(|units| Some((units[0].embedding()?, units)));
    with_embedding.collect::<Option<_>>().ok_or_else(|| Error::Internal("an image was not encoded".into()))
}

/// Flattens the results of all images or questions after checking that each has as many as were asked for.
fn per_source<T>(
    model: &Loaded,
    stage: &'static str,
    results: Vec<Vec<T>>,
    asked: impl ExactSizeIterator<Item = usize>,
) -> Result<Vec<T>> {
    let results = expect(model, stage, results, asked.len())?;
    let mut all = vec![];
    for (results, asked) in results.into_iter().zip(asked) {
        all.extend(expect(model, stage, results, asked)?);
    }
    Ok(all)
}

/// Outcomes in the order of the units, from those in the order of `asked`.
fn in_order(units: usize, asked: &[Asked], outcomes: impl Iterator<Item = Outcome>) -> Result<Vec<Outcome>> {
    let mut ordered = vec![None; units];
    for (&place, outcome) in asked.iter().flat_map(|(_, places)| places).zip(outcomes) {
        ordered[place] = Some(outcome);
    }
    let ordered: Option<Vec<Outcome>> = ordered.into_iter().collect();
    ordered.ok_or_else(|| Error::Internal("a unit was left without an outcome".into()))
}
