//! A training step: one ViT pass, text passes (three in pretraining), one backward pass.

use capfilt_udfs::blip::TextConfig;
use tch::{Device, Kind, Tensor, no_grad};

use crate::adamw::{AdamW, clip};
use crate::config::MedConfig;
use crate::data::RawBatch;
use crate::error::{Error, Result};
use crate::losses::{self, Features, Negatives, Similarities};
use crate::med::{Med, SourceKv, Texts};
use crate::params::Params;
use crate::random::{Purpose, generator, seed_torch};

pub use crate::step_options::StepOptions;

/// Pairs of one step, or images with questions, on the device.
#[derive(Debug)]
pub struct Batch {
    /// Normalised pixels, `[B, 3, size, size]`.
    pub pixels: Tensor,
    /// The B texts or questions.
    pub texts: Texts,
    /// Image id of each row.
    pub image_ids: Vec<u64>,
    /// Answers to the questions; `None` for pairs.
    pub answers: Option<Answers>,
}

/// Answers to the questions of a batch.
#[derive(Debug)]
pub struct Answers {
    /// The M answers.
    pub texts: Texts,
    /// `[M]`, int64: row of the question that each answers.
    pub questions: Tensor,
    /// `[M]`, float32: weight of each in the loss.
    pub weights: Tensor,
}

/// Measurements of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepReport {
    /// ITC loss; 0 if it is off.
    pub itc: f64,
    /// ITM loss; 0 if it is off.
    pub itm: f64,
    /// LM loss, which is an answerer's only one; 0 if it is off.
    pub lm: f64,
    /// Gradient norm before clipping.
    pub gradient_norm: f64,
    /// Learned temperature before the step.
    pub temperature: f64,
    /// Texts and images of the batch without a negative, because all others show the same image or have the same text.
    pub without_negative: usize,
}

impl StepReport {
    /// Accumulates a batch: losses scaled by `weight`, the temperature replaced, counts summed.
    pub(crate) fn add(&mut self, batch: &Self, weight: f64) {
        self.itc += weight * batch.itc;
        self.itm += weight * batch.itm;
        self.lm += weight * batch.lm;
        self.temperature = batch.temperature;
        self.without_negative += batch.without_negative;
    }
}

/// Losses of a batch as tensors; `None` for those that are off.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) itc: Option<Tensor>,
    pub(crate) itm: Option<Tensor>,
    pub(crate) lm: Option<Tensor>,
    pub(crate) similarities: Option<Similarities>,
    pub(crate) negatives: Option<Negatives>,
    /// Features of this batch from the momentum encoders.
    pub(crate) momentum: Option<Features>,
}

/// Range to which the temperature is clamped.
const TEMPERATURES: (f64, f64) = (0.001, 0.5);
const FIRST_TEMPERATURE: f64 = 0.07;

/// A MED or an answerer in training: all state that a checkpoint must hold.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) config: MedConfig,
    pub(crate) options: StepOptions,
    pub(crate) seed: u64,
    pub(crate) params: Params,
    pub(crate) momentum: Params,
    /// Queues of `[queue, projection]` each, with the oldest features at `queue_at`.
    pub(crate) queues: Features,
    /// `[queue]`: image ids of the queued features; -100, which matches no image, at the start.
    pub(crate) queue_ids: Tensor,
    pub(crate) queue_at: i64,
    pub(crate) adamw: AdamW,
    /// Batches accumulated for the next step.
    accumulated: u64,
    pub(crate) device: Device,
}

