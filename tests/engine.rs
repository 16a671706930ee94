//! The engine under DataFusion: no duplicate computation, no dependence on partitioning or batching, and handling of
//! failures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use capfilt_udfs::blip::generate::GenerationOptions;
use capfilt_udfs::blip::{self, Embedding, GenerateRequest, Med, Precision, WorkBytes};
use capfilt_udfs::engine::{Engine, EngineOptions};
use capfilt_udfs::image::Preprocessor;
use capfilt_udfs::text::Tokenizer;
use capfilt_udfs::{Error, Result};
use datafusion::prelude::SessionContext;
use futures::StreamExt;

use crate::common::{engine, run, session, session_on, try_rows};

/// Bytes of one image's embedding in the example models: 65 tokens of width 128.
const EMBEDDING: usize = 65 * 128 * 4;

const TEXTBOOK: &str = "
    WITH candidates AS (
      SELECT id, image, unnest([named_struct('source', 'web', 'text', text),
                                named_struct('source', 'synthetic', 'text', caption(image))]) AS c FROM some)
    SELECT id, c['source'] AS source, c['text'] AS text, itm_score(image, c['text']) AS itm_score
    FROM candidates WHERE itm_score(image, c['text']) >= 0.5";

/// (model's folder, images encoded, texts scored)
async fn counts(ctx: &SessionContext) -> Vec<Vec<String>> {
    run(ctx, "SELECT split_part(model, '/', -1), images_encoded, texts_scored FROM capfilt_stats() ORDER BY 1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_textbook_query_encodes_each_image_once() {
    const N: usize = 300;
    for (partitions, batch_size) in [(1, 64), (2, 64), (7, 64), (2, 7), (7, 7), (7, 20)] {
        let options = EngineOptions { embedding_cache: Some(N / 20 * EMBEDDING), ..Default::default() };
        let ctx = session_on(engine(options), partitions, batch_size).await;
        // The first row of each picture, so that N rows are N distinct images.
        let first = "SELECT min(id) FROM web GROUP BY image";
        run(&ctx, &format!("CREATE TABLE some AS SELECT * FROM web WHERE id IN ({first}) ORDER BY id LIMIT {N}")).await;
        let kept = run(&ctx, TEXTBOOK).await;
        assert!(kept.len() > N / 2, "{}", kept.len());
        let counts = counts(&ctx).await;
        let encoded: Vec<(&str, usize)> = counts.iter().map(|r| (r[0].as_str(), r[1].parse().unwrap())).collect();
        assert_eq!(encoded, [("captioner", N), ("matcher", N)], "{partitions} partitions, batches of {batch_size}");
    }
}

/// EXPLAIN ANALYZE has the work of each operator that calls a model, and plain EXPLAIN runs no model.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn explain_analyze_shows_the_work_of_each_operator() {
    let ctx = session().await;
    let sql =
        "SELECT id, caption(image) AS c FROM web WHERE itm_score(image, 'a photo of a cat') >= 0 ORDER BY id LIMIT 4";
    run(&ctx, &format!("EXPLAIN {sql}")).await;
    assert_eq!(counts(&ctx).await, Vec::<Vec<String>>::new());
    let plan = run(&ctx, &format!("EXPLAIN ANALYZE {sql}")).await.concat().concat();
    let scopes: Vec<&str> = plan.lines().filter(|line| line.contains("calls=[")).collect();
    let &[above, below] = &scopes[..] else { panic!("{plan}") };
    let number = |line: &str, name: &str| -> u64 {
        let found = line.split_once(&format!("{name}=")).map(|(_, rest)| rest.split([',', ']']).next().unwrap());
        found.map_or(0, |n| n.trim().parse().unwrap())
    };
    assert!(above.contains("calls=[caption(") && below.contains("calls=[itm_score("), "{plan}");
    assert!((1..=4).contains(&number(above, "captions")) && number(above, "tokens_decoded") > 0, "{above}");
    assert!(above.contains("generate_time=") && !above.contains("score_time="), "{above}");
    for name in ["images_decoded", "images_encoded", "texts_scored"] {
        assert!(number(below, name) > 0, "{name}: {below}");
    }
    let times = ["decode_time=", "encode_time=", "score_time=", "wait_time="];
    assert!(times.iter().all(|time| below.contains(time)), "{below}");
    let all = run(&ctx, "SELECT sum(captions), sum(texts_scored), sum(images_encoded) FROM capfilt_stats()").await;
    for (name, sum) in ["captions", "texts_scored", "images_encoded"].iter().zip(&all[0]) {
        let counted: u64 = scopes.iter().map(|line| number(line, name)).sum();
        assert_eq!(counted.to_string(), *sum, "{name}: {plan}");
    }
}

