//! Overhead of SQL over the engine: the textbook query against the same tasks submitted to the engine directly.
//!
//! Both sides decode, hash and tokenise; each pass has its own engine, so that nothing is cached from the one before.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use capfilt_udfs::blip::generate::GenerationOptions;
use capfilt_udfs::blip::{self, Precision, Room};
use capfilt_udfs::engine::{Client, Engine, EngineOptions, ImageSource, ModelHandle, ModelKey, Outcome, Task, Work};
use capfilt_udfs::image::Limits;
use capfilt_udfs::text::ItmToken;
use capfilt_udfs::{CapfiltOptions, register_with};
use datafusion::arrow::array::{Array, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::checkpoint::{Normal, Pair};
use crate::model::beams;
use crate::{Options, REPEATS, Result, Timing, root};

/// The textbook's query with a threshold that keeps every pair, so that all scores can be compared.
const TEXTBOOK: &str = "
    WITH candidates AS (
      SELECT id, image, unnest([named_struct('source', 'web', 'text', text),
                                named_struct('source', 'synthetic', 'text', caption(image))]) AS c FROM web)
    SELECT id, c['source'] AS source, c['text'] AS text, itm_score(image, c['text']) AS itm_score
    FROM candidates WHERE itm_score(image, c['text']) >= 0";

/// `capfilt.max_batch_images`, `capfilt.max_text_tokens` and the batch size in rows, as in this crate's sessions.
const BATCH_IMAGES: usize = 8;
const TEXT_TOKENS: usize = 35;
const BATCH_ROWS: usize = 64;

/// Both comparisons.
pub(crate) struct Sql {
    /// BLIP-base, where the share of the time matters.
    pub(crate) base: Overhead,
    /// The example models, where the time per row is measurable.
    pub(crate) example: Overhead,
}

impl Sql {
    pub(crate) fn json(&self) -> Value {
        json!({ "base": self.base.json(), "example": self.example.json() })
    }
}

pub(crate) struct Overhead {
    pub(crate) rows: usize,
    pub(crate) sql: Cost,
    pub(crate) direct: Cost,
}

impl Overhead {
    /// Overhead as a fraction of wall-clock time.
    pub(crate) fn share(&self) -> f64 {
        self.sql.wall.min() / self.direct.wall.min() - 1.0
    }

    /// Overhead as a fraction of wall-clock time, counting only time outside models: both sides give the models the
    /// same work, whose time varies on a busy machine by more than SQL costs.
    pub(crate) fn share_outside_models(&self) -> f64 {
        (self.sql.outside.min() - self.direct.outside.min()) / self.direct.wall.min()
    }

    /// Overhead per row, in CPU seconds.
    pub(crate) fn cpu_per_row(&self) -> f64 {
        (self.sql.cpu.min() - self.direct.cpu.min()) / self.rows as f64
    }

    fn json(&self) -> Value {
        json!({
            "rows": self.rows,
            "sql": self.sql.json(),
            "direct": self.direct.json(),
            "share": self.share(),
            "share_outside_models": self.share_outside_models(),
            "cpu_seconds_per_row": self.cpu_per_row(),
        })
    }
}

/// Seconds for all rows.
pub(crate) struct Cost {
    pub(crate) wall: Timing,
    pub(crate) cpu: Timing,
    /// Wall-clock time during which no model ran.
    pub(crate) outside: Timing,
}

impl Cost {
    fn new(mut passes: Vec<Pass>) -> Self {
        let mut column = |of: fn(&Pass) -> f64| {
            passes.sort_by(|a, b| of(a).total_cmp(&of(b)));
            Timing(passes.iter().map(of).collect())
        };
        Self { wall: column(|p| p.wall), cpu: column(|p| p.cpu), outside: column(|p| p.wall - p.models) }
    }

    fn json(&self) -> Value {
        json!({
            "wall_seconds": self.wall.json(),
            "cpu_seconds": self.cpu.json(),
            "outside_models_seconds": self.outside.json(),
        })
    }
}

/// Seconds of one pass.
struct Pass {
    wall: f64,
    cpu: f64,
    models: f64,
}

/// A row of the table `web`; its index is its id.
struct Row {
    image: Vec<u8>,
    text: String,
}

pub(crate) fn run(base: &Pair, options: &Options) -> Result<Sql> {
    let runtime = Runtime::new()?;
    let (few, many) = if options.quick { (3, 40) } else { (16, usize::MAX) };
    let models = root().join("tests/fixtures/models");
    let mut examples = runtime.block_on(example_rows())?;
    examples.truncate(many);
    let side = base.shape.image_size;
    let made: Vec<Row> =
        (0..few).map(|i| Row { image: bitmap(side, i), text: format!("a picture number {i}") }).collect();
    Ok(Sql {
        base: compare(&runtime, [&base.captioner, &base.filter], &made, &beams(), options)?,
        example: compare(
            &runtime,
            [&models.join("captioner"), &models.join("matcher")],
            &examples,
            &GenerationOptions::default(),
            options,
        )?,
    })
}

fn compare(
    runtime: &Runtime,
    folders: [&Path; 2],
    rows: &[Row],
    decoding: &GenerationOptions,
    options: &Options,
) -> Result<Overhead> {
    let (mut sql, mut direct) = (vec![], vec![]);
    for _ in 0..REPEATS {
        let bench = Bench::new(folders, decoding, options.threads)?;
        let (pass, scores) = bench.timed(|| bench.direct(rows))?;
        direct.push(pass);

        let bench = Bench::new(folders, decoding, options.threads)?;
        let ctx = runtime.block_on(bench.session(rows))?;
        let (pass, kept) = bench.timed(|| runtime.block_on(kept(&ctx)))?;
        sql.push(pass);
        // Check that both sides computed the same.
        if kept.len() != 2 * rows.len() {
            return Err(format!("{} rows gave {} pairs", rows.len(), kept.len()).into());
        }
        for ((id, source), score) in kept {
            let other = scores[id][usize::from(source == "synthetic")];
            if (score - other).abs() > 1e-4 {
                return Err(format!("SQL's score of row {id}, {source}, is {score}, the engine's {other}").into());
            }
        }
    }
    Ok(Overhead { rows: rows.len(), sql: Cost::new(sql), direct: Cost::new(direct) })
}

/// User and system time of all threads of this process, including ended ones.
fn cpu_seconds() -> Result<f64> {
    // Linux reports hundredths of a second here, whatever its clock rate.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The program's name, in parentheses, may contain spaces.
    let (_, fields) = text.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<std::result::Result<f64, _>>()? / TICKS)
}

