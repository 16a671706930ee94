//! Recall@k of retrieval.

use super::error::MetricError;

/// Share of queries whose match is among the first k results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecallStats {
    /// k of the queries; 0 before the first.
    k: i64,
    hits: i64,
    queries: i64,
}

impl RecallStats {
    /// Adds a query whose match has this 1-based rank (`i64::MAX` if not found). It is a hit if `rank <= k`.
    ///
    /// # Errors
    /// [`MetricError::NotPositive`] if `k` or `rank` is less than 1; [`MetricError::MixedK`] if earlier queries had
    /// another k.
    pub fn add(&mut self, k: i64, rank: i64) -> Result<(), MetricError> {
        for (name, value) in [("k", k), ("rank", rank)] {
            if value < 1 {
                return Err(MetricError::NotPositive(name, value));
            }
        }
        self.merge(&Self { k, hits: i64::from(rank <= k), queries: 1 })
    }

    /// Adds the queries of `other`.
    ///
    /// # Errors
    /// [`MetricError::MixedK`] if they had another k.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricError> {
        if self.k != other.k && self.queries > 0 && other.queries > 0 {
            return Err(MetricError::MixedK(self.k, other.k));
        }
        self.k = self.k.max(other.k);
        self.hits += other.hits;
        self.queries += other.queries;
        Ok(())
    }

    /// Hits over queries, from 0 to 1. None without queries.
    pub fn score(&self) -> Option<f64> {
        (self.queries > 0).then(|| self.hits as f64 / self.queries as f64)
    }

    /// k, number of hits, and number of queries.
    pub fn state(&self) -> [i64; 3] {
        [self.k, self.hits, self.queries]
    }

    /// The inverse of [`state`](Self::state).
    pub fn from_state([k, hits, queries]: [i64; 3]) -> Self {
        Self { k, hits, queries }
    }
}

#[cfg(test)]
mod tests {
    use super::RecallStats;
    use crate::metrics::MetricError;

    #[test]
    fn is_the_share_of_ranks_up_to_k() {
        let recall = |k, ranks: &[i64]| {
            let mut stats = RecallStats::default();
            for rank in ranks {
                let mut part = RecallStats::default();
                part.add(k, *rank).unwrap();
                stats.merge(&RecallStats::from_state(part.state())).unwrap();
            }
            stats.score()
        };
        let ranks = [1, 5, 6, 2, i64::MAX];
        assert_eq!([1, 5, 10].map(|k| recall(k, &ranks)), [Some(0.2), Some(0.6), Some(0.8)]);
        assert_eq!(recall(5, &[]), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut stats = RecallStats::default();
        assert_eq!(stats.add(0, 1), Err(MetricError::NotPositive("k", 0)));
        assert_eq!(stats.add(1, -2), Err(MetricError::NotPositive("rank", -2)));
        assert_eq!(stats.score(), None);
        stats.add(5, 1).unwrap();
        assert_eq!(stats.add(10, 1), Err(MetricError::MixedK(5, 10)));
        stats.merge(&RecallStats::default()).unwrap();
        assert_eq!(stats.state(), [5, 1, 1]);
    }
}