impl Trainer {
    /// Creates a model from scratch. Weights are drawn from the seed as in BERT and ViT (normal, biases 0, norms 1):
    /// with deviation 0.02 at their width of 768, and in proportion to 1 / sqrt(width) at others, so that a narrow
    /// model starts with equally strong signals.
    pub fn new(config: MedConfig, options: StepOptions, seed: u64, device: Device) -> Result<Self> {
        config.validate()?;
        if options.queue < 0 || !(0.0..=1.0).contains(&options.momentum) {
            return Err(Error::Option("queue must not be negative, and momentum lie from 0 to 1".into()));
        }
        let params = Params::zeros(&config.shapes(), device, true);
        initialise(&params, &config, seed)?;
        let momentum = Params::zeros(&config.momentum_shapes(), device, false);
        let held = seed_torch(seed, 0, Purpose::Queues);
        let feature = || {
            let drawn = Tensor::randn([options.queue, config.projection as i64], (Kind::Float, Device::Cpu));
            (&drawn / drawn.norm_scalaropt_dim(2, [-1], true)).to_device(device)
        };
        let queues = Features { images: feature(), texts: feature() };
        drop(held);
        let queue_ids = Tensor::full([options.queue], -100, (Kind::Int64, device));
        let adamw = AdamW::new(params.flat(), options.adamw);
        momentum.follow(&params, 0.0);
        Ok(Self {
            config,
            options,
            seed,
            params,
            momentum,
            queues,
            queue_ids,
            queue_at: 0,
            adamw,
            accumulated: 0,
            device,
        })
    }

    /// Copies the model into the momentum encoders. Must be called after weights were set from elsewhere.
    pub fn begin_momentum(&self) {
        self.momentum.follow(&self.params, 0.0);
    }

    /// Parameters of the model.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Sizes of the model.
    pub fn config(&self) -> &MedConfig {
        &self.config
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.adamw.steps
    }

    /// Number of the batch, which seeds its dropout and negatives.
    fn batches(&self) -> u64 {
        self.steps() << 16 | self.accumulated
    }

    fn kind(&self) -> Kind {
        if self.options.bfloat16 { Kind::BFloat16 } else { Kind::Float }
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let side = self.config.vision.image_size as i64;
        let (rows, pixels, ids) = (batch.image_ids.len() as i64, batch.pixels.size(), batch.texts.ids.size());
        if pixels != [rows, 3, side, side] || ids.len() != 2 || ids[0] != rows || rows == 0 {
            return Err(Error::Option(format!(
                "a batch of {rows} image ids has pixels {pixels:?} and token ids {ids:?}; they must be [B, 3, {side}, {side}] and [B, L]"
            )));
        }
        self.check_texts(&batch.texts)?;
        match (&batch.answers, self.config.is_answerer()) {
            (None, false) => {}
            (Some(answers), true) => {
                self.check_texts(&answers.texts)?;
                let sizes = [&answers.texts.ids, &answers.questions, &answers.weights].map(|tensor| tensor.size()[0]);
                let (low, high) = (answers.questions.min().int64_value(&[]), answers.questions.max().int64_value(&[]));
                if sizes[1..] != [sizes[0]; 2] || low < 0 || high >= rows {
                    return Err(Error::Option(format!(
                        "{} answers have {} questions, from {low} to {high}, and {} weights, in a batch of {rows} questions",
                        sizes[0], sizes[1], sizes[2]
                    )));
                }
            }
            (answers, _) => {
                let (model, has) = match answers {
                    None => ("an answerer", "no answers"),
                    Some(_) => ("a MED", "answers"),
                };
                return Err(Error::Option(format!("the model is {model}, and the batch has {has}")));
            }
        }
        if self.options.itc && self.options.queue > 0 && self.options.queue % rows != 0 {
            return Err(Error::Option(format!("the batch of {rows} must divide the queue of {}", self.options.queue)));
        }
        Ok(())
    }

    fn check_texts(&self, texts: &Texts) -> Result<()> {
        let TextConfig { max_positions, vocab_size, .. } = self.config.text;
        let length = texts.ids.size()[1];
        if length < 2 || length > max_positions as i64 {
            return Err(Error::Option(format!(
                "texts of {length} tokens: from 2 to {max_positions} can be trained on"
            )));
        }
        let (low, high) = (texts.ids.min().int64_value(&[]), texts.ids.max().int64_value(&[]));
        if low < 0 || high >= vocab_size as i64 {
            return Err(Error::Option(format!("token ids from {low} to {high} in a vocabulary of {vocab_size}")));
        }
        Ok(())
    }

