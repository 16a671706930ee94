//! What goes to stderr: messages and progress.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use capfilt::Done;
use indicatif::{ProgressBar, ProgressStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// A plain line this often, where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// The bar that is on the screen: a message must not be written through it.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Writes one line to stderr.
pub(crate) fn say(line: &str) {
    let write = || {
        // Nobody to tell, if stderr is closed.
        let _ = writeln!(io::stderr(), "{line}");
    };
    match BAR.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Our crates' messages, and the others' warnings.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= if metadata.target().starts_with("capfilt") { Level::Info } else { Level::Error }
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            match record.level() {
                Level::Error => say(&format!("error: {}", record.args())),
                Level::Warn => say(&format!("warning: {}", record.args())),
                _ => say(&record.args().to_string()),
            }
        }
    }

    fn flush(&self) {}
}

/// Sends the crates' messages to stderr.
pub(crate) fn log_to_stderr() {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// How far a job is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last: RefCell<Instant>,
    told: Cell<bool>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = BAR.get_or_init(|| ProgressBar::new(0)).clone();
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rows  {msg}  ETA {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self { bar, started: now, last: RefCell::new(now), told: Cell::new(false) }
    }

    pub(crate) fn update(&self, done: &Done<'_>) {
        let Done { rows, before, tally, .. } = *done;
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = (tally.rows - before) as f64 / seconds;
        let mut doing = format!("{rate:.1} rows/s, {:.1} % kept", 100.0 * tally.share());
        if tally.failed > 0 {
            doing += &format!(", {} failed", tally.failed);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(rows);
            bar.set_position(tally.rows);
            bar.set_message(doing);
        } else if tally.rows == before {
            if !self.told.replace(true) {
                match before {
                    0 => say(&format!("{rows} rows to read")),
                    _ => say(&format!("going on after {before} of {rows} rows")),
                }
            }
        } else if self.last.borrow().elapsed() >= EVERY {
            self.last.replace(Instant::now());
            let left = rows.saturating_sub(tally.rows) as f64 / rate;
            say(&format!("{} of {rows} rows, {doing}, {left:.0} s to go", tally.rows));
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
