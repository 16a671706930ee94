//! Which frames of a video are taken.

use std::ops::Range;
use std::str::FromStr;

/// Rule by which n of N frames are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Sampling {
    /// Frame `floor(i N / n)`, as in LAVIS.
    #[default]
    Uniform,
    /// Frame `i floor(N / n)`, as in BLIP, which rounds the step: the end of a video is not seen.
    Blip,
    /// Frame `floor((i + 1/2) N / n)`: the middle of each of n parts.
    Middle,
}

impl Sampling {
    /// Names that [`FromStr`] takes.
    pub(crate) const NAMES: &'static [&'static str] = &["uniform", "blip", "middle"];

    /// Indices of `n` of `frames` frames, in ascending order. Where there are fewer than `n`, some occur several times.
    pub(crate) fn indices(self, frames: usize, n: usize) -> Vec<usize> {
        (0..n)
            .map(|i| match self {
                Self::Uniform => i * frames / n,
                Self::Blip => i * (frames / n),
                Self::Middle => (2 * i + 1) * frames / (2 * n),
            })
            .collect()
    }
}

impl FromStr for Sampling {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "uniform" => Ok(Self::Uniform),
            "blip" => Ok(Self::Blip),
            "middle" => Ok(Self::Middle),
            _ => Err(()),
        }
    }
}

/// The frames that a call asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frames {
    /// How many.
    pub n: usize,
    /// The rule by which they are taken.
    pub sampling: Sampling,
    /// Seconds after the first frame from which on frames are taken.
    pub start: f64,
    /// Seconds after the first frame before which they are taken; `None` to the end.
    pub end: Option<f64>,
}

impl Frames {
    /// Indices among frames that begin at these seconds, in ascending order; empty if none is between `start` and `end`.
    pub(super) fn indices(&self, times: &[f64]) -> Vec<usize> {
        let Range { start, end } = self.window(times);
        if start >= end {
            return vec![];
        }
        self.sampling.indices(end - start, self.n).into_iter().map(|i| start + i).collect()
    }

    fn window(&self, times: &[f64]) -> Range<usize> {
        // Times of a container are whole numbers of its unit, those of an option are rounded to a float.
        let before = |second: f64| times.partition_point(|time| *time < second - 1e-4);
        let start = if self.start > 0.0 { before(self.start) } else { 0 };
        start..self.end.map_or(times.len(), before)
    }
}
