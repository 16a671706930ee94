//! Representatives among similar items.

/// A picture or a text: its hash, and its first row, or its representative's first row once it is known to repeat
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) hash: u64,
    pub(crate) first: u64,
}

/// Selects representatives in order: an item is a duplicate if it is similar to an earlier representative. An item
/// similar only to a duplicate is not itself a duplicate (similarity is not transitive).
pub(crate) struct Kinds {
    /// Items in the order of their first rows.
    pub(crate) known: Vec<Known>,
    repeats: Vec<bool>,
}

impl Kinds {
    pub(crate) fn new(known: Vec<Known>) -> Self {
        let repeats = vec![false; known.len()];
        Self { known, repeats }
    }

    /// Records that two items, given by place, are alike. Pairs must be sorted by the later place and then the earlier
    /// one, so that the earlier item's status is final.
    pub(crate) fn pair(&mut self, later: u64, earlier: u64) {
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
        // 0 ~ 1 ~ 2, but 0 is not like 2.
        assert_eq!(firsts(3, &[(1, 0), (2, 1)]), [0, 0, 20]);
        // 3 is like 1, which repeats 0, and like 2, which repeats nothing.
        assert_eq!(firsts(4, &[(1, 0), (3, 1), (3, 2)]), [0, 0, 20, 20]);
        // An item that could repeat two repeats the first.
        assert_eq!(firsts(3, &[(2, 0), (2, 1)]), [0, 10, 0]);
        // A pair may be reported twice.
        assert_eq!(firsts(3, &[(1, 0), (1, 0), (2, 0), (2, 0)]), [0, 0, 0]);
        assert_eq!(firsts(2, &[]), [0, 10]);
    }
}
