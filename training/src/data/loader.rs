//! Batches prefetched by threads that decode and augment ahead of the training step.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use capfilt_udfs::image::{Limits, Preprocessor, decode};
use capfilt_udfs::text::{Tokenizer, clean, clean_question};

use super::augment::Augment;
use super::sampler::{Epoch, Pair, Position, Sampler};
use crate::error::{Error, Result};
use crate::random::{Purpose, generator};

/// Preparation of pairs.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Seed of the augmentation.
    pub seed: u64,
    /// Augmentation of images.
    pub augment: Augment,
    /// Preprocessing for the vision encoder.
    pub preprocessor: Preprocessor,
    /// Size limits of an image.
    pub limits: Limits,
    /// Maximum tokens per text.
    pub text_tokens: usize,
    /// Whether texts go through BLIP's cleaning: captions through `pre_caption`, questions through `pre_question`.
    pub clean_text: bool,
    /// Prefix of each text.
    pub prompt: String,
    /// Number of decoding threads.
    pub threads: usize,
    /// Number of pairs prefetched.
    pub ahead: usize,
}

/// A pair ready for training.
#[derive(Debug, PartialEq)]
struct Prepared {
    /// Normalised pixels in three planes, `[3, size, size]`.
    pixels: Vec<f32>,
    ids: Arc<[u32]>,
    image_id: u64,
    /// Token ids and weight of each answer.
    answers: Vec<(Arc<[u32]>, f32)>,
}

/// Pairs of a step as plain vectors, before libtorch.
#[derive(Debug, Default, PartialEq)]
pub struct RawBatch {
    /// Normalised pixels, `[B, 3, size, size]`.
    pub pixels: Vec<f32>,
    /// Token ids of each text or question, [CLS] first.
    pub ids: Vec<Arc<[u32]>>,
    /// Image id of each row.
    pub image_ids: Vec<u64>,
    /// Answers to the questions; empty for pairs.
    pub answers: Vec<RawAnswer>,
}

/// An answer to a question of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct RawAnswer {
    /// Row of the question.
    pub question: usize,
    /// Token ids, [CLS] first.
    pub ids: Arc<[u32]>,
    /// Weight in the loss.
    pub weight: f32,
}

/// Result of preparing a pair, or the reason why its image cannot be used.
type Outcome = Result<Prepared, String>;

/// A prefetched pair: the receiver of its outcome and the tables' epochs, or the error that ended reading.
type Promise = Result<(Receiver<Outcome>, Arc<[Epoch]>)>;

/// Loader that returns batches in the sampler's order.
#[derive(Debug)]
pub struct Loader {
    promises: Receiver<Promise>,
    /// Position after the pairs taken so far, including bad ones; a resumed run continues there.
    position: Position,
    /// Pairs skipped because their image could not be used.
    skipped: u64,
    last_reason: String,
}

/// Consecutive bad images after which loading fails, as that many are no accident.
const MOST_BAD: u64 = 10_000;

impl Loader {
    /// Starts the threads. `position` is where an earlier run stopped, and `skipped` its number of bad pairs.
    pub fn start(
        mut sampler: Sampler,
        tokenizer: Arc<Tokenizer>,
        options: LoaderOptions,
        position: Position,
        skipped: u64,
    ) -> Result<Self> {
        let (promise, promises) = sync_channel::<Promise>(options.ahead.max(1));
        let (job, jobs) = sync_channel::<(Pair, SyncSender<Outcome>)>(options.ahead.max(1));
        let jobs = Arc::new(Mutex::new(jobs));
        let options = Arc::new(options);
        for _ in 0..options.threads.max(1) {
            let (jobs, tokenizer, options) = (Arc::clone(&jobs), Arc::clone(&tokenizer), Arc::clone(&options));
            spawn("decode", move || {
                loop {
                    let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((pair, outcome)) = next else { return };
                    // Fails only if the loader was dropped.
                    let _ = outcome.send(prepare(&pair, &tokenizer, &options));
                }
            })?;
        }
        let from = position.clone();
        spawn("read", move || {
            let mut feed = || -> Result<()> {
                sampler.skip(&from)?;
                loop {
                    let pair = sampler.draw()?;
                    let (sender, receiver) = sync_channel(1);
                    let promised = Ok((receiver, Arc::clone(&pair.epochs)));
                    if job.send((pair, sender)).is_err() || promise.send(promised).is_err() {
                        return Ok(());
                    }
                }
            };
            if let Err(error) = feed() {
                let _ = promise.send(Err(error));
            }
        })?;
        Ok(Self { promises, position, skipped, last_reason: String::new() })
    }

