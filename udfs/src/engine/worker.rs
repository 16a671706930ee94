//! The engine's threads, one for each device of a model: they take batches from the queue and run the models.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::inputs::{Encoded, Image};
use super::job::Job;
use super::memory::Loaded;
use super::shared::{Inner, work_bytes};
use super::stage::Stage;
use super::stats::Counters;
use super::sync::{lock, panic_message};
use super::task::{Key, Outcome, Work, question_key, sample_key};
use crate::blip::generate::Strategy;
use crate::blip::{AnswerScore, Embedding, GenerateRequest, Med, answers};
use crate::error::{Error, Result};

/// Runs until the engine is dropped.
pub(super) fn work(inner: &Inner, device: usize) {
    while let Some(jobs) = next(inner, device) {
        // Panics of models are caught at each model call. A panic of our own fails the batch's calls too, through
        // `Job::drop`.
        if catch_unwind(AssertUnwindSafe(|| execute(inner, device, jobs))).is_err() {
            log::error!("the engine panicked; the calls of this batch fail");
        }
        inner.room.notify_all();
    }
}

/// Waits for the device's next batch; `None` once the engine was dropped.
fn next(inner: &Inner, device: usize) -> Option<Vec<Job>> {
    loop {
        let mut queue = lock(&inner.queue);
        let cancelled = queue.remove(Job::is_cancelled);
        if !cancelled.is_empty() {
            drop(queue);
            drop(cancelled);
            inner.room.notify_all();
            continue;
        }
        let batch = queue.take(device);
        if !batch.is_empty() {
            // While the queue is locked, so that no other device takes work on the same images.
            batch.iter().filter_map(|job| job.image.as_ref()).for_each(|image| image.settle(device));
            return Some(batch);
        }
        if queue.closed {
            return None;
        }
        drop(inner.work.wait(queue).unwrap_or_else(PoisonError::into_inner));
    }
}

/// Jobs with the same key, computed once.
struct Unit {
    jobs: Vec<Job>,
    image: Option<Arc<Image>>,
    work: Work,
}

impl Unit {
    fn is_cancelled(&self) -> bool {
        self.jobs.iter().all(Job::is_cancelled)
    }

    fn image_id(&self) -> Option<*const Image> {
        self.image.as_ref().map(Arc::as_ptr)
    }

    fn embedding(&self) -> Option<Embedding> {
        self.image.as_ref()?.embedding()
    }

    /// Answers all jobs; only the first answer counts.
    fn answer(&mut self, result: &Result<Outcome>) {
        // Released before the caller wakes up, so that it then sees only the in-flight bytes of unfinished jobs.
        self.image = None;
        for job in &mut self.jobs {
            job.image = None;
            job.answer(result.clone());
        }
    }
}

fn execute(inner: &Inner, device: usize, jobs: Vec<Job>) {
    let Some(model) = jobs.first().map(|job| Arc::clone(&job.model)) else { return };
    let mut units = units(inner, jobs);
    let failed = encode(inner, &model, device, &mut units).and_then(|()| {
        units.retain(|unit| !unit.is_cancelled());
        Compute { inner, model: &model, med: model.on(device), device }.run(inner, &mut units)
    });
    if let Err(error) = failed {
        hand_over(inner, &model, device, units, &error);
    }
}

/// Leaves the jobs on which a device failed to the others, or answers those on which all have failed.
fn hand_over(inner: &Inner, model: &Loaded, device: usize, units: Vec<Unit>, error: &Error) {
    let mut left: BTreeMap<u64, Vec<Job>> = BTreeMap::new();
    for mut job in units.into_iter().flat_map(|unit| unit.jobs).filter(|job| !job.answered) {
        job.failed |= 1 << device;
        if model.give_up(device, job.failed) {
            left.entry(job.call.ticket.client().session().id).or_default().push(job);
        } else {
            job.image = None;
            job.answer(Err(error.clone()));
        }
    }
    if left.is_empty() {
        return;
    }
    log::error!("{} is given up, and its work left to others: {error}", model.on(device).device());
    let mut queue = lock(&inner.queue);
    left.into_iter().for_each(|(client, jobs)| queue.push_back(client, jobs));
    drop(queue);
    inner.work.notify_all();
}

/// Deduplicates a batch's jobs and groups them by image. Jobs whose result was computed since they were queued are
/// answered here.
fn units(inner: &Inner, jobs: Vec<Job>) -> Vec<Unit> {
    let (mut units, mut at): (Vec<Unit>, HashMap<_, usize>) = (vec![], HashMap::new());
    for mut job in jobs {
        if let Some(outcome) = inner.remembered(&job.key) {
            job.count(|counters| counters.memo_hits.add(1));
            job.image = None;
            job.answer(Ok(outcome));
        } else if let Some(&unit) = at.get(&job.key) {
            job.count(|counters| counters.memo_hits.add(1));
            units[unit].jobs.push(job);
        } else {
            at.insert(job.key, units.len());
            units.push(Unit { image: job.image.clone(), work: job.work.clone(), jobs: vec![job] });
        }
    }
    let mut order = HashMap::new();
    for unit in &units {
        let next = order.len();
        order.entry(unit.image_id()).or_insert(next);
    }
    units.sort_by_key(|unit| order[&unit.image_id()]);
    units
}

