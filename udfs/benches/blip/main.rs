//! Speed and memory at BLIP-base's size with random weights, in one run: `make bench`, or `cargo bench --bench blip`.
//!
//! Prints a table and writes all figures to `target/bench/ours.json`. Without `--bench` (which `cargo bench` passes),
//! or with `--quick`, everything runs at a tiny size in seconds: the figures mean nothing, but the code stays tested.
//! `--peers` also writes the inputs and logits that tests/bench/peers.py compares before it times transformers;
//! `--parity` writes only those. `--device cuda:0` checks and times a device in place of all this.

mod checkpoint;
mod device;
mod machine;
mod memory;
mod model;
mod parity;
mod report;
mod sql;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use capfilt_udfs::blip::Precision;
use serde_json::{Value, json};

use checkpoint::Pair;
use machine::Cpu;
use report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PRECISIONS: [Precision; 2] = [Precision::Fp32, Precision::Int8];

/// Repetitions of each measurement.
const REPEATS: usize = 3;

struct Options {
    quick: bool,
    peers: bool,
    threads: usize,
}

/// Seconds of each repetition, sorted.
#[derive(Clone)]
struct Timing(Vec<f64>);

impl Timing {
    fn of(repeats: usize, mut work: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut seconds = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let start = Instant::now();
            work()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Self(seconds))
    }

    fn min(&self) -> f64 {
        self.0[0]
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// Time for one of `n` pieces of the work.
    fn each(&self, n: usize) -> Self {
        Self(self.0.iter().map(|s| s / n as f64).collect())
    }

    fn json(&self) -> Value {
        json!({ "min": self.min(), "median": self.median() })
    }
}

/// The source tree: the working directory, if the program was built elsewhere and carried there.
fn root() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if built.exists() { built } else { PathBuf::from(".") }
}

/// target/bench, or target/bench/quick.
fn out_dir(quick: bool) -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let bench = if temporary.exists() { temporary.with_file_name("bench") } else { PathBuf::from("target/bench") };
    if quick { bench.join("quick") } else { bench }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let value = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1));
    let threads = match value("--threads") {
        Some(n) => n.parse()?,
        None => std::thread::available_parallelism()?.get(),
    };
    let quick = !has("--bench") || has("--quick") || has("--test");
    let options = Options { quick, peers: has("--peers"), threads };
    // Parts that need their own process, for which the benchmark runs itself.
    if let Some(size) = value("--child-peak") {
        return machine::child_peak(size.parse()?, threads);
    }
    if let Some(precision) = value("--child-memory") {
        return memory::child(&Pair::base(&out_dir(quick), quick)?, precision.parse()?, threads);
    }
    if let Some(path) = value("--child-decode") {
        return machine::child_decode(Path::new(path));
    }
    if has("--parity") {
        let out = out_dir(quick);
        return parity::write(&out, &Pair::base(&out, quick)?, &Pair::large(&out, quick)?, threads);
    }
    if let Some(device) = value("--device") {
        return device::check(device, &out_dir(quick), quick, threads, &mut Report::new());
    }
    run(&options)
}

fn run(options: &Options) -> Result<()> {
    let out = out_dir(options.quick);
    std::fs::create_dir_all(&out)?;
    let mut report = Report::new();
    let cpu = Cpu::read()?;
    report.machine(&cpu, options)?;

    let base = Pair::base(&out, options.quick)?;
    let shape = &base.shape;
    let size = if options.quick { 256 } else { 4096 };
    // Open a model first, to locate ONNX Runtime's library.
    base.captioner(Precision::Fp32, options.threads)?;
    let first_peak = machine::peak(size, options.threads)?;
    report.peak("at the start", size, first_peak)?;

    let mut speeds = vec![];
    for precision in PRECISIONS {
        let speed = model::time(&base, precision, options.threads)?;
        report.speed(precision, &speed)?;
        speeds.push(speed);
    }
    let last_peak = machine::peak(size, options.threads)?;
    report.peak("at the end", size, last_peak)?;
    let peak = first_peak.max(last_peak);
    let shares = report.vit_shares(shape, peak, &PRECISIONS, &speeds)?;

    let sql = sql::run(&base, options)?;
    report.sql(&sql)?;

    let memory = PRECISIONS.map(|p| memory::measure(p, options));
    let memory = memory.into_iter().collect::<Result<Vec<_>>>()?;
    report.memory(&PRECISIONS, &memory)?;

    if options.quick {
        device::check("fake", &out, true, options.threads, &mut report)?;
    }
    if options.peers {
        parity::write(&out, &base, &Pair::large(&out, options.quick)?, options.threads)?;
    }
    let of_precisions = |values: Vec<Value>| -> Value {
        PRECISIONS.iter().map(Precision::to_string).zip(values).collect::<serde_json::Map<_, _>>().into()
    };
    let figures = json!({
        "quick": options.quick,
        "cpu": cpu.json(),
        "threads": options.threads,
        "image_size": shape.image_size,
        "vit_gflop": shape.vit_flop() / 1e9,
        "peak_gflops": { "start": first_peak, "end": last_peak },
        "vit_share_of_peak": of_precisions(shares.into_iter().map(Value::from).collect()),
        "seconds": of_precisions(speeds.iter().map(|s| s.json()).collect()),
        "sql": sql.json(),
        "memory": of_precisions(memory),
    });
    let path = out.join("ours.json");
    std::fs::write(&path, format!("{figures:#}\n"))?;
    report.line(&format!("all figures: {}", path.display()))
}
