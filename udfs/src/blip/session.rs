//! A checkpoint on ONNX Runtime: [`Med`] over one session per graph, created on first use.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use ort::session::builder::PrepackedWeights;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorRef};

use super::checkpoint::{Checkpoint, EncoderNames, NO_DECODER, NO_ITM_HEAD};
use super::generate::GenerationOptions;
use super::graph::{self, Graph};
use super::runtime::{self, Device};
use super::weights::TextNames;
use super::{Embedding, GenerateRequest, Med, Precision, WorkBytes};
use crate::error::{Error, Result};
use crate::image::Preprocessor;
use crate::text::Tokenizer;

/// Inputs of a run by name.
pub(super) type Inputs<'v> = Vec<(Cow<'static, str>, SessionInputValue<'v>)>;

/// Index of an image in a batch, and indices of some of its texts.
type ImageTexts = (usize, Vec<usize>);

/// Graphs of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Vision,
    ImageProjection,
    DecoderKv,
    Decoder,
    EncoderKv,
    Match,
    Text,
}

impl Part {
    fn stage(self) -> &'static str {
        match self {
            Self::Vision => "the vision encoder",
            Self::ImageProjection => "the image projection",
            Self::DecoderKv | Self::EncoderKv => "the cross-attention keys and values",
            Self::Decoder => "the text decoder",
            Self::Match => "image-text matching",
            Self::Text => "the text encoder",
        }
    }
}

/// A checkpoint loaded for one device and precision.
pub struct OrtMed {
    // Declared before the checkpoint, into whose mapped weights the sessions point.
    sessions: Mutex<BTreeMap<Part, Arc<Mutex<Session>>>>,
    prepacked: PrepackedWeights,
    pub(super) checkpoint: Arc<Checkpoint>,
    name: String,
    digest: [u8; 32],
    device: Device,
    device_name: String,
    precision: Precision,
    threads: usize,
}

impl std::fmt::Debug for OrtMed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OrtMed({}, {}, {})", self.name, self.device_name, self.precision)
    }
}

