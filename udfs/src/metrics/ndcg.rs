//! Normalised discounted cumulative gain: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002),
//! with linear gains, as in the Visual Dialog challenge (visdial-challenge-starter-pytorch, `metrics.py`).

use super::error::MetricError;

/// The candidates of one query: each one's score and relevance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NdcgStats {
    /// How many places count; 0 if that is the number of candidates with relevance.
    k: i64,
    scores: Vec<f64>,
    relevances: Vec<f64>,
}

impl NdcgStats {
    /// Adds a candidate; the higher its score, the earlier its place. Without `k` as many places count as there are
    /// candidates with relevance.
    ///
    /// # Errors
    /// [`MetricError::NotPositive`] if `k` is less than 1, [`MetricError::MixedK`] if earlier candidates had another,
    /// [`MetricError::NotFinite`] if a number is not finite, [`MetricError::Negative`] if `relevance` is less than 0.
    pub fn add(&mut self, score: f64, relevance: f64, k: Option<i64>) -> Result<(), MetricError> {
        if let Some(k) = k.filter(|k| *k < 1) {
            return Err(MetricError::NotPositive("k", k));
        }
        for (name, value) in [("score", score), ("relevance", relevance)] {
            if !value.is_finite() {
                return Err(MetricError::NotFinite(name, value.to_string()));
            }
        }
        if relevance < 0.0 {
            return Err(MetricError::Negative("relevance", relevance.to_string()));
        }
        self.merge(Self { k: k.unwrap_or(0), scores: vec![score], relevances: vec![relevance] })
    }

    /// Adds the candidates of `other`.
    ///
    /// # Errors
    /// [`MetricError::MixedK`] if they had another k.
    pub fn merge(&mut self, other: Self) -> Result<(), MetricError> {
        if other.scores.is_empty() {
            return Ok(());
        }
        if self.scores.is_empty() {
            *self = other;
            return Ok(());
        }
        if self.k != other.k {
            return Err(MetricError::MixedK(self.k, other.k));
        }
        self.scores.extend(other.scores);
        self.relevances.extend(other.relevances);
        Ok(())
    }

    /// Gain of the order by score over that of the best order, from 0 to 1; candidates of equal scores share their places
    /// evenly, so that the order of additions changes nothing. None without a candidate with relevance.
    pub fn score(&self) -> Option<f64> {
        let relevant = self.relevances.iter().filter(|r| **r != 0.0).count();
        let k = if self.k == 0 { relevant } else { usize::try_from(self.k).unwrap_or(usize::MAX) };
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|a, b| {
            let by_relevance = || self.relevances[*b].total_cmp(&self.relevances[*a]);
            self.scores[*b].total_cmp(&self.scores[*a]).then_with(by_relevance)
        });
        let mut place = 0;
        let mut gain = 0.0;
        for tied in order.chunk_by(|a, b| self.scores[*a] == self.scores[*b]) {
            let places = (place..place + tied.len()).take_while(|place| *place < k);
            let mean = tied.iter().map(|i| self.relevances[*i]).sum::<f64>() / tied.len() as f64;
            gain += mean * places.map(discount).sum::<f64>();
            place += tied.len();
        }
        let mut best = self.relevances.clone();
        best.sort_by(|a, b| b.total_cmp(a));
        let ideal: f64 = best.iter().take(k).enumerate().map(|(place, r)| r * discount(place)).sum();
        // Sums of the same numbers in another order may differ in the last bits.
        (ideal > 0.0).then(|| (gain / ideal).min(1.0))
    }

    /// k, the scores, and the relevances.
    pub fn state(&self) -> (i64, &[f64], &[f64]) {
        (self.k, &self.scores, &self.relevances)
    }

    /// The inverse of [`state`](Self::state).
    ///
    /// # Errors
    /// [`MetricError::State`] if there are not as many scores as relevances.
    pub fn from_state(k: i64, scores: Vec<f64>, relevances: Vec<f64>) -> Result<Self, MetricError> {
        if scores.len() != relevances.len() {
            return Err(MetricError::State(format!("{} scores, {} relevances", scores.len(), relevances.len())));
        }
        Ok(Self { k, scores, relevances })
    }

    /// Heap size in bytes.
    pub fn size(&self) -> usize {
        (self.scores.capacity() + self.relevances.capacity()) * size_of::<f64>()
    }
}

