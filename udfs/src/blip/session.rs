//! A checkpoint on ONNX Runtime: one session per graph, created on first use.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ort::session::Session;
use ort::session::builder::PrepackedWeights;
use ort::value::DynValue;

use super::checkpoint::{Checkpoint, EncoderNames, NO_DECODER, NO_ITM_HEAD, NO_QUESTIONS};
use super::device::{self, Device, RUN_IMAGES};
use super::graph::tensors::TextNames;
use super::graph::{self, Graph, Source};
use super::med::{DeviceMemory, Precision, Room};
use super::resident::{self, Feeds, Meter, Outputs};
use super::runtime;
use super::values::{Inputs, Named, floats, ints, lock, tensor_i32, tensor_i64};
use super::work::work_bytes;
use crate::error::{Error, Result};

/// Graphs of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Normalisation of pixels, on a device.
    Pixels,
    Vision,
    ImageProjection,
    DecoderKv,
    /// Decoder whose scores are logits.
    Decoder,
    /// Decoder whose scores are their log-softmax.
    BeamDecoder,
    EncoderKv,
    Match,
    /// Question encoder.
    Question,
    /// Answer decoder that scores whole answers.
    AnswerScores,
    Text,
    /// Rows of the decoder's scores, taken from a device.
    ScoreRows,
    /// Images, taken from a device.
    ImageRows,
}

impl Part {
    /// Whether its graph has the images of a run apart.
    fn is_of_images(self) -> bool {
        matches!(self, Self::Vision | Self::ImageProjection | Self::DecoderKv | Self::EncoderKv)
    }

    fn stage(self) -> &'static str {
        match self {
            Self::Pixels => "the normalisation of pixels",
            Self::Vision => "the vision encoder",
            Self::ImageProjection => "the image projection",
            Self::DecoderKv | Self::EncoderKv => "the cross-attention keys and values",
            Self::Decoder | Self::BeamDecoder => "the text decoder",
            Self::Match => "image-text matching",
            Self::Question => "the question encoder",
            Self::AnswerScores => "the scores of answers",
            Self::Text => "the text encoder",
            Self::ScoreRows => "whole rows of scores",
            Self::ImageRows => "embeddings of images",
        }
    }
}

/// A part's session, once it is made. Different parts are made at the same time.
type Slot = Arc<Mutex<Option<Arc<Mutex<Session>>>>>;

/// A checkpoint loaded for one device and precision.
pub struct OrtMed {
    // Declared before the checkpoint, into whose mapped weights the sessions point.
    sessions: Mutex<BTreeMap<Part, Slot>>,
    /// Packed weights, shared between sessions: those of the vision encoder, and those of all other parts. ONNX Runtime
    /// locks a container while a session packs, so the vision encoder has its own and can be made beside the other
    /// parts.
    prepacked: [PrepackedWeights; 2],
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) name: String,
    pub(super) digest: [u8; 32],
    pub(super) device: Device,
    pub(super) device_name: String,
    pub(super) precision: Precision,
    threads: usize,
    /// Bytes of the device's memory for all models together; `None` on the CPU.
    memory: Option<usize>,
    /// Images of each run on a device; `None` on the CPU.
    run_images: Option<AtomicUsize>,
    pub(super) meter: Meter,
}

impl std::fmt::Debug for OrtMed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OrtMed({}, {}, {})", self.name, self.device_name, self.precision)
    }
}

impl OrtMed {
    /// Loads a checkpoint. `device` is a setting's value (auto, cpu, cuda:N); `threads` 0 means all cores.
    pub fn new(checkpoint: Arc<Checkpoint>, device: &str, precision: Precision, threads: usize) -> Result<Self> {
        Self::in_room(checkpoint, device, precision, threads, Room::default())
    }

    /// Loads a checkpoint as [`OrtMed::new`] does; on a device apart from the host its runs fit into `room`.
    pub fn in_room(
        checkpoint: Arc<Checkpoint>,
        device: &str,
        precision: Precision,
        threads: usize,
        room: Room,
    ) -> Result<Self> {
        let device = runtime::device(device)?;
        let memory = match device {
            Device::Cpu => return Self::on(checkpoint, device, precision, threads, None),
            Device::Fake(_) => room.memory.unwrap_or(usize::MAX),
            Device::Cuda(id) => room.memory.map_or_else(|| runtime::free_memory(id), Ok)?,
        };
        let work = work_bytes(&checkpoint.config, precision);
        // A caption by three beams, as BLIP's; with more, runs are halved when memory runs out.
        let image = work.encode.max(work.generate + 2 * work.per_sequence).max(work.match_text);
        let images = device::run_images(memory, image, room.images.unwrap_or(RUN_IMAGES)).ok_or_else(|| {
            Error::OutOfMemory(format!(
                "{} takes {image} bytes for one image, and half of the {memory} of {device} are for work: SET \
                 capfilt.device_memory to at least {}",
                checkpoint.dir.display(),
                image.saturating_mul(2)
            ))
        })?;
        Self::on(checkpoint, device, precision, threads, Some((memory, images)))
    }