    /// Position after the pairs taken so far, including bad ones.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Pairs skipped because their image could not be used.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Error of the last skipped pair; empty if none was skipped.
    pub fn last_reason(&self) -> &str {
        &self.last_reason
    }

    /// Returns the next `rows` good pairs.
    ///
    /// # Errors
    /// A table that cannot be read further, or thousands of bad images in a row.
    pub fn batch(&mut self, rows: usize) -> Result<RawBatch> {
        let mut batch = RawBatch::default();
        let mut bad = 0;
        while batch.ids.len() < rows {
            let gone = || Error::Option("the thread that reads the tables has died".into());
            let (outcome, epochs) = self.promises.recv().map_err(|_| gone())??;
            let outcome = outcome.recv().map_err(|_| gone())?;
            self.position = Position { pairs: self.position.pairs + 1, epochs: epochs.to_vec() };
            match outcome {
                Ok(ready) => {
                    bad = 0;
                    let question = batch.ids.len();
                    let answer = |(ids, weight)| RawAnswer { question, ids, weight };
                    batch.answers.extend(ready.answers.into_iter().map(answer));
                    batch.pixels.extend_from_slice(&ready.pixels);
                    batch.ids.push(ready.ids);
                    batch.image_ids.push(ready.image_id);
                }
                Err(reason) => {
                    bad += 1;
                    self.skipped += 1;
                    if bad == MOST_BAD {
                        return Err(Error::Option(format!(
                            "{MOST_BAD} images in a row cannot be used; the last: {reason}"
                        )));
                    }
                    self.last_reason = reason;
                }
            }
        }
        Ok(batch)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = std::thread::Builder::new().name(format!("capfilt-{name}")).stack_size(8 << 20).spawn(work);
    spawned.map(drop).map_err(|e| Error::Option(format!("cannot start a thread: {e}")))
}

fn prepare(pair: &Pair, tokenizer: &Tokenizer, options: &LoaderOptions) -> Outcome {
    let image = decode(&pair.image, &options.limits).map_err(|e| e.to_string())?;
    let rng = &mut generator(options.seed, pair.number, Purpose::Augment);
    // Sides count whether the question or an answer speaks of them.
    let said: Vec<&str> = std::iter::once(&*pair.text).chain(pair.answers.iter().map(|answer| &*answer.text)).collect();
    let said = said.join(" ");
    let bytes = options.augment.apply(&image, &said, &options.preprocessor, rng).map_err(|e| e.to_string())?;
    let mut pixels = vec![0.0; bytes.len()];
    options.preprocessor.normalise_into(&bytes, &mut pixels);
    let text = match (options.clean_text, pair.answers.is_empty()) {
        (false, _) => pair.text.to_string(),
        (true, true) => clean(&pair.text),
        (true, false) => clean_question(&pair.text),
    };
    let ids = tokenizer.itc_ids(&format!("{}{text}", options.prompt), options.text_tokens);
    // Neither cleaned nor truncated, but for the model's positions.
    let answers = pair.answers.iter().map(|answer| (tokenizer.itc_ids(&answer.text, usize::MAX), answer.weight));
    Ok(Prepared { pixels, ids, image_id: pair.image_id, answers: answers.collect() })
}
