//! Resident memory and the time to load, each precision in a separate process.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use capfilt_udfs::blip::{Med, Precision};
use serde_json::{Value, json};

use crate::checkpoint::Pair;
use crate::model::{BATCHES, Work};
use crate::{Options, Result};

pub(crate) fn measure(precision: Precision, options: &Options) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child-memory", &precision.to_string(), "--threads", &options.threads.to_string()]);
    if !options.quick {
        command.arg("--bench");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the process that measures memory failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Loads the models one after the other and writes the resident memory after each, and the seconds that the captioner
/// took. Sessions are created on first use, so a model counts as loaded once one image has gone through it.
pub(crate) fn child(pair: &Pair, precision: Precision, threads: usize) -> Result<()> {
    let one = Work::new(pair, 1);
    // ONNX Runtime's own start is not the model's.
    pair.filter(precision, threads)?;
    let before = status("VmRSS")?;
    let start = Instant::now();
    let captioner = pair.captioner(precision, threads)?;
    let opened = start.elapsed();
    one.caption(&captioner)?;
    let first = start.elapsed();
    let with_captioner = status("VmRSS")?;
    one.caption(&captioner)?;
    let second = start.elapsed() - first;
    let filter = pair.filter(precision, threads)?;
    one.itm(&filter)?;
    let with_filter = status("VmRSS")?;
    let loading = status("VmHWM")?;
    let batch = BATCHES[BATCHES.len() - 1];
    Work::new(pair, batch).pair(&captioner, &filter)?;
    let figures = json!({
        "seconds_to_open": opened.as_secs_f64(),
        "seconds_to_load": (first.saturating_sub(second)).as_secs_f64(),
        "before": before,
        "captioner_loaded": with_captioner,
        "both_loaded": with_filter,
        "most_while_loading": loading,
        "batch": batch,
        "most": status("VmHWM")?,
        "captioner_weights": captioner.resident_bytes(),
        "filter_weights": filter.resident_bytes(),
    });
    writeln!(std::io::stdout(), "{figures}")?;
    Ok(())
}

/// A size in /proc/self/status, in bytes.
fn status(field: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("no such size")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