    /// Loads a checkpoint for a device that is apart from the host as a GPU is, but computes on the CPU, `images` a run.
    /// `number` is the device's. For tests.
    #[doc(hidden)]
    pub fn on_fake_device(
        checkpoint: Arc<Checkpoint>,
        precision: Precision,
        images: usize,
        number: i32,
    ) -> Result<Self> {
        Self::on(checkpoint, Device::Fake(number), precision, 0, Some((usize::MAX, images.max(1))))
    }

    fn on(
        checkpoint: Arc<Checkpoint>,
        device: Device,
        precision: Precision,
        threads: usize,
        apart: Option<(usize, usize)>,
    ) -> Result<Self> {
        if checkpoint.parts.answerer && device != Device::Cpu {
            return Err(Error::Option(format!(
                "{}: answerers run on the CPU, not on {device}: SET capfilt.device to cpu, or to auto, which is the CPU for \
                 them",
                checkpoint.dir.display()
            )));
        }
        match (precision, device) {
            (Precision::Int8, Device::Cuda(_) | Device::Fake(_)) => {
                return Err(Error::Option(
                    "capfilt.precision 'int8' is for the CPU; use 'fp32' or 'fp16' with cuda".into(),
                ));
            }
            (Precision::Fp16, Device::Cpu) => {
                return Err(Error::Option(
                    "capfilt.precision 'fp16' is for GPUs; use 'fp32' or 'int8' on the CPU".into(),
                ));
            }
            _ => {}
        }
        runtime::environment()?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Self {
            sessions: Mutex::new(BTreeMap::new()),
            prepacked: [PrepackedWeights::new(), PrepackedWeights::new()],
            name: checkpoint.dir.display().to_string(),
            digest: checkpoint.digest()?,
            device,
            device_name: device.to_string(),
            precision,
            threads: if threads == 0 { cores } else { threads },
            memory: apart.map(|(memory, _)| memory),
            run_images: apart.map(|(_, images)| AtomicUsize::new(images)),
            meter: Meter::default(),
            checkpoint,
        })
    }

    /// The device's memory; `None` on the CPU.
    pub(super) fn memory(&self) -> Option<DeviceMemory> {
        let vision = &self.checkpoint.config.vision;
        let embedding = vision.tokens() * vision.width * if self.precision == Precision::Fp16 { 2 } else { 4 };
        self.memory.map(|limit| DeviceMemory { limit, embedding })
    }

    /// Images of each run on a device; `None` on the CPU, whose runs have as many as there are.
    pub(super) fn apart(&self) -> Option<usize> {
        self.run_images.as_ref().map(|images| images.load(Ordering::Acquire))
    }

    fn graph(&self, part: Part) -> Graph {
        let c = &self.checkpoint;
        let (vision, text, projection, w, p, apart) =
            (&c.config.vision, &c.config.text, c.config.projection, &c.weights, self.precision, self.apart());
        let decoder = c.decoder_names();
        let source = self.source(Part::DecoderKv);
        match part {
            Part::Pixels => graph::pixels(vision, &c.preprocessor.tables(), w),
            Part::Vision => graph::vision_encoder(vision, w, p, apart),
            Part::ImageProjection => graph::image_projection(vision, projection, w, p, apart),
            Part::DecoderKv => graph::cross_kv(text, &decoder, source, w, p, apart),
            Part::Decoder | Part::BeamDecoder => {
                graph::decoder_step(text, &decoder, source, w, p, part == Part::BeamDecoder, apart.is_some())
            }
            Part::EncoderKv => graph::cross_kv(text, &EncoderNames, Source::Image, w, p, apart),
            Part::Match => graph::match_texts(text, &EncoderNames, w, p),
            Part::Question => graph::question_encoder(text, &EncoderNames, w, p),
            Part::AnswerScores => graph::answer_scores(text, &decoder, w, p),
            Part::Text => graph::text_encoder(text, projection, &EncoderNames, w, p),
            Part::ScoreRows => graph::selected_rows(&[text.vocab_size], w, Precision::Fp32),
            Part::ImageRows => graph::selected_rows(&[vision.tokens(), vision.width], w, p),
        }
    }

    /// What the cross-attention of a part that makes keys and values reads.
    pub(super) fn source(&self, part: Part) -> Source {
        if part == Part::DecoderKv && self.checkpoint.parts.answerer { Source::Question } else { Source::Image }
    }

    /// The part's session; an error if the checkpoint lacks the part.
    fn session(&self, part: Part) -> Result<Arc<Mutex<Session>>> {
        let parts = self.checkpoint.parts;
        let (has, what) = match part {
            Part::Pixels | Part::Vision | Part::ImageRows => (true, ""),
            Part::ScoreRows | Part::DecoderKv | Part::Decoder | Part::BeamDecoder => {
                (parts.captioner || parts.answerer, NO_DECODER)
            }
            Part::EncoderKv => (parts.matcher || parts.answerer, NO_ITM_HEAD),
            Part::Match => (parts.matcher, NO_ITM_HEAD),
            Part::Question | Part::AnswerScores => (parts.answerer, NO_QUESTIONS),
            Part::ImageProjection | Part::Text => (parts.contrastive, "no projections: it has no ITC score"),
        };
        if !has {
            return Err(self.checkpoint.lacks(what));
        }
        // One session serves both if decoder and encoder share cross-attention, as in BLIP.
        let shared = part == Part::DecoderKv && {
            let name = "crossattention.self.key";
            self.checkpoint.decoder_names().layer(0, name) == EncoderNames.layer(0, name)
        };
        let part = if shared { Part::EncoderKv } else { part };
        let slot = Arc::clone(lock(&self.sessions).entry(part).or_default());
        let mut slot = lock(&slot);
        if let Some(session) = &*slot {
            return Ok(Arc::clone(session));
        }
        let session = std::thread::scope(|scope| {
            // A captioner or an answerer needs these next. A failure recurs when they are run.
            let next: &[Part] = match part {
                Part::Vision if parts.captioner && !parts.matcher => &[Part::DecoderKv, Part::BeamDecoder],
                Part::Vision if parts.answerer => &[Part::EncoderKv, Part::Question, Part::DecoderKv],
                _ => &[],
            };
            let ahead = (!next.is_empty()).then(|| {
                let make = || next.iter().try_for_each(|&part| self.session(part).map(drop));
                std::thread::Builder::new().spawn_scoped(scope, make)
            });
            let (graph, prepacked) = (self.graph(part), &self.prepacked[usize::from(part != Part::Vision)]);
            let session = runtime::session(&graph, &self.checkpoint.weights, prepacked, self.device, self.threads);
            if let Some(Ok(ahead)) = ahead {
                let _ = ahead.join();
            }
            session
        })?;
        self.checkpoint.weights.release_pages();
        let session = Arc::new(Mutex::new(session));
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Runs a part and returns its outputs in the graph's order.
    pub(super) fn run(&self, part: Part, inputs: Inputs<'_>) -> Result<Vec<DynValue>> {
        let session = self.session(part)?;
        let mut session = lock(&session);
        let names: Vec<String> = session.outputs().iter().map(|o| o.name().to_string()).collect();
        let mut outputs = session.run(inputs).map_err(|e| self.failed(part, e.to_string()))?;
        names.iter().map(|n| outputs.remove(n).ok_or_else(|| self.failed(part, format!("no output {n}")))).collect()
    }

    /// Runs a part on the device. Its outputs stay there, but for those named in `to_host`.
    pub(super) fn run_there(&self, part: Part, feeds: Feeds<'_>, to_host: &[&str]) -> Result<Outputs> {
        let run = || {
            let session = self.session(part)?;
            let mut session = lock(&session);
            let outputs = resident::run(&mut session, self.device, feeds, to_host, (&self.meter, part.stage()));
            outputs.map_err(|e| self.failed(part, e.to_string()))
        };
        run().inspect_err(|error| self.shrink(error))
    }

    /// Halves the images of a run if the device's memory does not suffice: smaller batches would not take less.
    pub(super) fn shrink(&self, error: &Error) {
        let images = self.apart().unwrap_or(1);
        if let (Error::OutOfMemory(why), Some(run), 2..) = (error, &self.run_images, images) {
            log::warn!("{}: runs have {} images from now on: {why}", self.device_name, images / 2);
            run.store(images / 2, Ordering::Release);
            lock(&self.sessions).retain(|part, _| !part.is_of_images());
        }
    }

    fn failed(&self, part: Part, reason: String) -> Error {
        let model = self.name.clone();
        runtime::memory_or(&reason).unwrap_or(Error::Model { model, stage: part.stage(), reason })
    }

    /// ids, positions and mask of texts padded to `bucket` tokens.
    pub(super) fn text_inputs(&self, texts: &[&[u32]], bucket: usize) -> Result<Named> {
        let pad = i64::from(self.checkpoint.tokenizer.pad());
        let mut ids = Vec::with_capacity(texts.len() * bucket);
        let mut mask = Vec::with_capacity(texts.len() * bucket);
        for text in texts {
            ids.extend(text.iter().map(|&id| i64::from(id)).chain(std::iter::repeat(pad)).take(bucket));
            mask.extend((0..bucket).map(|i| i32::from(i < text.len())));
        }
        Ok(vec![
            ("ids".into(), tensor_i64(&[texts.len(), bucket], ids)?),
            ("positions".into(), ints(&(0..bucket).collect::<Vec<_>>())?),
            ("mask".into(), tensor_i32(&[texts.len(), bucket], mask)?),
        ])
    }

    /// Padded length of a text. It depends only on the text, so that a batch cannot change the order of summation.
    pub(super) fn bucket(&self, text: &[u32]) -> usize {
        self.padded(text.len())
    }

    /// Padded length of a text of `tokens`.
    pub(super) fn padded(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(8).min(self.checkpoint.config.text.max_positions)
    }

    pub(super) fn unit_vectors(&self, value: &DynValue) -> Result<Vec<Arc<[f32]>>> {
        let unit = |v: &[f32]| {
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            v.iter().map(|x| x / norm).collect()
        };
        Ok(floats(value)?.chunks_exact(self.checkpoint.config.projection).map(unit).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};
    use std::path::Path;

    use prost::Message as _;

    use super::super::graph::proto::{DataType, ModelProto};
    use super::*;

    /// An operator without a kernel for CUDA would run on the CPU, without a word, in the middle of each step.
    #[test]
    fn every_operator_has_a_cuda_kernel() {
        let lines = include_str!("graph/cuda_kernels.txt").lines().filter(|line| !line.starts_with('#'));
        let kernels: BTreeMap<(&str, &str), &str> = lines
            .map(|line| {
                let (domain, rest) = line.split_once(' ').unwrap();
                let (operator, types) = rest.split_once(' ').unwrap();
                ((domain, operator), types)
            })
            .collect();
        let mut used = BTreeSet::new();
        let (captioner, matcher) = (
            [Part::Pixels, Part::Vision, Part::DecoderKv, Part::Decoder, Part::BeamDecoder, Part::ScoreRows].as_slice(),
            [Part::Vision, Part::ImageProjection, Part::EncoderKv, Part::Match, Part::Text].as_slice(),
        );
        let models = [("captioner", captioner), ("matcher", matcher)];
        for ((model, parts), precision) in
            models.into_iter().flat_map(|of| [Precision::Fp32, Precision::Fp16].map(|precision| (of, precision)))
        {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models").join(model);
            let checkpoint = Arc::new(Checkpoint::open(&folder).unwrap());
            let med = OrtMed::on_fake_device(checkpoint, precision, 2, 0).unwrap();
            for part in parts {
                let graph = ModelProto::decode(&*med.graph(*part).model).unwrap().graph.unwrap();
                let inputs = graph.input.iter().map(|input| {
                    let tensor = input.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
                    (input.name.clone(), tensor.elem_type)
                });
                let constants = graph.initializer.iter().map(|constant| (constant.name.clone(), constant.data_type));
                let mut types: HashMap<String, i32> = inputs.chain(constants).collect();
                for node in &graph.node {
                    let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
                    let data = types[&node.input[0]];
                    let name = [
                        (DataType::Float, "float"),
                        (DataType::Int32, "int32"),
                        (DataType::Int64, "int64"),
                        (DataType::Uint8, "uint8"),
                        (DataType::Float16, "float16"),
                    ];
                    let name = name.into_iter().find(|(known, _)| *known as i32 == data).unwrap().1;
                    let is_it =
                        |((of, operator), _): &(&(&str, &str), &&str)| *of == domain && *operator == node.op_type;
                    let Some((key, known)) = kernels.iter().find(is_it) else {
                        panic!("{part:?}: {domain} {} is not in cuda_kernels.txt", node.op_type);
                    };
                    assert!(known.split(' ').any(|known| known == name), "{part:?}: {} of {name}", node.op_type);
                    used.insert(key);
                    // Of the operators, these alone give other types than they take.
                    let given = |output: usize| match (node.op_type.as_str(), output) {
                        ("Cast", _) => node.attribute.iter().find(|a| a.name == "to").unwrap().i as i32,
                        ("TopK", 1) => DataType::Int64 as i32,
                        _ => data,
                    };
                    types.extend(node.output.iter().enumerate().map(|(i, output)| (output.clone(), given(i))));
                }
            }
        }
        let unused: Vec<_> = kernels.keys().filter(|key| !used.contains(key)).collect();
        assert_eq!(unused, Vec::<&(&str, &str)>::new());
    }
}