impl OrtMed {
    /// Loads a checkpoint. `device` is a setting's value (auto, cpu, cuda:N); `threads` 0 means all cores.
    pub fn new(checkpoint: Arc<Checkpoint>, device: &str, precision: Precision, threads: usize) -> Result<Self> {
        let device = runtime::device(device)?;
        if precision == Precision::Int8 && device != Device::Cpu {
            return Err(Error::Option("capfilt.precision 'int8' is for the CPU; use 'fp32' with cuda".into()));
        }
        runtime::environment()?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Self {
            sessions: Mutex::new(BTreeMap::new()),
            prepacked: PrepackedWeights::new(),
            name: checkpoint.dir.display().to_string(),
            digest: checkpoint.digest()?,
            device,
            device_name: device.to_string(),
            precision,
            threads: if threads == 0 { cores } else { threads },
            checkpoint,
        })
    }

    fn graph(&self, part: Part) -> Graph {
        let c = &self.checkpoint;
        let (vision, text, projection, w, p) =
            (&c.config.vision, &c.config.text, c.config.projection, &c.weights, self.precision);
        let decoder = c.decoder_names();
        match part {
            Part::Vision => graph::vision_encoder(vision, w, p),
            Part::ImageProjection => graph::image_projection(vision, projection, w),
            Part::DecoderKv => graph::cross_kv(text, &decoder, w, p),
            Part::Decoder => graph::decoder_step(text, &decoder, w, p),
            Part::EncoderKv => graph::cross_kv(text, &EncoderNames, w, p),
            Part::Match => graph::match_texts(text, &EncoderNames, w, p),
            Part::Text => graph::text_encoder(text, projection, &EncoderNames, w, p),
        }
    }

    /// The part's session; an error if the checkpoint lacks the part.
    fn session(&self, part: Part) -> Result<Arc<Mutex<Session>>> {
        let parts = self.checkpoint.parts;
        let (has, what) = match part {
            Part::Vision => (true, ""),
            Part::DecoderKv | Part::Decoder => (parts.captioner, NO_DECODER),
            Part::EncoderKv | Part::Match => (parts.matcher, NO_ITM_HEAD),
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
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get(&part) {
            return Ok(Arc::clone(session));
        }
        let graph = self.graph(part);
        let session = runtime::session(&graph, &self.checkpoint.weights, &self.prepacked, self.device, self.threads)?;
        self.checkpoint.weights.release_pages();
        let session = Arc::new(Mutex::new(session));
        sessions.insert(part, Arc::clone(&session));
        Ok(session)
    }

    /// Runs a part and returns its outputs in the graph's order.
    pub(super) fn run(&self, part: Part, inputs: Inputs<'_>) -> Result<Vec<DynValue>> {
        let session = self.session(part)?;
        let mut session = lock(&session);
        let names: Vec<String> = session.outputs().iter().map(|o| o.name().to_string()).collect();
        let failed = |e: String| {
            runtime::memory_or(&e).unwrap_or(Error::Model { model: self.name.clone(), stage: part.stage(), reason: e })
        };
        let mut outputs = session.run(inputs).map_err(|e| failed(e.to_string()))?;
        names.iter().map(|n| outputs.remove(n).ok_or_else(|| failed(format!("no output {n}")))).collect()
    }

    /// Cross-attention keys and values for a batch of images.
    pub(super) fn cross_kv(&self, part: Part, images: &[&Embedding]) -> Result<CrossKv> {
        let config = &self.checkpoint.config;
        let shape = [images.len(), config.vision.tokens(), config.vision.width];
        let mut joined = Vec::with_capacity(shape.iter().product());
        for image in images {
            joined.extend_from_slice(&image.0);
        }
        let image = tensor(&shape, joined)?;
        let values = self.run(part, vec![("image".into(), image.into())])?;
        Ok(CrossKv { values, images: images.len() })
    }

    /// ITM logits `[no match, match]` for each image's texts, which must be of equal length and number.
    fn match_group(&self, kv: &CrossKv, images: &[usize], texts: &[&[u32]], bucket: usize) -> Result<Vec<[f32; 2]>> {
        let (n, k, width) = (texts.len(), texts.len() / images.len(), self.checkpoint.config.text.width);
        let mut inputs = self.text_inputs(texts, bucket)?;
        inputs.push(("queries".into(), ints(&[images.len(), k * bucket, width])?));
        inputs.push(("rows".into(), ints(&[n, bucket, width])?));
        let taken;
        let (kv, first) = if images.windows(2).all(|w| w[1] == w[0] + 1) {
            (kv, images[0])
        } else {
            taken = kv.take(images)?;
            (&taken, 0)
        };
        kv.push_inputs(first, images.len(), &mut inputs)?;
        let outputs = self.run(Part::Match, inputs)?;
        Ok(floats(&outputs[0])?.chunks_exact(2).map(|l| [l[0], l[1]]).collect())
    }

    /// ids, positions and mask of texts padded to `bucket` tokens.
    fn text_inputs(&self, texts: &[&[u32]], bucket: usize) -> Result<Inputs<'static>> {
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
            ("mask".into(), Tensor::from_array(([texts.len(), bucket], mask)).map_err(internal)?.into()),
        ])
    }

    /// Padded length of a text. It depends only on the text, so that a batch cannot change the order of summation.
    fn bucket(&self, text: &[u32]) -> usize {
        text.len().next_multiple_of(8).min(self.checkpoint.config.text.max_positions)
    }

    /// ITM logits `[no match, match]` of each image's texts.
    pub fn match_logits(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<[f32; 2]>>> {
        /// Maximum number of texts of one image per run; more take several runs.
        const MOST: usize = 16;
        let kv = self.cross_kv(Part::EncoderKv, images)?;
        // (bucket, number of texts) -> image and its texts of that bucket.
        let mut groups: BTreeMap<(usize, usize), Vec<ImageTexts>> = BTreeMap::new();
        for (image, texts) in texts.iter().enumerate() {
            let mut by_bucket: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (i, text) in texts.iter().enumerate() {
                by_bucket.entry(self.bucket(text)).or_default().push(i);
            }
            for (bucket, indices) in by_bucket {
                for chunk in indices.chunks(MOST) {
                    groups.entry((bucket, chunk.len())).or_default().push((image, chunk.to_vec()));
                }
            }
        }
        let mut logits: Vec<Vec<[f32; 2]>> = texts.iter().map(|t| vec![[0.0; 2]; t.len()]).collect();
        for ((bucket, _), members) in groups {
            // An image with more than MOST texts of a bucket occurs several times; a run takes it once.
            let mut rounds: Vec<Vec<&ImageTexts>> = vec![];
            for member in &members {
                match rounds.iter_mut().find(|r| r.last().is_none_or(|m| m.0 < member.0)) {
                    Some(round) => round.push(member),
                    None => rounds.push(vec![member]),
                }
            }
            for round in rounds {
                let run_images: Vec<usize> = round.iter().map(|m| m.0).collect();
                let run_texts: Vec<&[u32]> = round.iter().flat_map(|m| m.1.iter().map(|&i| texts[m.0][i])).collect();
                let mut results = self.match_group(&kv, &run_images, &run_texts, bucket)?.into_iter();
                for (image, indices) in round {
                    for (&i, result) in indices.iter().zip(&mut results) {
                        logits[*image][i] = result;
                    }
                }
            }
        }
        Ok(logits)
    }
}

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
        let tokens = v.tokens();
        let kv = 4 * 2 * t.layers * tokens * t.width;
        let encode = 4 * (3 * v.image_size.pow(2) + tokens * (10 * v.width + 3 * v.mlp_width));
        let longest = t.max_positions.min(64);
        let text = 4 * longest * (10 * t.width + 3 * t.mlp_width);
        WorkBytes {
            encode,
            generate: kv + 4 * tokens * (v.width + 2 * t.width),
            per_sequence: text + 4 * (2 * 2 * t.layers * longest * t.width + 3 * t.vocab_size),
            match_text: kv + 4 * tokens * (v.width + 2 * t.width) + text,
        }
    }

    fn encode(&self, images: &[&[u8]]) -> Result<Vec<Embedding>> {
        let side = self.checkpoint.config.vision.image_size;
        let each = 3 * side * side;
        let mut pixels = vec![0f32; images.len() * each];
        for (image, out) in images.iter().zip(pixels.chunks_exact_mut(each)) {
            self.checkpoint.preprocessor.normalise_into(image, out);
        }
        self.encode_pixels(images.len(), pixels)
    }

    fn project(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>> {
        let width = self.checkpoint.config.vision.width;
        let class: Vec<f32> = images.iter().flat_map(|image| image.0[..width].iter().copied()).collect();
        let class = tensor(&[images.len(), width], class)?;
        let outputs = self.run(Part::ImageProjection, vec![("class_token".into(), class.into())])?;
        self.unit_vectors(&outputs[0])
    }

    fn encode_texts(&self, texts: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        let mut buckets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            buckets.entry(self.bucket(text)).or_default().push(i);
        }
        let mut vectors: Vec<Option<Arc<[f32]>>> = vec![None; texts.len()];
        for (bucket, indices) in buckets {
            let members: Vec<&[u32]> = indices.iter().map(|&i| texts[i]).collect();
            let outputs = self.run(Part::Text, self.text_inputs(&members, bucket)?)?;
            for (i, vector) in indices.into_iter().zip(self.unit_vectors(&outputs[0])?) {
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
        super::decoder::generate(self, images, requests, options, cancelled)
    }
}

impl OrtMed {
    /// Vision encoder over normalised pixels `[count, 3, size, size]`.
    pub fn encode_pixels(&self, count: usize, pixels: Vec<f32>) -> Result<Vec<Embedding>> {
        let vision = &self.checkpoint.config.vision;
        let each = 3 * vision.image_size.pow(2);
        // On the CPU a larger run exceeds the caches: at BLIP-base's size an image in a batch of 1 took 10 % less time
        // than in a batch of 8 in fp32, 13 % in int8 (2 cores, AVX2). Small models still run several images at once.
        let most = match self.device {
            Device::Cpu => (1024 / vision.tokens()).max(1),
            Device::Cuda(_) => count.max(1),
        };
        let mut embeddings = Vec::with_capacity(count);
        for run in pixels.chunks(most * each) {
            let shape = [run.len() / each, 3, vision.image_size, vision.image_size];
            let pixels = TensorRef::from_array_view((shape.to_vec(), run)).map_err(internal)?;
            let outputs = self.run(Part::Vision, vec![("pixels".into(), pixels.into())])?;
            let values = floats(&outputs[0])?;
            embeddings.extend(values.chunks_exact(vision.tokens() * vision.width).map(|image| Embedding(image.into())));
        }
        Ok(embeddings)
    }

    fn unit_vectors(&self, value: &DynValue) -> Result<Vec<Arc<[f32]>>> {
        let unit = |v: &[f32]| {
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            v.iter().map(|x| x / norm).collect()
        };
        Ok(floats(value)?.chunks_exact(self.checkpoint.config.projection).map(unit).collect())
    }

    /// The decoder's logits `[vocabulary]` after `prompt` (its first token is [DEC]), for each image.
    pub fn first_logits(&self, images: &[&Embedding], prompt: &[u32]) -> Result<Vec<Vec<f32>>> {
        super::decoder::first_logits(self, images, prompt)
    }
}

/// Cross-attention keys and values: `ck.0, cv.0, ck.1, ..`, each `[images, heads, tokens, head size]`.
pub(super) struct CrossKv {
    values: Vec<DynValue>,
    pub(super) images: usize,
}

impl CrossKv {
    /// Adds the inputs of `count` images from `first` on, without copying them.
    pub(super) fn push_inputs<'v>(&'v self, first: usize, count: usize, inputs: &mut Inputs<'v>) -> Result<()> {
        for (i, value) in self.values.iter().enumerate() {
            let name = format!("{}.{}", if i % 2 == 0 { "ck" } else { "cv" }, i / 2);
            let (shape, data) = value.try_extract_tensor::<f32>().map_err(internal)?;
            let each = data.len() / self.images.max(1);
            let mut dims = shape.to_vec();
            dims[0] = count as i64;
            let view =
                TensorRef::from_array_view((dims, &data[first * each..(first + count) * each])).map_err(internal)?;
            inputs.push((name.into(), view.into()));
        }
        Ok(())
    }

    /// A copy of some images' keys and values.
    fn take(&self, images: &[usize]) -> Result<Self> {
        let copy = |value: &DynValue| {
            let (shape, data) = value.try_extract_tensor::<f32>().map_err(internal)?;
            let each = data.len() / self.images.max(1);
            let mut dims = shape.to_vec();
            dims[0] = images.len() as i64;
            let mut copied = Vec::with_capacity(each * images.len());
            for &i in images {
                copied.extend_from_slice(&data[i * each..(i + 1) * each]);
            }
            Ok(Tensor::from_array((dims, copied)).map_err(internal)?.into_dyn())
        };
        Ok(Self { values: self.values.iter().map(copy).collect::<Result<_>>()?, images: images.len() })
    }

    /// Removes one image; the last one takes its place.
    pub(super) fn swap_remove(&mut self, image: usize, live: usize) -> Result<()> {
        let last = live - 1;
        if image != last {
            for value in &mut self.values {
                let (_, data) = value.try_extract_tensor_mut::<f32>().map_err(internal)?;
                let each = data.len() / self.images.max(1);
                data.copy_within(last * each..(last + 1) * each, image * each);
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

pub(super) fn internal(e: ort::Error) -> Error {
    Error::Internal(e.to_string())
}

pub(super) fn floats(value: &DynValue) -> Result<&[f32]> {
    Ok(value.try_extract_tensor::<f32>().map_err(internal)?.1)
}

pub(super) fn tensor(shape: &[usize], data: Vec<f32>) -> Result<DynValue> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into_dyn())
}

pub(super) fn tensor_i64(shape: &[usize], data: Vec<i64>) -> Result<SessionInputValue<'static>> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into())
}

pub(super) fn ints(values: &[usize]) -> Result<SessionInputValue<'static>> {
    tensor_i64(&[values.len()], values.iter().map(|&v| v as i64).collect())
}
