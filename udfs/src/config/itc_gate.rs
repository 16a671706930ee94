//! Thresholds of ITC as a first stage before ITM.

use std::str::FromStr;

/// ITC thresholds of a cheap first stage; ITM decides only for texts between them. Both are cosines from -1 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItcGate {
    /// A text with a lower ITC score is dropped.
    pub low: f64,
    /// A text with this ITC score or a higher one is kept.
    pub high: f64,
}

impl FromStr for ItcGate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once(',').and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
        match parts {
            Some((low, high)) if (-1.0..=high).contains(&low) && high <= 1.0 => Ok(Self { low, high }),
            _ => Err("expected LOW,HIGH: two cosines from -1 to 1, such as 0.2,0.4".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_two_cosines() {
        assert_eq!("-0.5, 0.25".parse(), Ok(ItcGate { low: -0.5, high: 0.25 }));
        for wrong in ["0.5", "0.5,0.2", "-2,0", "0,2", "nan,1", "0,nan", "a,b"] {
            assert!(wrong.parse::<ItcGate>().is_err(), "{wrong}");
        }
    }
}
