//! A fake model whose results are simple functions of its inputs; it counts its calls, and fails or waits on request.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::{AnswerScore, DeviceMemory, Embedding, GenerateRequest, Med, Precision, Room, WorkBytes};
use crate::engine::{Client, Engine, EngineOptions, ImageSource, ModelHandle, ModelKey, Outcome, Task, Work, lock};
use crate::error::{Error, Result};
use crate::image::{Limits, Preprocessor};
use crate::text::Tokenizer;

/// Floats of an embedding, and bytes of an image's pixels (`PIXELS`).
pub(super) const FLOATS: usize = 64;
pub(super) const PIXELS: usize = 4 * 4 * 3;

/// How long a test waits for another thread before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets calls pass one by one and counts those that arrived.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = lock(&self.state);
        state.1 += 1;
        self.changed.notify_all();
        let mut state = self.wait(state, |state| state.0 > 0);
        state.0 -= 1;
    }

    /// Lets `n` more calls pass.
    pub(super) fn open(&self, n: usize) {
        lock(&self.state).0 += n;
        self.changed.notify_all();
    }

    /// Waits until `n` calls have arrived.
    pub(super) fn arrived(&self, n: usize) {
        drop(self.wait(lock(&self.state), |state| state.1 >= n));
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, (usize, usize)>,
        holds: impl Fn(&(usize, usize)) -> bool,
    ) -> MutexGuard<'a, (usize, usize)> {
        let (state, waited) = self.changed.wait_timeout_while(state, PATIENCE, |state| !holds(state)).unwrap();
        // A test that has failed must not hang.
        assert!(!waited.timed_out(), "nobody opens the gate, or nobody comes");
        state
    }
}