/// Ensures that all images have an embedding. Units whose images did not fit into memory fail.
fn encode(inner: &Inner, model: &Arc<Loaded>, device: usize, units: &mut Vec<Unit>) -> Result<()> {
    let mut images: Vec<Arc<Image>> = vec![];
    for unit in units.iter().filter(|unit| !unit.is_cancelled()) {
        if let Some(image) = &unit.image
            && image.pixels().is_some()
            && !images.iter().any(|other| Arc::ptr_eq(other, image))
        {
            images.push(Arc::clone(image));
        }
    }
    if images.is_empty() {
        return Ok(());
    }
    let mut encode = Encode { inner, model, device, units, failed: vec![] };
    encode.run(inner, &mut images)?;
    let failed = encode.failed;
    for (image, error) in failed {
        for unit in units.iter_mut().filter(|unit| unit.image_id() == Some(image)) {
            unit.answer(&Err(error.clone()));
        }
        units.retain(|unit| unit.image.is_some());
    }
    Ok(())
}

/// Stage that runs the vision encoder.
struct Encode<'a> {
    inner: &'a Inner,
    model: &'a Loaded,
    device: usize,
    units: &'a [Unit],
    failed: Vec<(*const Image, Error)>,
}

impl Stage<Arc<Image>> for Encode<'_> {
    fn bytes(&self, images: &[Arc<Image>]) -> usize {
        self.model.med.work_bytes().encode.saturating_mul(images.len())
    }

    fn middle(&self, images: &[Arc<Image>]) -> usize {
        images.len() / 2
    }

    fn is_cancelled(&self, images: &[Arc<Image>]) -> bool {
        let wanted = |unit: &&Unit| images.iter().any(|image| unit.image_id() == Some(Arc::as_ptr(image)));
        self.units.iter().filter(wanted).all(Unit::is_cancelled)
    }

    fn call(&mut self, images: &mut [Arc<Image>]) -> Result<()> {
        let pixels: Option<Vec<Arc<[u8]>>> = images.iter().map(|image| image.pixels()).collect();
        let pixels = pixels.ok_or_else(|| Error::Internal("an image came to the encoder without pixels".into()))?;
        let pixels: Vec<&[u8]> = pixels.iter().map(|pixels| &**pixels).collect();
        let start = Instant::now();
        let encoded = guarded(self.model, "encode", || self.model.on(self.device).encode(&pixels))?;
        let encoded = expect(self.model, "encode", encoded, images.len())?;
        let each = share(start, images.len());
        for (image, embedding) in images.iter().zip(encoded) {
            let unit = self.units.iter().find(|unit| unit.image_id() == Some(Arc::as_ptr(image)));
            if let Some(job) = unit.and_then(|unit| unit.jobs.first()) {
                job.count(|counters| {
                    counters.images_encoded.add(1);
                    counters.encode.add(each);
                });
            }
            // With another device the pixels stay, in case this one fails.
            let pixels = if self.model.devices() > 1 { image.pixels() } else { None };
            let encoded = Encoded { embedding, pixels, home: self.device };
            self.inner.cache(self.model, *image.key(), encoded.clone());
            image.encoded(encoded);
        }
        Ok(())
    }

    fn fail(&mut self, images: &mut [Arc<Image>], error: Error) {
        self.failed.extend(images.iter().map(|image| (Arc::as_ptr(image), error.clone())));
    }
}

/// Stage after the encoder: generates, matches, answers, projects, or embeds texts.
struct Compute<'a> {
    inner: &'a Inner,
    model: &'a Loaded,
    med: &'a Arc<dyn Med>,
    device: usize,
}

/// What a decoder reads, an image or the states of a question, and the indices of the units that ask for it.
type Asked = (Embedding, Vec<usize>);

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
        // Images, and their questions that are not in the cache: key, ids and place in `asked`.
        let mut missing: Vec<(Embedding, Vec<(Key, &[u32], usize)>)> = vec![];
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
    fn encode_questions(
        &self,
        missing: &[(Embedding, Vec<(Key, &[u32], usize)>)],
        asked: &mut [(Option<Embedding>, Vec<usize>)],
    ) -> Result<()> {
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

/// Each one's share of the time since `start`.
fn share(start: Instant, of: usize) -> Duration {
    start.elapsed() / u32::try_from(of.max(1)).unwrap_or(u32::MAX)
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

/// Runs a model's code and turns a panic into the error of one batch, so that the engine lives on.
fn guarded<T>(model: &Loaded, stage: &'static str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(Error::Internal(format!("model {} panicked in {stage}: {}", model.med.name(), panic_message(&*panic))))
    })
}

/// Checks that a model returned as many results as requested.
fn expect<T>(model: &Loaded, stage: &'static str, results: Vec<T>, n: usize) -> Result<Vec<T>> {
    if results.len() == n {
        return Ok(results);
    }
    Err(Error::Internal(format!("model {} gave {} results for {n} in {stage}", model.med.name(), results.len())))
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
