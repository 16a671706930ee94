//! Progress reports of a run: a progress bar or lines on stderr, metrics.jsonl, a TensorBoard event file, and
//! curves.svg.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Metrics of a step, one line of metrics.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Step number, from 1.
    pub step: u64,
    /// Epochs completed after the step.
    pub epoch: f64,
    /// ITC loss; 0 if it is off.
    pub itc: f64,
    /// ITM loss; 0 if it is off.
    pub itm: f64,
    /// LM loss, which is an answerer's only one; 0 if it is off.
    pub lm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Gradient norm before clipping.
    pub gradient_norm: f64,
    /// Temperature of ITC before the step.
    pub temperature: f64,
    /// Pairs seen so far.
    pub pairs: u64,
    /// Pairs skipped so far.
    pub skipped: u64,
    /// Seconds of training so far, including interrupted runs before this one.
    pub seconds: f64,
}

impl Line {
    fn values(&self) -> [(&'static str, f64); 6] {
        [
            ("loss/itc", self.itc),
            ("loss/itm", self.itm),
            ("loss/lm", self.lm),
            ("learning_rate", self.learning_rate),
            ("gradient_norm", self.gradient_norm),
            ("temperature", self.temperature),
        ]
    }
}

/// Writer of all progress reports.
#[derive(Debug)]
pub struct Reporter {
    out: PathBuf,
    metrics: BufWriter<File>,
    events: Events,
    /// Lines that curves.svg draws: every step, thinned out to at most twice [`POINTS`].
    lines: Vec<Line>,
    steps: u64,
    every: u64,
    shown: (u64, Instant),
    /// Progress bar on a terminal; without one, lines are printed.
    bar: Option<ProgressBar>,
}

/// Number of steps kept for the curves after thinning.
const POINTS: usize = 4000;

impl Reporter {
    /// Continues after step `first` in a run's folder and discards the records of later steps.
    pub fn open(out: &Path, first: u64, steps: u64, every: u64) -> Result<Self> {
        let path = out.join("metrics.jsonl");
        let failed = |e: std::io::Error| Error::file(&path, e);
        let mut lines: Vec<Line> = vec![];
        if first > 0 && path.exists() {
            for line in BufReader::new(File::open(&path).map_err(failed)?).lines() {
                // A kill may leave the last line incomplete.
                match serde_json::from_str::<Line>(&line.map_err(failed)?) {
                    Ok(line) if line.step <= first => lines.push(line),
                    _ => break,
                }
            }
        }
        // The kept lines exist nowhere else, so the new file is complete before it replaces the old one.
        let part = path.with_extension("part");
        let mut metrics = BufWriter::new(File::create(&part).map_err(failed)?);
        for line in &lines {
            write(&mut metrics, line).map_err(failed)?;
        }
        metrics.flush().map_err(failed)?;
        std::fs::rename(&part, &path).map_err(failed)?;
        let events = Events::create(out)?;
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} step {pos}/{len}  {msg}  {eta} left");
            let bar = ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.with_position(first)
        });
        bar.iter().for_each(ProgressBar::reset_eta);
        Ok(Self { out: out.into(), metrics, events, lines, steps, every, shown: (first, Instant::now()), bar })
    }

    /// Records a step.
    pub fn step(&mut self, line: &Line) -> Result<()> {
        let failed = |e: std::io::Error| Error::file(self.out.join("metrics.jsonl"), e);
        write(&mut self.metrics, line).map_err(failed)?;
        self.lines.push(line.clone());
        if self.lines.len() > 2 * POINTS {
            let mut n = 0;
            self.lines.retain(|_| {
                n += 1;
                n % 2 == 0
            });
        }
        if let Some(bar) = &self.bar {
            let seconds = self.shown.1.elapsed().as_secs_f64().max(1e-9);
            let rate = (line.step - self.shown.0) as f64 * line.pairs as f64 / line.step.max(1) as f64 / seconds;
            bar.set_message(format!("{}  {rate:.0} images/s", losses(line)));
            bar.set_position(line.step);
        }
        if line.step.is_multiple_of(self.every) || line.step == self.steps {
            if self.bar.is_none() {
                self.show(line);
            }
            for (tag, value) in line.values() {
                self.events.scalar(line.step, tag, value as f32)?;
            }
            self.flush()?;
        }
        Ok(())
    }

    fn show(&mut self, line: &Line) {
        let (steps, took) = (line.step - self.shown.0, self.shown.1.elapsed().as_secs_f64());
        let rate = steps as f64 / took.max(1e-9);
        let pairs = rate * line.pairs as f64 / line.step.max(1) as f64;
        let left = (self.steps - line.step) as f64 / rate.max(1e-9);
        eprintln!(
            "step {}/{}  epoch {:.2}  {}  lr {:.2e}  {pairs:.0} images/s  {} left",
            line.step,
            self.steps,
            line.epoch,
            losses(line),
            line.learning_rate,
            duration(left),
        );
        self.shown = (line.step, Instant::now());
    }

    /// Flushes all records to disk.
    pub fn flush(&mut self) -> Result<()> {
        self.metrics.flush().map_err(|e| Error::file(self.out.join("metrics.jsonl"), e))?;
        self.events.flush()
    }

    /// Draws the curves and returns the mean losses of the last tenth of the kept lines, at most 100.
    pub fn finish(mut self) -> Result<Line> {
        self.flush()?;
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
        let n = (self.lines.len() / 10).clamp(1, 100).min(self.lines.len());
        let Some(last) = self.lines.last() else {
            return Err(Error::file(&self.out, "the run took no step"));
        };
        let mean = |of: fn(&Line) -> f64| self.lines.iter().rev().take(n).map(of).sum::<f64>() / n as f64;
        let summary = Line { itc: mean(|l| l.itc), itm: mean(|l| l.itm), lm: mean(|l| l.lm), ..last.clone() };
        let path = self.out.join("curves.svg");
        curves(&self.lines, &path).map_err(|e| Error::file(path, e))?;
        Ok(summary)
    }
}

