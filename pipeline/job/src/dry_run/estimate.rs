//! A job's estimate and its text.

use std::fmt;
use std::time::Duration;

use crate::tally::counts::{Tally, several};

/// Maximum number of listed reasons of failed rows.
const REASONS: usize = 12;

/// Estimate of a job from a sample.
#[derive(Debug)]
pub struct Estimate {
    pub(crate) files: usize,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Rows of this job that are done, and rows left to do.
    pub(crate) done: u64,
    pub(crate) left: u64,
    pub(crate) replaces: bool,
    pub(crate) shard: (u64, u64),
    /// Results of the sample; `None` if no rows are left.
    pub(crate) sample: Option<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) tally: Tally,
    pub(crate) places: usize,
    pub(crate) files: usize,
    pub(crate) warm_up: u64,
    pub(crate) elapsed: Duration,
    /// Bytes of the table per source row.
    pub(crate) row_bytes: f64,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "source     {} rows in {} ({})",
            self.rows,
            several(self.files as u64, "file"),
            size(self.bytes as f64)
        )?;
        write!(f, "\nleft       {} rows", self.left)?;
        let (shard, shards) = self.shard;
        if shards > 1 {
            write!(f, " of shard {shard} of {shards}")?;
        }
        if self.done > 0 {
            write!(f, "; the job would go on after {} rows", self.done)?;
        }
        if self.replaces {
            write!(f, "; the table that is there would be replaced")?;
        }
        let Some(sample) = &self.sample else { return Ok(()) };
        let Tally { rows, failed, .. } = sample.tally;
        let (places, files) = (several(sample.places as u64, "place"), several(sample.files as u64, "file"));
        let seconds = sample.elapsed.as_secs_f64().max(1e-3);
        let speed = rows as f64 / seconds;
        write!(f, "\nsample     {rows} rows at {places} in {files}: {seconds:.1} s, {speed:.1} rows/s")?;
        match sample.warm_up {
            0 => write!(f, ", the loading of models included")?,
            others => write!(f, ", after {others} others that are not counted")?,
        }
        for (name, count) in [("web", sample.tally.web), ("synthetic", sample.tally.synthetic)] {
            if count.pairs > 0 {
                let share = share(count.kept, count.pairs);
                write!(f, "\n{name:<10} {} of {} texts kept ({share})", count.kept, count.pairs)?;
            }
        }
        write!(f, "\nunusable   {failed} of {rows} rows ({})", share(failed, rows))?;
        for (reason, count) in sample.tally.reasons().into_iter().take(REASONS) {
            write!(f, "\n  {count:>8} {reason}")?;
        }
        write!(f, "\ntime       about {} for the rows that are left", time(self.left as f64 / speed))?;
        let whole = size(sample.row_bytes * (self.done + self.left) as f64);
        write!(f, "\nsize       about {whole} for {}", if shards > 1 { "the shard's files" } else { "the table" })
    }
}

/// Formats a share with its 95 % confidence interval (Wilson score; rough, since neighbouring rows are correlated).
fn share(hits: u64, of: u64) -> String {
    const Z: f64 = 1.96;
    let n = of.max(1) as f64;
    let share = hits as f64 / n;
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let [share, low, high] = [share, middle - half, middle + half].map(|share| 100.0 * share.clamp(0.0, 1.0));
    format!("{share:.1} %, 95 % interval {low:.1} to {high:.1} %")
}

fn time(seconds: f64) -> String {
    match seconds / 60.0 {
        minutes if minutes < 2.0 => format!("{seconds:.0} s"),
        minutes if minutes < 120.0 => format!("{minutes:.0} min"),
        minutes => format!("{:.1} hours", minutes / 60.0),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        few if few < 1e6 => format!("{:.1} kB", bytes / 1e3),
        some if some < 1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.1} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_says_what_it_is_made_of() {
        assert_eq!(share(32, 64), "50.0 %, 95 % interval 38.1 to 61.9 %");
        assert_eq!(share(0, 64), "0.0 %, 95 % interval 0.0 to 5.7 %");
        assert_eq!(share(4, 4), "100.0 %, 95 % interval 51.0 to 100.0 %");
        let mut tally = Tally::default();
        (tally.rows, tally.failed) = (64, 0);
        (tally.web.pairs, tally.web.kept) = (64, 32);
        let elapsed = Duration::from_secs(16);
        let sample = Sample { tally, places: 16, files: 1, warm_up: 8, elapsed, row_bytes: 1000.0 };
        let (done, left) = (500_000, 500_000);
        let mut estimate = Estimate {
            files: 2,
            rows: 1_000_000,
            bytes: 2_500_000_000,
            done,
            left,
            replaces: false,
            shard: (1, 1),
            sample: Some(sample),
        };
        let wanted = "source     1000000 rows in 2 files (2.5 GB)\n\
            left       500000 rows; the job would go on after 500000 rows\n\
            sample     64 rows at 16 places in 1 file: 16.0 s, 4.0 rows/s, after 8 others that are not counted\n\
            web        32 of 64 texts kept (50.0 %, 95 % interval 38.1 to 61.9 %)\n\
            unusable   0 of 64 rows (0.0 %, 95 % interval 0.0 to 5.7 %)\n\
            time       about 34.7 hours for the rows that are left\n\
            size       about 1.0 GB for the table";
        assert_eq!(estimate.to_string(), wanted);
        (estimate.sample, estimate.left, estimate.replaces) = (None, 0, true);
        assert!(estimate.to_string().ends_with("500000 rows; the table that is there would be replaced"));
    }
}