/// A fresh engine with both models loaded.
struct Bench {
    engine: Arc<Engine>,
    keys: [ModelKey; 2],
    models: [ModelHandle; 2],
    decoding: GenerationOptions,
}

impl Bench {
    fn new(folders: [&Path; 2], decoding: &GenerationOptions, threads: usize) -> Result<Self> {
        let engine = Engine::new(EngineOptions::default(), Box::new(blip::load));
        let key = |folder: &Path| -> Result<ModelKey> {
            let checkpoint = folder.canonicalize()?;
            Ok(ModelKey {
                checkpoint,
                device: "cpu".into(),
                precision: Precision::Fp32,
                threads,
                room: Room::default(),
            })
        };
        let keys = [key(folders[0])?, key(folders[1])?];
        let models = [engine.model(&keys[0])?, engine.model(&keys[1])?];
        let bench = Self { engine, keys, models, decoding: decoding.clone() };
        // Creates the sessions.
        bench.direct(&[Row { image: bitmap(32, usize::MAX), text: "warm up".into() }])?;
        Ok(bench)
    }

    fn timed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(Pass, T)> {
        let (start, cpu, models) = (Instant::now(), cpu_seconds()?, self.model_seconds());
        let done = work()?;
        let wall = start.elapsed().as_secs_f64();
        Ok((Pass { wall, cpu: cpu_seconds()? - cpu, models: self.model_seconds() - models }, done))
    }

    /// Seconds that the engine's thread spent in models.
    fn model_seconds(&self) -> f64 {
        self.engine.stats().iter().map(|s| s.encode_seconds + s.generate_seconds + s.score_seconds).sum()
    }

    /// Scores of each row's web text and caption.
    fn direct(&self, rows: &[Row]) -> Result<Vec<[f32; 2]>> {
        let client = Client::new();
        let ask = |model: &ModelHandle, tasks| self.engine.run(&client, model, &Limits::default(), BATCH_IMAGES, tasks);
        let image = |row: &'_ Row| Sha256::digest(&row.image).into();
        let images: Vec<ImageSource<'_>> =
            rows.iter().map(|row| ImageSource { bytes: &row.image, sha256: image(row) }).collect();
        let [captioner, filter] = &self.models;
        let prompt = captioner.tokenizer().caption_prompt("");
        let options = Arc::new(self.decoding.clone());
        let work =
            || Work::Caption { prompt: Arc::clone(&prompt), options: Arc::clone(&options), seed: 0, candidate: 0 };
        let captions = ask(captioner, images.iter().map(|&image| Task { image: Some(image), work: work() }).collect())?;
        let mut tasks = Vec::with_capacity(2 * rows.len());
        for ((row, &image), caption) in rows.iter().zip(&images).zip(&captions) {
            let Outcome::Ids(sequences) = caption else { return Err(format!("no caption: {caption:?}").into()) };
            for text in [&row.text, &captioner.tokenizer().decode(&sequences[0])] {
                let ids = filter.tokenizer().match_ids(text, TEXT_TOKENS, ItmToken::Enc);
                tasks.push(Task { image: Some(image), work: Work::Match { ids } });
            }
        }
        let score = |outcome: &Outcome| match outcome {
            Outcome::Score(score) => Ok(*score),
            other => Err(format!("no score: {other:?}")),
        };
        ask(filter, tasks)?.chunks(2).map(|two| Ok([score(&two[0])?, score(&two[1])?])).collect()
    }