/// Formats the losses that are on.
fn losses(line: &Line) -> String {
    let all = [("itc", line.itc), ("itm", line.itm), ("lm", line.lm)];
    let on: Vec<String> =
        all.iter().filter(|(_, value)| *value != 0.0).map(|(name, value)| format!("{name} {value:.4}")).collect();
    on.join("  ")
}

fn write(to: &mut impl std::io::Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    writeln!(to)
}

fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// Plots the losses over the steps: each step faintly, with a running mean on top.
fn curves(lines: &[Line], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    type Of = fn(&Line) -> f64;
    let all: [(&str, Of, RGBColor); 3] = [
        ("ITC", |l| l.itc, RGBColor(31, 119, 180)),
        ("ITM", |l| l.itm, RGBColor(214, 39, 40)),
        ("LM", |l| l.lm, RGBColor(44, 140, 60)),
    ];
    let on: Vec<_> = all.into_iter().filter(|(_, of, _)| lines.iter().any(|l| of(l) != 0.0)).collect();
    let most = on.iter().flat_map(|(_, of, _)| lines.iter().map(of)).fold(0.0, f64::max);
    let last = lines.last().map_or(1, |l| l.step) as f64;
    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Losses", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..last.max(1.0), 0.0..most.max(1e-6) * 1.05)?;
    let whole = |x: &f64| format!("{x:.0}");
    chart.configure_mesh().light_line_style(WHITE).x_desc("step").y_desc("loss").x_label_formatter(&whole).draw()?;
    for (name, of, colour) in on {
        let points = lines.iter().map(|l| (l.step as f64, of(l)));
        chart.draw_series(LineSeries::new(points, colour.mix(0.25)))?;
        let window = (lines.len() / 50).max(1);
        let smooth = lines.iter().enumerate().map(|(i, l)| {
            let from = i.saturating_sub(window - 1);
            (l.step as f64, lines[from..=i].iter().map(of).sum::<f64>() / (i + 1 - from) as f64)
        });
        chart
            .draw_series(LineSeries::new(smooth, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(RGBColor(200, 200, 200)).draw()?;
    root.present()?;
    Ok(())
}

/// A TensorBoard event file: records of length, checksum, `Event` message, checksum (tensorflow/core/util/event.proto
/// and lib/io/record_writer). The crates that write such files need a protobuf compiler or are no longer maintained.
#[derive(Debug)]
struct Events {
    path: PathBuf,
    file: BufWriter<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

impl Events {
    fn create(out: &Path) -> Result<Self> {
        let path = out.join(format!("events.out.tfevents.{}.capfilt", now() as u64));
        let file = BufWriter::new(File::create(&path).map_err(|e| Error::file(&path, e))?);
        let mut events = Self { path, file };
        let file_version = Some("brain.Event:2".into());
        events.write(&Event { wall_time: now(), step: 0, file_version, summary: None })?;
        Ok(events)
    }

    fn scalar(&mut self, step: u64, tag: &str, simple_value: f32) -> Result<()> {
        let summary = Some(Scalars { value: vec![Scalar { tag: tag.into(), simple_value }] });
        self.write(&Event { wall_time: now(), step: step as i64, file_version: None, summary })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let data = prost::Message::encode_to_vec(event);
        let length = (data.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] = [&length, &masked(&length), &data, &masked(&data)];
        parts.iter().try_for_each(|part| self.file.write_all(part)).map_err(|e| Error::file(&self.path, e))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::file(&self.path, e))
    }
}

/// Masked checksum of a record.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Line {
        Line {
            step,
            epoch: 0.5,
            itc: 2.0 / step as f64,
            itm: 0.5,
            lm: 0.0,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            temperature: 0.07,
            pairs: step * 4,
            skipped: 0,
            seconds: 1.0,
        }
    }

    #[test]
    fn a_resumed_run_forgets_what_came_after_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let mut reporter = Reporter::open(dir.path(), 0, 10, 2).unwrap();
        (1..=7).for_each(|step| reporter.step(&line(step)).unwrap());
        drop(reporter);
        let path = dir.path().join("metrics.jsonl");
        // An incomplete last line, as left by a kill.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let mut reporter = Reporter::open(dir.path(), 5, 10, 2).unwrap();
        (6..=10).for_each(|step| reporter.step(&line(step)).unwrap());
        let last = reporter.finish().unwrap();
        assert_eq!((last.step, last.itc), (10, 0.2));
        let lines = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines, (1..=10).map(line).collect::<Vec<_>>());
        let svg = std::fs::read_to_string(dir.path().join("curves.svg")).unwrap();
        assert!(svg.contains("ITC") && svg.contains("ITM") && !svg.contains("LM"));
    }

    #[test]
    fn event_files_are_tensorboards() {
        // Length field of the first record that TensorFlow writes: 24, with its well-known checksum.
        let length = 24u64.to_le_bytes();
        assert_eq!(masked(&length), [0xa3, 0x7f, 0x4b, 0x22]);
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::create(dir.path()).unwrap();
        events.scalar(3, "loss/lm", 1.5).unwrap();
        events.flush().unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        assert_eq!(bytes[..12], [length, [0xa3, 0x7f, 0x4b, 0x22, 0, 0, 0, 0]].concat()[..12]);
        let second = &bytes[12 + 24 + 4..];
        let n = u64::from_le_bytes(second[..8].try_into().unwrap()) as usize;
        let event: Event = prost::Message::decode(&second[12..12 + n]).unwrap();
        let value = event.summary.unwrap().value.remove(0);
        assert_eq!((event.step, value.tag.as_str(), value.simple_value), (3, "loss/lm", 1.5));
    }

    #[test]
    fn durations_read_well() {
        assert_eq!([duration(5.2), duration(65.0), duration(3700.0)], ["5 s", "1 min 05 s", "1 h 01 min"]);
    }
}