/// Failures that the model should produce, and counts of its calls.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// Maximum images or texts per call before it runs out of memory; 0 means no limit.
    pub(super) memory_for: AtomicUsize,
    /// Makes every call run out of memory.
    pub(super) no_memory: AtomicBool,
    /// Makes the next call of the encoder fail or, with `panic`, panic.
    pub(super) fail: AtomicBool,
    pub(super) panic: AtomicBool,
    /// Makes generation run until it is cancelled.
    pub(super) endless: AtomicBool,
    /// Gate at which each call of the encoder waits.
    pub(super) gate: Option<Gate>,
    /// Number of images of each successful call of the encoder.
    pub(super) encoded: Mutex<Vec<usize>>,
    /// Questions encoded.
    pub(super) questions: AtomicUsize,
    /// Number of `generate` calls that began.
    pub(super) generating: AtomicUsize,
    pub(super) loads: AtomicUsize,
    /// Images encoded on each device.
    pub(super) encoded_on: Mutex<BTreeMap<String, usize>>,
    /// The device whose encoder takes this long.
    pub(super) slow: Option<(&'static str, Duration)>,
    /// The device that fails in every call after this many of its encoder.
    pub(super) dying: Option<(&'static str, AtomicUsize)>,
    /// Whether every device fails in every call.
    pub(super) broken: AtomicBool,
    /// Calls that failed because their device is dead or broken.
    pub(super) failures: AtomicUsize,
    /// Of the encoder's calls, on whichever device, one in so many fails; 0: none.
    pub(super) flaky: usize,
    pub(super) calls: AtomicUsize,
    pub(super) refuse: AtomicBool,
    /// Bytes of each CUDA device; `None`: models count as the host's.
    pub(super) device_memory: Option<usize>,
}

impl Script {
    pub(super) fn images_encoded(&self) -> usize {
        lock(&self.encoded).iter().sum()
    }

    fn memory(&self, n: usize) -> Result<()> {
        let limit = self.memory_for.load(SeqCst);
        if self.no_memory.load(SeqCst) || limit > 0 && n > limit {
            return Err(Error::OutOfMemory(format!("{n} at once")));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Fake {
    name: String,
    device: String,
    /// Embeddings that it made, of which the addresses tell whose they are.
    made: Mutex<Vec<Embedding>>,
    script: Arc<Script>,
    weights: usize,
    work: WorkBytes,
    preprocessor: Preprocessor,
    tokenizer: Option<Tokenizer>,
    unloaded: Arc<Mutex<Vec<String>>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        lock(&self.unloaded).push(self.name.clone());
    }
}

/// A number in [0, 1) derived from the embedding and the ids.
fn mix(embedding: &Embedding, ids: &[u32]) -> f32 {
    let mut n = 17_u32;
    for x in embedding.host().unwrap().iter().map(|x| x.to_bits()).chain(ids.iter().copied()) {
        n = n.wrapping_mul(31).wrapping_add(x).rotate_left(7);
    }
    (n >> 8) as f32 / (1 << 24) as f32
}

impl Fake {
    /// Fails if the device is broken, or if an embedding is another device's.
    fn check(&self, images: &[&Embedding]) -> Result<()> {
        let dead = self.script.dying.as_ref().filter(|(device, _)| *device == self.device);
        if self.script.broken.load(SeqCst) || dead.is_some_and(|(_, calls)| calls.load(SeqCst) == 0) {
            self.script.failures.fetch_add(1, SeqCst);
            return Err(Error::Runtime(format!("{} is broken", self.device)));
        }
        if self.device.starts_with("cuda") {
            let made: Vec<*const f32> = lock(&self.made).iter().map(|e| e.host().unwrap().as_ptr()).collect();
            for image in images {
                assert!(made.contains(&image.host().unwrap().as_ptr()), "an embedding that {} has not", self.device);
            }
        }
        Ok(())
    }
}

impl Med for Fake {
    fn name(&self) -> &str {
        &self.name
    }
    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.name).into()
    }
    fn device(&self) -> &str {
        &self.device
    }
    fn precision(&self) -> Precision {
        Precision::Fp32
    }
    fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer.as_ref().expect("the engine has no use for it")
    }
    fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }
    fn resident_bytes(&self) -> usize {
        self.weights
    }
    fn device_memory(&self) -> Option<DeviceMemory> {
        let limit = self.script.device_memory.filter(|_| self.device.starts_with("cuda"))?;
        Some(DeviceMemory { limit, embedding: 4 * FLOATS })
    }
    fn work_bytes(&self) -> WorkBytes {
        self.work
    }
    fn encode(&self, images: &[&[u8]]) -> Result<Vec<Embedding>> {
        if let Some(gate) = &self.script.gate {
            gate.pass();
        }
        assert!(!self.script.panic.swap(false, SeqCst), "scripted panic");
        if self.script.fail.swap(false, SeqCst) {
            return Err(Error::Runtime("scripted failure".into()));
        }
        self.script.memory(images.len())?;
        self.check(&[])?;
        if self.script.flaky > 0 && self.script.calls.fetch_add(1, SeqCst).is_multiple_of(self.script.flaky) {
            return Err(Error::Runtime("scripted failure".into()));
        }
        if let Some((device, calls)) = &self.script.dying
            && *device == self.device
        {
            calls.fetch_sub(1, SeqCst);
        }
        if let Some((_, time)) = self.script.slow.filter(|(device, _)| *device == self.device) {
            std::thread::sleep(time);
        }
        *lock(&self.script.encoded_on).entry(self.device.clone()).or_default() += images.len();
        lock(&self.script.encoded).push(images.len());
        let embed = |pixels: &&[u8]| {
            assert_eq!(pixels.len(), PIXELS);
            Embedding::Host((0..FLOATS).map(|i| f32::from(pixels[i % 3]) + i as f32).collect())
        };
        let embeddings: Vec<Embedding> = images.iter().map(embed).collect();
        if self.device.starts_with("cuda") {
            lock(&self.made).extend(embeddings.iter().cloned());
        }
        Ok(embeddings)
    }
    fn project(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>> {
        self.check(images)?;
        self.script.memory(images.len())?;
        Ok(images.iter().map(|e| [mix(e, &[]), 1.0].into()).collect())
    }
    fn encode_texts(&self, texts: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        self.check(&[])?;
        self.script.memory(texts.len())?;
        Ok(texts.iter().map(|ids| [mix(&Embedding::Host([].into()), ids), 2.0].into()).collect())
    }
    fn match_texts(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<f32>>> {
        self.check(images)?;
        self.script.memory(images.len().max(texts.iter().map(Vec::len).sum()))?;
        Ok(images.iter().zip(texts).map(|(e, texts)| texts.iter().map(|ids| mix(e, ids)).collect()).collect())
    }
    fn generate(
        &self,
        images: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        self.check(images)?;
        self.script.memory(images.len())?;
        self.script.generating.fetch_add(1, SeqCst);
        while self.script.endless.load(SeqCst) {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let caption = |e: &Embedding, r: &GenerateRequest| {
            let mut ids = r.prompt.to_vec();
            ids.extend(r.key.map(u32::from));
            ids.push(options.top_p.to_bits());
            let x = mix(e, &ids).to_bits();
            vec![x, x / 2, x / 3]
        };
        Ok(images.iter().zip(requests).map(|(e, rs)| rs.iter().map(|r| caption(e, r)).collect()).collect())
    }
    fn encode_questions(&self, images: &[&Embedding], questions: &[Vec<&[u32]>]) -> Result<Vec<Vec<Embedding>>> {
        self.check(images)?;
        let count = questions.iter().map(Vec::len).sum();
        self.script.memory(count)?;
        self.script.questions.fetch_add(count, SeqCst);
        let states = |e: &Embedding, questions: &Vec<&[u32]>| -> Vec<Embedding> {
            questions.iter().map(|ids| Embedding::Host(vec![mix(e, ids); ids.len()].into())).collect()
        };
        let states: Vec<Vec<Embedding>> = images.iter().zip(questions).map(|(e, ids)| states(e, ids)).collect();
        if self.device.starts_with("cuda") {
            lock(&self.made).extend(states.iter().flatten().cloned());
        }
        Ok(states)
    }
    fn answer(
        &self,
        questions: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        self.generate(questions, requests, options, cancelled)
    }
    fn first_tokens(&self, questions: &[&Embedding]) -> Result<Vec<Vec<f32>>> {
        self.check(questions)?;
        Ok(questions.iter().map(|e| (0..16).map(|id| mix(e, &[id])).collect()).collect())
    }
    fn score_answers(
        &self,
        questions: &[&Embedding],
        answers: &[Vec<&[u32]>],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<AnswerScore>>> {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        self.check(questions)?;
        self.script.memory(questions.len())?;
        let score = |e: &Embedding, ids: &&[u32]| AnswerScore {
            log_likelihood: -mix(e, ids),
            mean_log_probability: -100.0 * mix(e, &ids[1..]),
        };
        Ok(questions.iter().zip(answers).map(|(e, all)| all.iter().map(|ids| score(e, ids)).collect()).collect())
    }
}

/// An engine over fake models, with helpers for the tests.
pub(super) struct Setup {
    pub(super) engine: Arc<Engine>,
    pub(super) script: Arc<Script>,
    /// Names of unloaded models, in order.
    pub(super) unloaded: Arc<Mutex<Vec<String>>>,
}

/// Default limits for tests. Weights and work count as zero unless a test sets them, so only the caches' own limits
/// apply.
pub(super) fn options() -> EngineOptions {
    EngineOptions { memory_limit: 1 << 30, memo_limit: 1 << 20, embedding_cache: Some(1 << 20), max_batch_images: 8 }
}

pub(super) fn setup(options: EngineOptions) -> Setup {
    scripted(options, Script::default(), 0, WorkBytes::default())
}

pub(super) fn scripted(options: EngineOptions, script: Script, weights: usize, work: WorkBytes) -> Setup {
    let script = Arc::new(script);
    let unloaded: Arc<Mutex<Vec<String>>> = Arc::default();
    let names = Arc::clone(&unloaded);
    let shared = Arc::clone(&script);
    let loader = move |key: &ModelKey| {
        shared.loads.fetch_add(1, SeqCst);
        if shared.refuse.load(SeqCst) {
            return Err(Error::checkpoint(&key.checkpoint, "refused"));
        }
        let preprocessor = Preprocessor { width: 4, height: 4, mean: [0.0; 3], std: [1.0; 3], rescale_factor: 1.0 };
        let model: Arc<dyn Med> = Arc::new(Fake {
            name: key.checkpoint.display().to_string(),
            device: key.device.clone(),
            made: Mutex::default(),
            script: Arc::clone(&shared),
            weights,
            work,
            preprocessor,
            tokenizer: None,
            unloaded: Arc::clone(&names),
        });
        Ok(model)
    };
    Setup { engine: Engine::new(options, Box::new(loader)), script, unloaded }
}

pub(super) fn key(name: &str) -> ModelKey {
    ModelKey {
        checkpoint: PathBuf::from(name),
        device: "cpu".into(),
        precision: Precision::Fp32,
        threads: 1,
        room: Room::default(),
    }
}

impl Setup {
    pub(super) fn model(&self) -> ModelHandle {
        self.engine.model(&key("model")).unwrap()
    }

    pub(super) fn run(&self, client: &Client, tasks: Vec<Task<'_>>) -> Result<Vec<Outcome>> {
        self.engine.run(client, &self.model(), &Limits::default(), 0, tasks)
    }

    /// Runs `tasks` as a new client.
    pub(super) fn once(&self, tasks: Vec<Task<'_>>) -> Vec<Outcome> {
        self.run(&Client::new(), tasks).unwrap()
    }

    pub(super) fn stats(&self) -> crate::engine::ModelStats {
        self.engine.stats().remove(0)
    }
}

/// A one-pixel image of the `n`th colour: a BMP with 24 bits per pixel.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    pub(super) bytes: Vec<u8>,
    sha256: [u8; 32],
}

impl Picture {
    pub(super) fn new(n: usize) -> Self {
        let mut bytes = b"BM".to_vec();
        for x in [58_u32, 0, 54, 40, 1, 1, 1 | 24 << 16, 0, 4, 2835, 2835, 0, 0] {
            bytes.extend(x.to_le_bytes());
        }
        bytes.extend((n as u32).to_le_bytes());
        Self::of(bytes)
    }

    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { sha256: Sha256::digest(&bytes).into(), bytes }
    }

    pub(super) fn task(&self, work: Work) -> Task<'_> {
        Task { image: Some(ImageSource { bytes: &self.bytes, sha256: self.sha256 }), work }
    }

    pub(super) fn score(&self, text: u32) -> Task<'_> {
        self.task(Work::Match { ids: [1, text, 2].into() })
    }

    pub(super) fn answer(&self, question: u32, strategy: Strategy, seed: u64) -> Task<'_> {
        let options = Arc::new(GenerationOptions { strategy, ..GenerationOptions::default() });
        self.task(Work::Answer { question: [1, question, 2].into(), prompt: [5].into(), options, seed })
    }

    /// The best of nine answers, of which `k` are scored.
    pub(super) fn rank(&self, question: u32, k: usize, smoothed: bool) -> Task<'_> {
        let answers = (0..9).map(|answer| [5, answer % 7, answer, 2].into()).collect();
        self.task(Work::RankAnswers { question: [1, question, 2].into(), answers, k, smoothed })
    }

    pub(super) fn score_answer(&self, question: u32, answer: u32) -> Task<'_> {
        self.task(Work::ScoreAnswer { question: [1, question, 2].into(), answer: [5, answer, 2].into() })
    }

    pub(super) fn caption(&self, strategy: Strategy, seed: u64, candidate: u32) -> Task<'_> {
        let options = Arc::new(GenerationOptions { strategy, ..GenerationOptions::default() });
        self.task(Work::Caption { prompt: [5].into(), options, seed, candidate })
    }
}

pub(super) fn pictures(n: usize) -> Vec<Picture> {
    (0..n).map(Picture::new).collect()
}

pub(super) fn text(n: u32) -> Task<'static> {
    Task { image: None, work: Work::EmbedText { ids: [1, n, 2].into() } }
}

/// Waits for another thread to establish a condition.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