/// With a gate, ITM is asked only where ITC is not sure, and the verdicts are those of the two scores.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gate_asks_itm_where_itc_is_not_sure() {
    let plain = session().await;
    let scores =
        "SELECT id, image, text, itc_score(image, text) AS itc, itm_score(image, text) AS itm FROM web WHERE id < 400";
    run(&plain, &format!("CREATE TABLE scored AS {scores}")).await;
    let bounds = "SELECT approx_percentile_cont(itc, 0.4), approx_percentile_cont(itc, 0.9) FROM scored";
    let bounds = run(&plain, bounds).await.concat();
    let [low, high] = &bounds[..] else { panic!("{bounds:?}") };
    let between = format!("itc >= {low} AND itc < {high}");
    let expected = format!("SELECT id FROM scored WHERE itc >= {high} OR ({between} AND itm >= 0.5) ORDER BY id");
    let expected = run(&plain, &expected).await;
    let unsure = format!("SELECT count(*) FROM (SELECT DISTINCT image, text FROM scored WHERE {between})");
    let unsure = run(&plain, &unsure).await.concat().concat();

    let gated = session().await;
    run(&gated, &format!("SET capfilt.itc_gate = '{low},{high}'")).await;
    let sql = "SELECT id FROM web WHERE id < 400 AND itm_score(image, text) >= 0.5 ORDER BY id";
    let plan = run(&gated, &format!("EXPLAIN {sql}")).await.concat().concat();
    assert!(plan.contains("itc_score("), "{plan}");
    assert_eq!(run(&gated, sql).await, expected);
    assert_eq!(counts(&gated).await[0][2], unsure, "of {} pairs", expected.len());
    // The constant may stand on either side, and a range is as its lower end.
    for other in ["0.5 <= itm_score(image, text)", "itm_score(image, text) >= 0.5 AND itm_score(image, text) <= 1"] {
        assert_eq!(run(&gated, &format!("SELECT id FROM web WHERE id < 400 AND {other} ORDER BY id")).await, expected);
    }
    // What asks for low scores, or for impossible ones, is left to ITM.
    for other in ["itm_score(image, text) < 0.5", "itm_score(image, text) > 1.5"] {
        let plan = run(&gated, &format!("EXPLAIN SELECT id FROM web WHERE {other}")).await.concat().concat();
        assert!(!plan.contains("itc_score("), "{plan}");
    }
    run(&gated, "SET capfilt.itc_gate = off").await;
    assert_eq!(run(&gated, sql).await, run(&plain, "SELECT id FROM scored WHERE itm >= 0.5 ORDER BY id").await);
    let error = try_rows(&gated, "SET capfilt.itc_gate = '0.5,0.2'").await.unwrap_err().to_string();
    assert!(error.contains("must be off, or LOW,HIGH"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn results_do_not_depend_on_how_the_work_is_cut() {
    const QUERY: &str = "
        SELECT id, caption(image) AS beam, caption(image, named_struct('strategy', 'nucleus', 'seed', 3)) AS sampled,
               itm_score(image, text) AS itm, itc_score(image, text) AS itc FROM some";
    for precision in ["fp32", "int8"] {
        let mut expected: Option<Vec<Vec<String>>> = None;
        // partitions, batch size, images in a batch, memo, order
        let cuts = [
            (1, 64, 8, "64MB", "id"),
            (2, 64, 8, "0", "id"),
            (7, 5, 3, "0", "id DESC"),
            (1, 1, 1, "0", "id"),
            (2, 13, 16, "0", "text"),
        ];
        for (partitions, batch_size, images, memo, order) in cuts {
            let ctx = session_on(engine(EngineOptions::default()), partitions, batch_size).await;
            for (setting, value) in
                [("precision", precision), ("max_batch_images", &images.to_string()), ("memo_limit", memo)]
            {
                run(&ctx, &format!("SET capfilt.{setting} = '{value}'")).await;
            }
            run(&ctx, &format!("CREATE TABLE some AS SELECT * FROM web WHERE id < 60 ORDER BY {order}")).await;
            let mut rows = run(&ctx, QUERY).await;
            rows.sort_by_key(|r| r[0].parse::<i64>().unwrap());
            let Some(expected) = &expected else {
                expected = Some(rows);
                continue;
            };
            for (ours, theirs) in rows.iter().zip(expected) {
                let cut = format!("{precision}, {partitions} partitions of {batch_size}, {images} images, by {order}");
                assert_eq!(ours[..3], theirs[..3], "{cut}");
                for column in [3, 4] {
                    let of = |row: &[String]| row[column].parse::<f32>().unwrap_or(f32::NAN);
                    let (a, b) = (of(ours), of(theirs));
                    assert!((a - b).abs() < 1e-5 || (a.is_nan() && b.is_nan()), "{cut}: {a} is not {b}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn int8_verdicts_agree_with_fp32s() {
    let ctx = session_on(engine(EngineOptions::default()), 2, 64).await;
    run(&ctx, "CREATE TABLE float AS SELECT id, itm_score(image, text) >= 0.5 AS kept FROM web").await;
    run(&ctx, "SET capfilt.precision = 'int8'").await;
    let rows = run(
        &ctx,
        "SELECT count(*), count(*) FILTER (WHERE f.kept = (itm_score(w.image, w.text) >= 0.5))
         FROM web w JOIN float f ON w.id = f.id WHERE f.kept IS NOT NULL",
    )
    .await;
    let (all, agree): (f64, f64) = (rows[0][0].parse().unwrap(), rows[0][1].parse().unwrap());
    assert!(all >= 1500.0, "{all}");
    let share = agree / all;
    eprintln!("int8 verdicts that agree with fp32's: {agree} of {all}, {:.2} %", 100.0 * share);
    assert!(share >= 0.97, "{share}");
}

/// A model that fails on request.
#[derive(Debug)]
struct Failing {
    inner: Arc<dyn Med>,
    /// Maximum number of images per call that fit in memory.
    fits: usize,
    delay: Duration,
}

impl Failing {
    fn check(&self, images: usize) -> Result<()> {
        std::thread::sleep(self.delay);
        if images > self.fits {
            return Err(Error::OutOfMemory(format!("{images} images")));
        }
        Ok(())
    }
}

impl Med for Failing {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn digest(&self) -> [u8; 32] {
        self.inner.digest()
    }
    fn device(&self) -> &str {
        self.inner.device()
    }
    fn precision(&self) -> Precision {
        self.inner.precision()
    }
    fn tokenizer(&self) -> &Tokenizer {
        self.inner.tokenizer()
    }
    fn preprocessor(&self) -> &Preprocessor {
        self.inner.preprocessor()
    }
    fn resident_bytes(&self) -> usize {
        self.inner.resident_bytes()
    }
    fn work_bytes(&self) -> WorkBytes {
        self.inner.work_bytes()
    }
    fn encode(&self, images: &[&[u8]]) -> Result<Vec<Embedding>> {
        self.check(images.len())?;
        self.inner.encode(images)
    }
    fn project(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>> {
        self.check(images.len())?;
        self.inner.project(images)
    }
    fn encode_texts(&self, texts: &[&[u32]]) -> Result<Vec<Arc<[f32]>>> {
        self.inner.encode_texts(texts)
    }
    fn match_texts(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<f32>>> {
        self.check(images.len())?;
        self.inner.match_texts(images, texts)
    }
    fn generate(
        &self,
        images: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        self.check(images.len())?;
        self.inner.generate(images, requests, options, cancelled)
    }
}

fn failing(fits: usize, delay: Duration) -> Arc<Engine> {
    let load = move |key: &capfilt_udfs::engine::ModelKey| {
        Ok(Arc::new(Failing { inner: blip::load(key)?, fits, delay }) as Arc<dyn Med>)
    };
    Engine::new(EngineOptions::default(), Box::new(load))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn out_of_memory_halves_the_batch_and_changes_nothing() {
    let query = format!("{TEXTBOOK} ORDER BY id, source");
    let mut results = vec![];
    for engine in [engine(EngineOptions::default()), failing(3, Duration::ZERO), failing(1, Duration::ZERO)] {
        let ctx = session_on(engine, 2, 64).await;
        run(&ctx, "CREATE TABLE some AS SELECT * FROM web WHERE id < 40").await;
        results.push(run(&ctx, &query).await);
    }
    assert!(results[0].len() > 40);
    for result in &results[1..] {
        for (ours, theirs) in result.iter().zip(&results[0]) {
            assert_eq!(ours[..3], theirs[..3]);
            let (a, b): (f32, f32) = (ours[3].parse().unwrap(), theirs[3].parse().unwrap());
            assert!((a - b).abs() < 1e-5);
        }
        assert_eq!(result.len(), results[0].len());
    }
    // Not even one image fits: the error says what to do.
    let ctx = session_on(failing(0, Duration::ZERO), 2, 64).await;
    let e = try_rows(&ctx, "SELECT caption(image) FROM web WHERE id < 3").await.unwrap_err().to_string();
    assert!(e.contains("memory") && e.contains("capfilt.memory_limit"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_memory_limit_too_small_is_an_error_and_a_small_one_is_kept() {
    let ctx = session_on(engine(EngineOptions::default()), 2, 64).await;
    run(&ctx, "SET capfilt.memory_limit = '1MB'").await;
    let e = try_rows(&ctx, "SELECT caption(image) FROM web WHERE id < 3").await.unwrap_err().to_string();
    assert!(e.contains("memory_limit"), "{e}");
    // Memory for one of the two models and some work, so the idle one is evicted.
    run(&ctx, "SET capfilt.memory_limit = '70MB'").await;
    run(&ctx, "CREATE TABLE some AS SELECT * FROM web WHERE id < 20").await;
    assert_eq!(run(&ctx, "SELECT count(caption(image)) FROM some").await, [["20"]]);
    assert_eq!(run(&ctx, "SELECT count(itm_score(image, text)) FROM some").await, [["20"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_query_stops_and_the_next_goes_on() {
    for partitions in [2, 4] {
        let engine = failing(usize::MAX, Duration::from_millis(20));
        let ctx = session_on(Arc::clone(&engine), partitions, 64).await;
        let frame = ctx.sql("SELECT caption(image) FROM web").await.unwrap();
        let stream = frame.execute_stream().await.unwrap();
        let query = tokio::spawn(async move {
            let mut stream = stream;
            stream.next().await
        });
        // Let the query begin, then drop it.
        let begun = Instant::now();
        while engine.stats().iter().all(|s| s.images_encoded == 0) {
            assert!(begun.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        query.abort();
        drop(query.await);
        let encoded = || engine.stats().iter().map(|s| s.images_encoded).sum::<u64>();
        // Work in flight may finish; after that, nothing changes.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let then = encoded();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(encoded(), then, "{partitions} partitions: the engine works on for a dropped query");
        assert!(then < 1000, "{then}");
        assert_eq!(run(&ctx, "SELECT count(itm_score(image, text)) FROM web WHERE id < 5").await, [["5"]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancelling_a_session_ends_its_query_and_no_other() {
    let engine = failing(usize::MAX, Duration::from_millis(20));
    let (long, other) = (session_on(Arc::clone(&engine), 2, 64).await, session_on(Arc::clone(&engine), 2, 64).await);
    let client = capfilt_udfs::client(&long).unwrap();
    let query = tokio::spawn(async move { try_rows(&long, "SELECT count(caption(image)) FROM web").await });
    let small =
        tokio::spawn(async move { run(&other, "SELECT count(itm_score(image, text)) FROM web WHERE id < 20").await });
    while engine.stats().iter().all(|s| s.images_encoded == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.cancel_running();
    let cancelled = Instant::now();
    let e = query.await.unwrap().unwrap_err().to_string();
    assert!(e.contains("cancelled"), "{e}");
    assert!(cancelled.elapsed() < Duration::from_secs(10));
    assert_eq!(small.await.unwrap(), [["20"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copy_to_parquet_holds_what_select_returns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scores.parquet");
    let ctx = session_on(engine(EngineOptions::default()), 2, 64).await;
    let query = "SELECT id, itm_score(image, text) AS s FROM web WHERE id < 30";
    run(&ctx, &format!("COPY ({query}) TO '{}'", path.display())).await;
    run(&ctx, &format!("CREATE EXTERNAL TABLE back STORED AS PARQUET LOCATION '{}'", path.display())).await;
    let back = run(&ctx, "SELECT count(*), count(s) FROM back").await;
    assert_eq!(back, [["30", "30"]]);
}

#[test]
fn a_runtime_of_one_thread_works_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ctx = session_on(engine(EngineOptions::default()), 2, 64).await;
        assert_eq!(run(&ctx, "SELECT count(caption(image)) FROM web WHERE id < 5").await, [["5"]]);
    });
}