/// Weight of a place, counted from 0.
fn discount(place: usize) -> f64 {
    1.0 / (place as f64 + 2.0).log2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::golden::{list, number, tasks};

    fn ndcg(rows: &[(f64, f64)], k: Option<i64>) -> Option<f64> {
        let mut stats = NdcgStats::default();
        rows.iter().for_each(|(score, relevance)| stats.add(*score, *relevance, k).unwrap());
        stats.score()
    }

    #[test]
    fn equals_the_challenges_code() {
        let golden = tasks();
        let numbers = |value: &serde_json::Value| list(value, number);
        let (scores, relevances) =
            (list(&golden["visdial"]["scores"], numbers), list(&golden["visdial"]["relevance"], numbers));
        let expected = numbers(&golden["visdial"]["ndcg_items"]);
        assert_eq!((scores.len(), expected.len()), (12, 12));
        let mut sum = 0.0;
        for (row, expected) in expected.iter().enumerate() {
            let mut parts = [NdcgStats::default(), NdcgStats::default()];
            for (i, (score, relevance)) in scores[row].iter().zip(&relevances[row]).enumerate() {
                parts[i * i % 3 % 2].add(*score, *relevance, None).unwrap();
            }
            let mut merged = NdcgStats::default();
            for part in parts.iter().rev() {
                let (k, scores, relevances) = part.state();
                merged.merge(NdcgStats::from_state(k, scores.to_vec(), relevances.to_vec()).unwrap()).unwrap();
            }
            let score = merged.score().unwrap();
            assert!((score - expected).abs() <= 1e-6, "row {row}: {score}, not {expected}");
            sum += score;
        }
        assert!((sum / 12.0 - number(&golden["visdial"]["ndcg"])).abs() <= 1e-6);
    }

    #[test]
    fn places_are_discounted_up_to_k() {
        let rows = [(0.9, 1.0), (0.8, 0.0), (0.7, 2.0)];
        let ideal = 2.0 + 1.0 / 3f64.log2();
        assert_eq!(ndcg(&rows, None), Some(1.0 / ideal));
        assert_eq!(ndcg(&rows, Some(3)), Some((1.0 + 2.0 / 2.0) / ideal));
        assert_eq!(ndcg(&rows, Some(1)), Some(0.5));
        assert_eq!(ndcg(&[(0.9, 3.0), (0.1, 1.0)], Some(i64::MAX)), Some(1.0));
        assert_eq!(ndcg(&[(0.9, 0.0)], None), None);
        assert_eq!(ndcg(&[], None), None);
    }

    #[test]
    fn ties_share_their_places() {
        let tied = ndcg(&[(0.5, 1.0), (0.5, 0.0)], None).unwrap();
        assert_eq!(Some(tied), ndcg(&[(0.5, 0.0), (0.5, 1.0)], None));
        assert_eq!(tied, 0.5);
        // Zero has one place, whatever its sign.
        assert_eq!(ndcg(&[(0.0, 1.0), (-0.0, 0.0)], None), Some(0.5));
        assert_eq!(ndcg(&[(-0.0, 1.0), (0.0, 0.0)], None), Some(0.5));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut stats = NdcgStats::default();
        assert_eq!(stats.add(0.1, 1.0, Some(0)), Err(MetricError::NotPositive("k", 0)));
        assert_eq!(stats.add(f64::NAN, 1.0, None), Err(MetricError::NotFinite("score", "NaN".into())));
        assert_eq!(stats.add(0.0, f64::INFINITY, None), Err(MetricError::NotFinite("relevance", "inf".into())));
        assert_eq!(stats.add(0.0, -0.5, None), Err(MetricError::Negative("relevance", "-0.5".into())));
        assert_eq!(stats, NdcgStats::default());
        stats.add(0.1, 1.0, Some(5)).unwrap();
        assert_eq!(stats.add(0.1, 1.0, Some(10)), Err(MetricError::MixedK(5, 10)));
        assert!(NdcgStats::from_state(0, vec![1.0], vec![]).is_err());
    }
}