    /// Moves a prepared batch to the model's device, with its texts padded to the longest.
    pub fn batch(&self, raw: &RawBatch) -> Batch {
        let side = self.config.vision.image_size as i64;
        let pixels = Tensor::from_slice(&raw.pixels).view([raw.ids.len() as i64, 3, side, side]);
        let on_device = |tensor: Tensor| tensor.to_device(self.device);
        let answers = (!raw.answers.is_empty()).then(|| {
            let questions: Vec<i64> = raw.answers.iter().map(|answer| answer.question as i64).collect();
            let weights: Vec<f32> = raw.answers.iter().map(|answer| answer.weight).collect();
            Answers {
                texts: self.texts(&raw.answers.iter().map(|answer| &*answer.ids).collect::<Vec<_>>()),
                questions: on_device(Tensor::from_slice(&questions)),
                weights: on_device(Tensor::from_slice(&weights)),
            }
        });
        let texts = self.texts(&raw.ids.iter().map(|ids| &**ids).collect::<Vec<_>>());
        Batch { pixels: on_device(pixels), texts, image_ids: raw.image_ids.clone(), answers }
    }

    /// Pads token ids to the longest.
    fn texts(&self, rows: &[&[u32]]) -> Texts {
        let pad = self.config.text.pad_token_id;
        let length = rows.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let padded = rows.iter().flat_map(|ids| {
            let ids = ids.iter().copied().chain(std::iter::repeat(pad)).take(length);
            ids.map(i64::from).collect::<Vec<_>>()
        });
        let ids = Tensor::from_slice(&padded.collect::<Vec<_>>()).view([rows.len() as i64, length as i64]);
        Texts::new(ids.to_device(self.device), pad)
    }

    /// Takes one step. `alpha` is the share of the momentum encoders in ITC's targets.
    pub fn step(&mut self, batch: &Batch, learning_rate: f64, alpha: f64) -> Result<StepReport> {
        self.check(batch)?;
        let mut gradient = None;
        let mut report = self.accumulate(batch, alpha, 1.0, &mut gradient)?;
        if let Some(gradient) = gradient {
            report.gradient_norm = self.apply(gradient, learning_rate)?;
        }
        Ok(report)
    }

    /// Adds `weight` times a batch's gradient to `gradient`, for [`Self::apply`]: several small batches make one step.
    pub fn accumulate(
        &mut self,
        batch: &Batch,
        alpha: f64,
        weight: f64,
        gradient: &mut Option<Tensor>,
    ) -> Result<StepReport> {
        self.check(batch)?;
        if let Some(temp) = self.params.get("temp") {
            let _ = no_grad(|| temp.shallow_clone().clamp_(TEMPERATURES.0, TEMPERATURES.1));
        }
        if self.options.itc && gradient.is_none() {
            self.momentum.follow(&self.params, self.options.momentum);
        }
        let held = seed_torch(self.seed, self.batches(), Purpose::Dropout);
        let losses = self.losses(batch, alpha, None)?;
        drop(held);
        let all: Vec<&Tensor> = [&losses.itc, &losses.itm, &losses.lm].into_iter().flatten().collect();
        let Some((first, rest)) = all.split_first() else {
            return Err(Error::Option("all losses are off: leave on itc, itm or lm".into()));
        };
        let total = rest.iter().fold(first.shallow_clone(), |sum, loss| sum + *loss) * weight;
        let own = self.params.gradient(&total)?;
        *gradient = Some(match gradient.take() {
            Some(sum) => sum + own,
            None => own,
        });
        if let Some(features) = &losses.momentum {
            self.enqueue(features, &ids(batch, self.device));
        }
        self.accumulated += 1;
        let value = |loss: &Option<Tensor>| loss.as_ref().map_or(0.0, |loss| loss.double_value(&[]));
        let drawn = losses.negatives.as_ref().map(|n| n.images.len() + n.texts.len());
        Ok(StepReport {
            itc: value(&losses.itc),
            itm: value(&losses.itm),
            lm: value(&losses.lm),
            gradient_norm: 0.0,
            temperature: self.params.get("temp").map_or(0.0, |temp| temp.double_value(&[])),
            without_negative: drawn.map_or(0, |drawn| 2 * batch.image_ids.len() - drawn),
        })
    }