    /// A session on this engine with the table `web` in memory.
    async fn session(&self, rows: &[Row]) -> Result<SessionContext> {
        let ctx = SessionContext::new_with_config(SessionConfig::new().with_batch_size(BATCH_ROWS));
        register_with(&ctx, CapfiltOptions::new().with_engine(Arc::clone(&self.engine)))?;
        let [captioner, filter] = self.keys.each_ref().map(|key| key.checkpoint.display().to_string());
        let settings = [
            ("captioner", captioner),
            ("filter", filter),
            ("device", self.keys[0].device.clone()),
            ("threads", self.keys[0].threads.to_string()),
            ("max_batch_images", BATCH_IMAGES.to_string()),
            ("max_text_tokens", TEXT_TOKENS.to_string()),
            ("num_beams", self.decoding.num_beams.to_string()),
            ("min_length", self.decoding.min_length.to_string()),
            ("max_length", self.decoding.max_length.to_string()),
        ];
        for (name, value) in settings {
            ctx.sql(&format!("SET capfilt.{name} = '{value}'")).await?.collect().await?;
        }
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("image", DataType::Binary, false),
            Field::new("text", DataType::Utf8, false),
        ]));
        let mut batches = vec![];
        for (i, rows) in rows.chunks(BATCH_ROWS).enumerate() {
            let first = (i * BATCH_ROWS) as i64;
            let ids = Int64Array::from_iter_values(first..first + rows.len() as i64);
            let images = BinaryArray::from_iter_values(rows.iter().map(|r| &r.image));
            let texts = StringArray::from_iter_values(rows.iter().map(|r| &r.text));
            let columns: Vec<Arc<dyn Array>> = vec![Arc::new(ids), Arc::new(images), Arc::new(texts)];
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        }
        ctx.register_table("web", Arc::new(MemTable::try_new(schema, vec![batches])?))?;
        Ok(ctx)
    }
}

/// Scores of the kept pairs by row and source.
async fn kept(ctx: &SessionContext) -> Result<BTreeMap<(usize, String), f32>> {
    let mut kept = BTreeMap::new();
    for batch in ctx.sql(TEXTBOOK).await?.collect().await? {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let sources = batch.column(1).as_string::<i32>();
        let scores = batch.column(3).as_primitive::<Float32Type>();
        for i in 0..batch.num_rows() {
            kept.insert((ids.value(i) as usize, sources.value(i).to_string()), scores.value(i));
        }
    }
    Ok(kept)
}

/// Usable images of tests/fixtures/web.parquet, each once, with their texts.
async fn example_rows() -> Result<Vec<Row>> {
    let ctx = SessionContext::new();
    capfilt_udfs::register(&ctx)?;
    let file = root().join("tests/fixtures/web.parquet").canonicalize()?;
    ctx.register_parquet("web", file.to_string_lossy(), ParquetReadOptions::default()).await?;
    let query = "SELECT arrow_cast(image, 'Binary') AS image, arrow_cast(text, 'Utf8') AS text
                 FROM web WHERE text IS NOT NULL AND image_error(image) IS NULL ORDER BY id";
    let (mut rows, mut seen) = (vec![], HashSet::new());
    for batch in ctx.sql(query).await?.collect().await? {
        let (images, texts) = (batch.column(0).as_binary::<i32>(), batch.column(1).as_string::<i32>());
        for i in 0..batch.num_rows() {
            if seen.insert(images.value(i).to_vec()) {
                rows.push(Row { image: images.value(i).into(), text: texts.value(i).into() });
            }
        }
    }
    Ok(rows)
}

/// A noise image as an uncompressed 24-bit BMP; `side` must be a multiple of 4, since rows are padded to 4 bytes.
fn bitmap(side: usize, seed: usize) -> Vec<u8> {
    const HEADER: u32 = 54;
    let pixels = 3 * side * side;
    let mut file = Vec::with_capacity(HEADER as usize + pixels);
    file.extend(b"BM");
    for value in
        [HEADER + pixels as u32, 0, HEADER, 40, side as u32, side as u32, 1 | 24 << 16, 0, pixels as u32, 0, 0, 0, 0]
    {
        file.extend(value.to_le_bytes());
    }
    let mut random = Normal::new(seed as u64);
    file.extend((0..pixels).map(|_| random.bits() as u8));
    file
}
