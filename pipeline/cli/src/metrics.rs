//! `--metrics-addr`: a job's metrics for Prometheus, at /metrics.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use capfilt_job::Done;
use capfilt_udfs::engine::ModelStats;
use prometheus::{CounterVec, Gauge, Opts, Registry, TextEncoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::console::{Stats, say};

/// Time limit of a request and its response.
const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum size of a request in bytes.
const REQUEST_BYTES: usize = 8 << 10;
/// Maximum number of concurrent connections; others wait.
const CONNECTIONS: usize = 32;
/// Maximum number of reported reasons of failed rows.
const REASONS: usize = 20;

const FOUND: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found";

type Model<T> = (&'static str, &'static str, fn(&ModelStats) -> T);

/// Counters per model: name, meaning, value.
const COUNTS: [Model<u64>; 5] = [
    ("images_encoded", "Images that went through the vision encoder", |m| m.images_encoded),
    ("captions", "Captions generated", |m| m.captions),
    ("tokens_decoded", "Tokens of these captions", |m| m.tokens_decoded),
    ("texts_scored", "Texts matched with an image", |m| m.texts_scored),
    ("memo_hits", "Results that were remembered and not computed again", |m| m.memo_hits),
];

/// Name of a stage, and the seconds spent in it.
type Share = (&'static str, fn(&ModelStats) -> f64);

/// The stages of a model's time.
const STAGES: [Share; 5] = [
    ("decode", |m| m.decode_seconds),
    ("encode", |m| m.encode_seconds),
    ("generate", |m| m.generate_seconds),
    ("score", |m| m.score_seconds),
    ("wait", |m| m.wait_seconds),
];

/// A metrics server.
pub(crate) struct Metrics(Arc<Shared>);

struct Shared {
    started: Instant,
    /// The job's latest progress report.
    latest: Mutex<Done>,
    stats: Stats,
}

impl Metrics {
    /// Starts serving at `address`; runs until the runtime ends.
    pub(crate) async fn serve(address: &str, stats: Stats) -> Result<Self> {
        let failed = |e: io::Error| {
            anyhow!("--metrics-addr {address}: {e}: give HOST:PORT of this machine, such as 127.0.0.1:9464, or port 0")
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        say(&format!("metrics at http://{bound}/metrics"));
        let shared = Arc::new(Shared { started: Instant::now(), latest: Mutex::default(), stats });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self(shared))
    }

    /// Stores the job's latest progress.
    pub(crate) fn update(&self, done: &Done) {
        done.clone_into(&mut self.0.latest.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that hangs up or is too slow gets no response; this must not affect the job.
                    let _ = timeout(DEADLINE, answer(stream, &shared)).await;
                    drop(slot);
                });
            }
            // Usually too many open files, which is transient.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0_u8; 1024];
    while !is_whole(&request) && request.len() < REQUEST_BYTES {
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            read => request.extend_from_slice(&part[..read]),
        }
    }
    let (head, body) = if asks_for_metrics(&request) {
        let latest = shared.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (FOUND, page(&latest, &(shared.stats)(), shared.started.elapsed()).map_err(io::Error::other)?)
    } else {
        (NOT_FOUND, String::new())
    };
    let answer = format!("{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Whether the request's head is complete: it ends with an empty line.
fn is_whole(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n") || request.windows(2).any(|end| end == b"\n\n")
}

/// Whether the request is `GET /metrics`, with any headers and query.
fn asks_for_metrics(request: &[u8]) -> bool {
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return false };
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [method, target, version] = words.as_slice() else { return false };
    let path = target.split_once('?').map_or(*target, |(path, _)| path);
    is_whole(request) && *method == "GET" && path == "/metrics" && version.starts_with("HTTP/1.")
}

/// The metrics as a page in Prometheus' text format.
///
/// Each page has a registry of its own: its metrics are read when it is asked for, and a series that ended, such as a
/// reason that is no longer among the commonest, does not stay.
fn page(latest: &Done, models: &[ModelStats], elapsed: Duration) -> prometheus::Result<String> {
    let Done { rows, before, bytes, tally, waits } = latest;
    let page = Page(Registry::new_custom(Some("capfilt".to_owned()), None)?);
    page.gauge("source_rows", "Rows of the source that are this job's", *rows as f64)?;
    page.gauge("rows_done_before", "Rows that an earlier run had done", *before as f64)?;
    page.gauge("source_bytes", "Bytes of the source's files", *bytes as f64)?;
    page.gauge("elapsed_seconds", "Seconds since the job began", elapsed.as_secs_f64())?;
    let all = |count: u64| [([], count as f64)];
    page.counter("rows_done", "Rows that are done, those of earlier runs among them", [], all(tally.rows))?;
    page.counter("failed_rows", "Rows whose image or text cannot be used", [], all(tally.failed))?;
    page.counter(
        "wait_seconds",
        "Seconds without rows under way for want of rows (read or fetched), and with pairs ready that could not be written yet",
        ["for"],
        [("rows", waits.rows), ("table", waits.table)].map(|(what, wait)| ([what], wait.as_secs_f64())),
    )?;
    let verdicts = [("web", tally.web), ("synthetic", tally.synthetic)].into_iter().flat_map(|(source, count)| {
        [("kept", count.kept), ("dropped", count.pairs.saturating_sub(count.kept))]
            .map(|(verdict, pairs)| ([source, verdict], pairs as f64))
    });
    let meaning = "Pairs of an image and a text, by the text's source and by verdict";
    page.counter("pairs", meaning, ["source", "verdict"], verdicts)?;
    let reasons = tally.reasons().into_iter().take(REASONS);
    let failed = reasons.map(|(reason, rows)| ([reason], rows as f64));
    page.counter("failed", "Failed rows by the commonest reasons", ["reason"], failed)?;
    let labelled: Vec<_> = models.iter().map(|model| (labels(model, models), model)).collect();
    for (name, meaning, of) in COUNTS {
        let counts = labelled.iter().map(|(labels, model)| (labels.each_ref().map(String::as_str), of(model) as f64));
        page.counter(name, meaning, ["model", "device", "precision"], counts)?;
    }
    let stages = labelled.iter().flat_map(|([name, device, precision], model)| {
        STAGES.map(|(stage, of)| ([name.as_str(), device, precision, stage], of(model)))
    });
    let meaning = "Seconds by what they are spent on; decode and wait are summed over threads";
    page.counter("stage_seconds", meaning, ["model", "device", "precision", "stage"], stages)?;
    TextEncoder::new().encode_to_string(&page.0.gather())
}

/// Metrics of one page.
struct Page(Registry);

impl Page {
    fn gauge(&self, name: &str, meaning: &str, value: f64) -> prometheus::Result<()> {
        let gauge = Gauge::new(name, meaning)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    /// A counter, whose name ends in `_total` by Prometheus' convention.
    fn counter<'a, const N: usize>(
        &self,
        name: &str,
        meaning: &str,
        labels: [&str; N],
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) -> prometheus::Result<()> {
        let counter = CounterVec::new(Opts::new(format!("{name}_total"), meaning), &labels)?;
        for (values, value) in samples {
            counter.with_label_values(&values).inc_by(value);
        }
        self.0.register(Box::new(counter))
    }
}

/// Labels of a model: its folder's name, device and precision. If two folders share a name, their full paths are used.
fn labels(model: &ModelStats, all: &[ModelStats]) -> [String; 3] {
    let name = model.checkpoint.file_name();
    let alike = |other: &ModelStats| other.checkpoint != model.checkpoint && other.checkpoint.file_name() == name;
    let name = match name {
        Some(name) if !all.iter().any(alike) => name.to_string_lossy().into_owned(),
        _ => model.checkpoint.display().to_string(),
    };
    [name, model.device.clone(), model.precision.to_string()]
}

#[cfg(test)]
mod tests {
    use capfilt_job::{Tally, Waits};
    use capfilt_udfs::blip::Precision;

    use super::*;

    fn model(checkpoint: &str, device: &str) -> ModelStats {
        ModelStats {
            checkpoint: checkpoint.into(),
            device: device.to_owned(),
            precision: Precision::Int8,
            images_encoded: 12,
            captions: 0,
            tokens_decoded: 0,
            texts_scored: 24,
            texts_encoded: 0,
            memo_hits: 3,
            decode_seconds: 0.25,
            encode_seconds: 41.5,
            generate_seconds: 0.0,
            score_seconds: 17.0,
            wait_seconds: 1.0,
            weight_bytes: 1,
        }
    }

    #[test]
    fn a_page_has_all_numbers() {
        let mut tally = Tally::default();
        (tally.rows, tally.failed) = (10, 2);
        (tally.web.pairs, tally.web.kept) = (10, 4);
        let latest = Done {
            rows: 40,
            before: 3,
            bytes: 1000,
            tally,
            waits: Waits { rows: Duration::from_millis(2500), ..Waits::default() },
        };
        let page = page(&latest, &[model("/models/a \"b\"\\c\nd/", "cuda:0")], Duration::from_millis(1500)).unwrap();
        for line in [
            "capfilt_source_rows 40",
            "# TYPE capfilt_source_rows gauge",
            "capfilt_rows_done_total 10",
            "# TYPE capfilt_rows_done_total counter",
            "capfilt_rows_done_before 3",
            "capfilt_failed_rows_total 2",
            "capfilt_source_bytes 1000",
            "capfilt_elapsed_seconds 1.5",
            "capfilt_wait_seconds_total{for=\"rows\"} 2.5",
            "capfilt_pairs_total{source=\"web\",verdict=\"dropped\"} 6",
            "capfilt_pairs_total{source=\"synthetic\",verdict=\"kept\"} 0",
            r#"capfilt_images_encoded_total{device="cuda:0",model="a \"b\"\\c\nd",precision="int8"} 12"#,
            r#"capfilt_stage_seconds_total{device="cuda:0",model="a \"b\"\\c\nd",precision="int8",stage="encode"} 41.5"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}:\n{page}");
        }
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn models_are_told_apart() {
        let models = [model("/coco/model", "cpu"), model("/flickr/model", "cpu"), model("/x/other", "cpu")];
        let names = models.each_ref().map(|one| labels(one, &models)[0].clone());
        assert_eq!(names, ["/coco/model", "/flickr/model", "other"]);
        // The same folder on two devices keeps its short name.
        let models = [model("/x/model", "cpu"), model("/x/model", "cuda:0")];
        assert_eq!(labels(&models[0], &models)[0], "model");
        assert_eq!(labels(&model("/", "cpu"), &[])[0], "/");
    }

    #[test]
    fn one_request_is_answered() {
        for request in ["GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics?a=b HTTP/1.0\n\n"] {
            assert!(asks_for_metrics(request.as_bytes()), "{request}");
        }
        for request in [
            "",
            "\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nHost: x",
            "GET /metrics\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET /metrics/ HTTP/1.1\r\n\r\n",
            "POST /metrics HTTP/1.1\r\n\r\n",
            "GET /metrics FTP/1.1\r\n\r\n",
            "GET /metrics HTTP/1.1 x\r\n\r\n",
        ] {
            assert!(!asks_for_metrics(request.as_bytes()), "{request}");
        }
        assert!(!asks_for_metrics(b"\xff\xfe /metrics HTTP/1.1\r\n\r\n"));
    }
}
