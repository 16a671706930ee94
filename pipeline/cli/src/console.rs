//! Output to stderr: messages and progress.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use capfilt_job::{Done, Tally, Waits};
use capfilt_udfs::engine::ModelStats;
use env_logger::Env;
use env_logger::fmt::Formatter;
use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};
use log::{Level, Record};

/// Interval between progress lines without a terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Names of the stages in [`Spent::stages`].
const STAGES: [&str; 4] = ["vision", "captions", "scores", "decoding"];

/// Returns the engine's statistics so far, by model.
pub(crate) type Stats = Arc<dyn Fn() -> Vec<ModelStats> + Send + Sync>;

/// The progress bar on screen, which must be suspended while a message is written.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Writes one line to stderr.
pub(crate) fn say(line: &str) {
    let write = || {
        // If stderr is closed, there is nowhere to report the error.
        let _ = writeln!(io::stderr(), "{line}");
    };
    match BAR.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Installs the logger: by default this project's crates from level info, all others only errors. RUST_LOG overrides it.
pub(crate) fn log_to_stderr() {
    let levels = Env::default().default_filter_or("error,capfilt=info");
    // Lines go through `say` instead of env_logger's own buffer, to suspend the progress bar.
    let format = |_: &mut Formatter, record: &Record<'_>| {
        match record.level() {
            Level::Error => say(&format!("error: {}", record.args())),
            Level::Warn => say(&format!("warning: {}", record.args())),
            _ => say(&record.args().to_string()),
        }
        Ok(())
    };
    // A logger that is already installed stays.
    let _ = env_logger::Builder::from_env(levels).format(format).try_init();
}

/// The progress bar, if stderr is a terminal.
fn bar(template: &str) -> Option<ProgressBar> {
    io::stderr().is_terminal().then(|| {
        let bar = BAR.get_or_init(|| ProgressBar::new(0)).clone();
        // It may have been cleared after other work.
        bar.reset();
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    })
}

/// Removes the progress bar, if there is one.
pub(crate) fn clear_bar() {
    if let Some(bar) = BAR.get() {
        bar.finish_and_clear();
    }
}

/// Progress display of a job.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Time when the first rows were read; a deduplication pass may precede them.
    started: Cell<Instant>,
    last: RefCell<Instant>,
    is_shown: Cell<bool>,
    stats: Stats,
    /// Engine statistics when the job began.
    earlier: Spent,
}

impl Progress {
    pub(crate) fn new(stats: Stats) -> Self {
        let bar = bar("{bar:20} {pos}/{len} rows  {msg}\n{prefix}");
        let bar = bar.inspect(|bar| bar.enable_steady_tick(Duration::from_millis(200)));
        let now = Instant::now();
        let earlier = Spent::of(&stats());
        Self { bar, started: Cell::new(now), last: RefCell::new(now), is_shown: Cell::new(false), stats, earlier }
    }

    pub(crate) fn update(&self, done: &Done) {
        let &Done { rows, before, ref tally, .. } = done;
        if tally.rows == before {
            self.started.set(Instant::now());
        }
        let seconds = self.started.get().elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            let spent = self.spent();
            bar.set_length(rows);
            bar.set_position(tally.rows);
            let left = left(done, seconds).map(|left| format!("  ETA {left}")).unwrap_or_default();
            bar.set_message(doing(tally, before, seconds, &spent) + &left);
            bar.set_prefix(spent.shares(&done.waits, seconds));
        } else if tally.rows == before {
            if !self.is_shown.replace(true) {
                match before {
                    0 => say(&format!("{rows} rows to read")),
                    _ => say(&format!("going on after {before} of {rows} rows")),
                }
            }
        } else if self.last.borrow().elapsed() >= EVERY {
            self.last.replace(Instant::now());
            say(&lines(done, seconds, &self.spent()));
        }
    }

    fn spent(&self) -> Spent {
        Spent::of(&(self.stats)()).since(&self.earlier)
    }
}

/// Progress display of a file being written.
pub(crate) struct Bytes {
    file: String,
    bar: Option<ProgressBar>,
    last: Cell<Instant>,
}

impl Bytes {
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            bar: bar("{bar:20} {bytes}/{total_bytes}  ETA {eta}"),
            last: Cell::new(Instant::now()),
        }
    }

    pub(crate) fn update(&self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
        } else if self.last.get().elapsed() >= EVERY {
            self.last.set(Instant::now());
            say(&format!("{}: {:.1} of {:.1} MB", self.file, done as f64 / 1e6, all as f64 / 1e6));
        }
    }
}

/// Progress without a terminal: a status line, and below it the shares of time.
fn lines(done: &Done, seconds: f64, spent: &Spent) -> String {
    let &Done { rows, before, ref tally, .. } = done;
    let left = left(done, seconds).map(|left| format!(", {left} to go")).unwrap_or_default();
    let line = format!("{} of {rows} rows, {}{left}", tally.rows, doing(tally, before, seconds, spent));
    let shares = spent.shares(&done.waits, seconds);
    if shares.is_empty() { line } else { format!("{line}\n  {shares}") }
}

/// Remaining time at this run's mean rate. A single chunk may take minutes, and rows of earlier runs say nothing about
/// the rate.
fn left(done: &Done, seconds: f64) -> Option<FormattedDuration> {
    let now = done.tally.rows.saturating_sub(done.before);
    let left = done.rows.saturating_sub(done.tally.rows) as f64 / rate(now, seconds);
    (now > 0).then(|| FormattedDuration(Duration::from_secs_f64(left.min(1e9))))
}

