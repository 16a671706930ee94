//! What is the first of its kind.

/// A picture or a text: its hash, and the first row that has it; once it is known to repeat another, that one's first row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) hash: u64,
    pub(super) first: u64,
}

/// Which of some pictures or texts are the first of their kind: those that are like no earlier one that is itself the first of its
/// kind. What is like a repetition alone is none.
pub(super) struct Kinds {
    /// In the order of their first rows.
    pub(super) known: Vec<Known>,
    repeats: Vec<bool>,
}

impl Kinds {
    pub(super) fn new(known: Vec<Known>) -> Self {
        let repeats = vec![false; known.len()];
        Self { known, repeats }
    }

    /// Hears that two are alike, by their places. All pairs come, sorted by the later one's place and then by the earlier's: so what
    /// is to be known of the earlier one is known.
    pub(super) fn pair(&mut self, later: u64, earlier: u64) {
        let (later, earlier) = (later as usize, earlier as usize);
        if let (Some(false), Some(false)) = (self.repeats.get(later), self.repeats.get(earlier)) {
            self.repeats[later] = true;
            self.known[later].first = self.known[earlier].first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(count: u64, pairs: &[(u64, u64)]) -> Vec<u64> {
        let mut kinds = Kinds::new((0..count).map(|n| Known { hash: n, first: 10 * n }).collect());
        pairs.iter().for_each(|(later, earlier)| kinds.pair(*later, *earlier));
        kinds.known.iter().map(|known| known.first).collect()
    }

    #[test]
    fn what_is_like_a_repetition_alone_is_none() {
        // 0 ~ 1 ~ 2, and 0 is not like 2.
        assert_eq!(firsts(3, &[(1, 0), (2, 1)]), [0, 0, 20]);
        // 3 is like 1, which repeats 0, and like 2, which repeats nothing.
        assert_eq!(firsts(4, &[(1, 0), (3, 1), (3, 2)]), [0, 0, 20, 20]);
        // Of two that it may repeat it repeats the first.
        assert_eq!(firsts(3, &[(2, 0), (2, 1)]), [0, 10, 0]);
        // A pair may be told twice.
        assert_eq!(firsts(3, &[(1, 0), (1, 0), (2, 0), (2, 0)]), [0, 0, 0]);
        assert_eq!(firsts(2, &[]), [0, 10]);
    }
}
