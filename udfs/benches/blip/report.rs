//! Benchmark table on stdout.

use std::io::Write;

use capfilt_udfs::blip::Precision;
use serde_json::Value;

use crate::checkpoint::Shape;
use crate::machine::Cpu;
use crate::model::Speeds;
use crate::sql::Sql;
use crate::{Options, REPEATS, Result};

/// Writes each part as soon as it is measured.
pub(crate) struct Report(std::io::Stdout);

impl Report {
    pub(crate) fn new() -> Self {
        Self(std::io::stdout())
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        let mut out = self.0.lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// Writes a figure and its target.
    fn target(&mut self, name: &str, figure: &str, target: &str, reached: bool) -> Result<()> {
        let reached = if reached { "reached" } else { "not reached" };
        self.line(&format!("  {name:<44} {figure:>12}   to reach: {target}: {reached}"))
    }

    pub(crate) fn machine(&mut self, cpu: &Cpu, options: &Options) -> Result<()> {
        if options.quick {
            self.line("quick run at a tiny size: the figures mean nothing")?;
        }
        let (has, lacks): (Vec<_>, Vec<_>) = cpu.features.iter().partition(|f| f.1);
        let list = |features: Vec<&(&str, bool)>| match features.is_empty() {
            true => "none of these".to_string(),
            false => features.iter().map(|f| f.0).collect::<Vec<_>>().join(", "),
        };
        self.line(&format!("{}, {} threads; has {}; lacks {}", cpu.model, options.threads, list(has), list(lacks)))
    }

    pub(crate) fn peak(&mut self, when: &str, size: usize, gflops: f64) -> Result<()> {
        self.line(&format!("best float32 product of {size} x {size} matrices {when}: {gflops:.0} GFLOP/s"))
    }

    pub(crate) fn speed(&mut self, precision: Precision, speeds: &Speeds) -> Result<()> {
        self.line(&format!("\n{precision}, seconds for an image or pair, best (median) of {REPEATS}"))?;
        let names = speeds.0[0].parts.iter().map(|(name, _)| match *name {
            "vit" => "ViT",
            "decode" => "decode alone",
            "itm" => "ITM of 2",
            other => other,
        });
        let header: String = names.map(|name| format!("{name:>18}")).collect();
        self.line(&format!("  batch{header}"))?;
        for speed in &speeds.0 {
            let cell = |time: &crate::Timing| format!("{:>9.4} ({:.4})", time.min(), time.median());
            let cells: String = speed.parts.iter().map(|(_, time)| format!("{:>18}", cell(time))).collect();
            self.line(&format!("  {:>5}{cells}", speed.batch))?;
        }
        Ok(())
    }

    /// Writes the vision encoder's share of `peak` GFLOP/s in each precision at the largest batch.
    pub(crate) fn vit_shares(
        &mut self,
        shape: &Shape,
        peak: f64,
        precisions: &[Precision],
        speeds: &[Speeds],
    ) -> Result<Vec<f64>> {
        let gflop = shape.vit_flop() / 1e9;
        self.line(&format!("\nViT, {gflop:.1} GFLOP an image, against the better product"))?;
        let mut shares = vec![];
        for (precision, speeds) in precisions.iter().zip(speeds) {
            let share = gflop / speeds.best("vit")? / peak;
            let (name, figure) = (format!("{precision}, share of the peak"), format!("{:.1} %", 100.0 * share));
            match precision {
                Precision::Fp32 => self.target(&name, &figure, "at least 90 %", share >= 0.9)?,
                Precision::Fp16 | Precision::Int8 => self.line(&format!("  {name:<44} {figure:>12}"))?,
            }
            shares.push(share);
        }
        Ok(shares)
    }

    pub(crate) fn sql(&mut self, sql: &Sql) -> Result<()> {
        self.line(&format!("\nSQL against the same tasks handed to the engine, fp32, best of {REPEATS}"))?;
        for (name, side) in [("BLIP-base", &sql.base), ("tests/fixtures/models", &sql.example)] {
            let row = |seconds: f64| 1e3 * seconds / side.rows as f64;
            self.line(&format!(
                "  {name}, {} rows: SQL {:.2} ms a row ({:.2} of CPU), engine {:.2} ({:.2}): {:+.1} %",
                side.rows,
                row(side.sql.wall.min()),
                row(side.sql.cpu.min()),
                row(side.direct.wall.min()),
                row(side.direct.cpu.min()),
                100.0 * side.share(),
            ))?;
        }
        let share = sql.base.share_outside_models();
        self.target(
            "BLIP-base, time outside the models",
            &format!("{:+.2} %", 100.0 * share),
            "under 5 %",
            share < 0.05,
        )?;
        let cpu = 1e3 * sql.example.cpu_per_row();
        self.target("tests/fixtures/models, CPU on top", &format!("{cpu:.3} ms a row"), "under 1 ms", cpu < 1.0)
    }

    pub(crate) fn memory(&mut self, precisions: &[Precision], figures: &[Value]) -> Result<()> {
        self.line("\nresident memory, MB; each precision in a process of its own")?;
        let columns = [
            ("before", "before"),
            ("+ captioner", "captioner_loaded"),
            ("+ filter", "both_loaded"),
            ("most so far", "most_while_loading"),
            ("most, with a batch", "most"),
            ("captioner's weights", "captioner_weights"),
            ("filter's weights", "filter_weights"),
        ];
        let header: String = columns.iter().map(|(name, _)| format!("{name:>21}")).collect();
        self.line(&format!("      {header}"))?;
        for (precision, figures) in precisions.iter().zip(figures) {
            let megabytes = |key: &str| format!("{:.0}", figures[key].as_f64().unwrap_or(f64::NAN) / 1e6);
            let cells: String = columns.iter().map(|(_, key)| format!("{:>21}", megabytes(key))).collect();
            self.line(&format!("  {precision}{cells}"))?;
        }
        self.line("\nseconds until a captioner is loaded, with its file in the page cache; of these, until its content is hashed")?;
        for (precision, figures) in precisions.iter().zip(figures) {
            let seconds = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
            self.line(&format!("  {precision} {:.2}, {:.2}", seconds("seconds_to_load"), seconds("seconds_to_open")))?;
        }
        self.line("")
    }
}