    /// Applies a gradient and returns its norm before clipping. Fails without changing anything if the norm is not
    /// finite.
    pub fn apply(&mut self, mut gradient: Tensor, learning_rate: f64) -> Result<f64> {
        let norm = clip(&mut gradient, self.options.clip);
        if !norm.is_finite() {
            return Err(Error::Option(format!(
                "the gradient of step {} is not finite: lower the learning rate, or clip the gradient",
                self.steps()
            )));
        }
        self.adamw.step(self.params.flat(), &gradient, learning_rate);
        self.accumulated = 0;
        Ok(norm)
    }

    /// Computes the losses of a batch. Negatives are drawn unless given.
    pub(crate) fn losses(&self, batch: &Batch, alpha: f64, negatives: Option<Negatives>) -> Result<Losses> {
        let med = Med::new(&self.config, &self.params, self.kind(), true);
        let tokens = med.image_tokens(&batch.pixels);
        if let Some(answers) = &batch.answers {
            return Ok(Losses { lm: Some(self.answer_loss(&med, batch, answers, &tokens)), ..Losses::default() });
        }
        let mut losses = Losses::default();
        let temp = self.params.get("temp").ok_or_else(|| Error::Option("there is no parameter temp".into()))?;
        let mut similarities = None;
        if self.options.itc || self.options.itm {
            let live = Features { images: med.image_features(&tokens), texts: med.text_features(&batch.texts) };
            if self.options.itc {
                let momentum = match self.options.momentum > 0.0 {
                    true => self.momentum_features(batch),
                    false => Features { images: live.images.shallow_clone(), texts: live.texts.shallow_clone() },
                };
                let with_queue = |own: &Tensor, queue: &Tensor| Tensor::cat(&[own, queue], 0);
                let keys = Features {
                    images: with_queue(&momentum.images, &self.queues.images),
                    texts: with_queue(&momentum.texts, &self.queues.texts),
                };
                let pairs = match self.options.by_image {
                    true => {
                        let own = ids(batch, self.device);
                        losses::same_image(&own, &with_queue(&own, &self.queue_ids))
                    }
                    false => Tensor::eye_m(keys_of(&live.images), keys_of(&keys.texts), (Kind::Float, self.device)),
                };
                let (loss, found) = losses::itc(&live, &momentum, &keys, &pairs, temp, alpha);
                losses.itc = Some(loss);
                losses.momentum = Some(momentum);
                similarities = Some(found);
            }
            if !self.options.itc || self.options.by_image {
                let image_to_text = live.images.matmul(&live.texts.transpose(0, 1)) / temp;
                let text_to_image = image_to_text.transpose(0, 1);
                similarities = Some(Similarities { image_to_text, text_to_image });
            }
        }
        let encoder_kv = if self.options.itm || self.options.lm { Some(med.encoder_kv(&tokens)) } else { None };
        if let (true, Some(kv), Some(similarities)) = (self.options.itm, &encoder_kv, &similarities) {
            let negatives = negatives.unwrap_or_else(|| self.draw_negatives(batch, similarities));
            losses.itm = Some(self.match_loss(&med, batch, kv, &negatives));
            losses.negatives = Some(negatives);
        }
        losses.similarities = similarities;
        if let (true, Some(kv)) = (self.options.lm, &encoder_kv) {
            let own = med.decoder_kv(&tokens);
            let logits = med.decoder_logits(&batch.texts, own.as_ref().unwrap_or(kv));
            let StepOptions { prompt_tokens, label_smoothing, .. } = self.options;
            losses.lm = Some(losses::lm(&logits, &batch.texts.ids, &batch.texts.mask, prompt_tokens, label_smoothing));
        }
        Ok(losses)
    }

