//! Maximum number of failed rows before a job is stopped.

use std::str::FromStr;

use capfilt_tables::error::Error;

use crate::tally::counts::Tally;

/// Minimum number of rows before a share is judged; fewer only at the end.
const JUDGED_FROM: u64 = 1000;
/// Number of reasons listed in the error.
const REASONS: usize = 5;

/// Maximum number of rows whose image or text may be unusable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FailureLimit {
    /// Number of rows.
    Rows(u64),
    /// Per cent of the rows, from 0 to 100; judged after a thousand rows, or at the end.
    Percent(f64),
}

impl FromStr for FailureLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number of rows nor a share: give 100 or 1%");
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Rows).map_err(|_| wrong()),
            Some(share) => match share.trim().parse::<f64>() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(Self::Percent(share)),
                _ => Err(wrong()),
            },
        }
    }
}

impl FailureLimit {
    pub(crate) fn is_spent(self, tally: &Tally, at_end: bool) -> bool {
        match self {
            Self::Rows(most) => tally.failed > most,
            Self::Percent(most) => {
                (at_end || tally.rows >= JUDGED_FROM) && 100.0 * tally.failed as f64 > most * tally.rows as f64
            }
        }
    }

    pub(crate) fn error(self, tally: &Tally) -> Error {
        let allowed = match self {
            Self::Rows(rows) => rows.to_string(),
            Self::Percent(share) => format!("{share} %"),
        };
        let reasons =
            tally.reasons().into_iter().take(REASONS).map(|(reason, n)| format!("\n  {n:>8} {reason}")).collect();
        Error::TooManyFailed { failed: tally.failed, rows: tally.rows, allowed, reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_rows_or_a_share() {
        assert_eq!("100".parse(), Ok(FailureLimit::Rows(100)));
        assert_eq!("2.5%".parse(), Ok(FailureLimit::Percent(2.5)));
        for wrong in ["", "-1", "1.5", "x%", "101%", "-1 %"] {
            assert!(wrong.parse::<FailureLimit>().is_err(), "{wrong}");
        }
        let tally = |rows, failed| {
            let mut tally = Tally::default();
            (tally.rows, tally.failed) = (rows, failed);
            tally
        };
        assert!(
            FailureLimit::Rows(1).is_spent(&tally(10, 2), false)
                && !FailureLimit::Rows(2).is_spent(&tally(10, 2), true)
        );
        let share = FailureLimit::Percent(1.0);
        assert!(!share.is_spent(&tally(999, 999), false) && share.is_spent(&tally(999, 999), true));
        assert!(share.is_spent(&tally(1000, 11), false) && !share.is_spent(&tally(1000, 10), false));
        assert!(!share.is_spent(&tally(0, 0), true));
    }
}