/// Rates, and the share kept and count of failed rows.
fn doing(tally: &Tally, before: u64, seconds: f64, spent: &Spent) -> String {
    let mut doing = format!("{:.1} rows/s", rate(tally.rows - before, seconds));
    if spent.images > 0 {
        doing += &format!(", {:.1} images/s", rate(spent.images, seconds));
    }
    doing += &format!(", {:.1} % kept", 100.0 * tally.share());
    if tally.failed > 0 {
        doing += &format!(", {} failed", tally.failed);
    }
    doing
}

fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-3)
}

/// Engine statistics, summed over models.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    /// Images that went through a vision encoder.
    images: u64,
    memo_hits: u64,
    /// Seconds per stage, in the order of [`STAGES`].
    stages: [f64; STAGES.len()],
}

impl Spent {
    fn of(models: &[ModelStats]) -> Self {
        let mut all = Self::default();
        for model in models {
            all.images += model.images_encoded;
            all.memo_hits += model.memo_hits;
            let stages = [model.encode_seconds, model.generate_seconds, model.score_seconds, model.decode_seconds];
            all.stages.iter_mut().zip(stages).for_each(|(sum, seconds)| *sum += seconds);
        }
        all
    }

    fn since(mut self, earlier: &Self) -> Self {
        self.images = self.images.saturating_sub(earlier.images);
        self.memo_hits = self.memo_hits.saturating_sub(earlier.memo_hits);
        self.stages.iter_mut().zip(earlier.stages).for_each(|(sum, before)| *sum = (*sum - before).max(0.0));
        self
    }

    /// Summary of the engine's time by stage, its memo hits, and the shares of the job's `seconds` spent waiting.
    fn shares(&self, waits: &Waits, seconds: f64) -> String {
        let listed = |of: &mut dyn Iterator<Item = (&str, f64)>| {
            let some = of.filter(|(_, share)| *share >= 0.5).map(|(name, share)| format!("{name} {share:.0} %"));
            some.collect::<Vec<_>>().join(", ")
        };
        let all: f64 = self.stages.iter().sum();
        let engine = listed(&mut STAGES.into_iter().zip(self.stages.map(|s| 100.0 * s / all.max(1e-9))));
        let memo = if self.memo_hits > 0 { format!("{} memo hits", self.memo_hits) } else { String::new() };
        let share = |wait: Duration| 100.0 * wait.as_secs_f64() / seconds.max(1e-3);
        let waits = [("waits for rows", share(waits.rows)), ("waits for the table", share(waits.table))];
        let waits = listed(&mut waits.into_iter());
        [engine, memo, waits].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

/// Writes data to standard output.
pub(crate) fn put(text: &str, end: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(end.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statistics of a model that has encoded 12 images in 41 seconds, and so on.
    fn model() -> ModelStats {
        ModelStats {
            checkpoint: "models/captioner".into(),
            device: "cpu".to_owned(),
            precision: capfilt_udfs::blip::Precision::Fp32,
            images_encoded: 12,
            captions: 12,
            tokens_decoded: 99,
            texts_scored: 24,
            texts_encoded: 0,
            memo_hits: 3,
            decode_seconds: 4.0,
            encode_seconds: 41.0,
            generate_seconds: 38.0,
            score_seconds: 17.0,
            wait_seconds: 1000.0,
            weight_bytes: 1,
        }
    }

    fn tally(rows: u64, failed: u64) -> Tally {
        let mut tally = Tally::default();
        (tally.rows, tally.failed) = (rows, failed);
        (tally.web.pairs, tally.web.kept) = (rows, rows / 2);
        tally
    }

    #[test]
    fn the_engines_time_has_shares() {
        let (spent, none) = (Spent::of(&[model()]), Waits::default());
        assert_eq!(spent.shares(&none, 1.0), "vision 41 %, captions 38 %, scores 17 %, decoding 4 %; 3 memo hits");
        let twice = Spent::of(&[model(), model()]);
        assert_eq!(twice.images, 24);
        assert_eq!(
            twice.since(&spent).shares(&none, 1.0),
            spent.shares(&none, 1.0),
            "what was there before the job is not its own"
        );
        assert_eq!(spent.since(&spent).shares(&none, 1.0), "");
        let captioner = ModelStats { score_seconds: 0.1, memo_hits: 0, ..model() };
        assert_eq!(Spent::of(&[captioner]).shares(&none, 1.0), "vision 49 %, captions 46 %, decoding 5 %");
        let waits = Waits { rows: Duration::from_secs(63), table: Duration::from_millis(100) };
        assert_eq!(Spent::default().shares(&waits, 100.0), "waits for rows 63 %", "a job that fetches");
    }

    #[test]
    fn lines_are_short() {
        let said = |tally: &Tally, spent: &Spent| {
            let (rows, before) = (12_000_000, 1_000_000);
            lines(&Done { rows, before, bytes: 1, tally: tally.clone(), waits: Waits::default() }, 100_000.0, spent)
        };
        let few = said(&tally(1_100_000, 0), &Spent::default());
        assert_eq!(few, "1100000 of 12000000 rows, 1.0 rows/s, 50.0 % kept, 126d 03:46:40 to go");
        let spent = Spent { images: 240_000_000, memo_hits: 12_000_000, ..Spent::of(&[model()]) };
        let many = said(&tally(11_000_000, 1_234_567), &spent);
        assert!(many.contains("100.0 rows/s, 2400.0 images/s, 50.0 % kept, 1234567 failed, 02:46:40 to go\n  vision"));
        assert!(many.lines().count() == 2 && many.lines().all(|line| line.len() <= 120), "{many}");
    }
}