    /// ITM loss over the true pairs, each text with a wrong image, and each image with a wrong text, in one pass.
    fn match_loss(&self, med: &Med<'_>, batch: &Batch, kv: &SourceKv, negatives: &Negatives) -> Tensor {
        let rows = batch.image_ids.len() as i64;
        let pairs = (0..rows).map(|i| (i, i));
        let all = pairs.chain(negatives.images.iter().copied()).chain(negatives.texts.iter().copied());
        let (texts, images): (Vec<i64>, Vec<i64>) = all.unzip();
        let index = |rows: &[i64]| Tensor::from_slice(rows).to_device(self.device);
        let logits = med.match_logits(&batch.texts.select(&index(&texts)), &kv.select(&index(&images)));
        losses::itm(&logits, rows)
    }

    /// Loss of the answers to a batch's questions, whose states are computed once for all answers to a question.
    fn answer_loss(&self, med: &Med<'_>, batch: &Batch, answers: &Answers, tokens: &Tensor) -> Tensor {
        let Answers { texts, questions, weights } = answers;
        let asked = med.question_kv(&batch.texts, &med.encoder_kv(tokens)).select(questions);
        let logits = med.decoder_logits(texts, &asked);
        let (images, smoothing) = (batch.image_ids.len() as i64, self.options.label_smoothing);
        losses::answers(&logits, &texts.ids, &texts.mask, weights, images, smoothing)
    }

    fn draw_negatives(&self, batch: &Batch, similarities: &Similarities) -> Negatives {
        let ids = batch.texts.ids.to_device(Device::Cpu);
        let texts: Vec<Vec<i64>> = (0..ids.size()[0]).map(|i| Vec::try_from(ids.get(i)).unwrap_or_default()).collect();
        let same = losses::same_pairs(&batch.image_ids, &texts).to_device(self.device);
        let even;
        let similarities = if self.options.hard_negatives {
            similarities
        } else {
            let zeros = same.zeros_like().to_kind(Kind::Float);
            even = Similarities { image_to_text: zeros.shallow_clone(), text_to_image: zeros };
            &even
        };
        let floor = if self.options.by_image { 0.0 } else { 1e-4 };
        losses::negatives(similarities, &same, floor, &mut generator(self.seed, self.batches(), Purpose::Negatives))
    }

    fn momentum_features(&self, batch: &Batch) -> Features {
        no_grad(|| {
            let med = Med::new(&self.config, &self.momentum, self.kind(), true);
            let images = med.image_features(&med.image_tokens(&batch.pixels));
            Features { images, texts: med.text_features(&batch.texts) }
        })
    }

    /// Replaces the oldest features of the queues by the batch's momentum features.
    fn enqueue(&mut self, features: &Features, ids: &Tensor) {
        let rows = features.images.size()[0];
        if self.options.queue == 0 {
            return;
        }
        for (queue, new) in [(&self.queues.images, &features.images), (&self.queues.texts, &features.texts)] {
            no_grad(|| queue.narrow(0, self.queue_at, rows).copy_(new));
        }
        self.queue_ids.narrow(0, self.queue_at, rows).copy_(ids);
        self.queue_at = (self.queue_at + rows) % self.options.queue;
    }
}

/// Image ids of the batch, `[B]`.
fn ids(batch: &Batch, device: Device) -> Tensor {
    let ids: Vec<i64> = batch.image_ids.iter().map(|id| *id as i64).collect();
    Tensor::from_slice(&ids).to_device(device)
}

fn keys_of(features: &Tensor) -> i64 {
    features.size()[0]
}

fn initialise(params: &Params, config: &MedConfig, seed: u64) -> Result<()> {
    let _held = seed_torch(seed, 0, Purpose::Weights);
    for name in params.names() {
        let Some(leaf) = params.get(name) else { continue };
        let shape = leaf.size();
        let options = (Kind::Float, Device::Cpu);
        let width = if name.starts_with("vision") { config.vision.width } else { config.text.width };
        let deviation = 0.02 * (768.0 / width as f64).sqrt();
        let value = match () {
            () if name == "temp" => Tensor::full(&shape, FIRST_TEMPERATURE, options),
            () if name.ends_with("bias") => Tensor::zeros(&shape, options),
            () if shape.len() == 1 => Tensor::ones(&shape, options),
            () => Tensor::randn(&shape, options) * deviation,
        };
        params.set(name, &value)?;
    }
    Ok(())
}
