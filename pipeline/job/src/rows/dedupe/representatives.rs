//! Representatives among similar items.

/// Selects representatives in order: an item is a duplicate if it is similar to an earlier representative. An item
/// similar only to a duplicate is not itself a duplicate (similarity is not transitive).
pub(crate) struct Kinds {
    /// First row of each item, a picture or a text, in order, and that of its representative.
    pub(crate) all: Vec<(u64, u64)>,
}

impl Kinds {
    /// Records that two items, given by place, are alike. Pairs must be sorted by the later place and then the earlier
    /// one, so that the earlier item's status is final.
    pub(crate) fn pair(&mut self, later: u64, earlier: u64) {
        let own = |place: u64| self.all.get(place as usize).filter(|(first, of)| first == of).map(|(first, _)| *first);
        if let (Some(_), Some(earlier)) = (own(later), own(earlier)) {
            self.all[later as usize].1 = earlier;
        }
    }

    /// First row of the representative of the item with this first row.
    pub(crate) fn of(&self, first: u64) -> Option<u64> {
        let place = self.all.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        Some(self.all[place].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(count: u64, pairs: &[(u64, u64)]) -> Vec<u64> {
        let mut kinds = Kinds { all: (0..count).map(|n| (10 * n, 10 * n)).collect() };
        pairs.iter().for_each(|(later, earlier)| kinds.pair(*later, *earlier));
        let firsts = (0..count).map(|n| kinds.of(10 * n).unwrap()).collect();
        assert_eq!((kinds.of(5), kinds.of(10 * count)), (None, None));
        firsts
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
