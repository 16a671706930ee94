//! Evaluation of the filter against known truth.

use capfilt_udfs::blip::Med as _;
use capfilt_udfs::text::ItmToken;
use serde::Serialize;

use super::evaluated::{Evaluated, Items};
use crate::error::Result;

/// Scores of a filter that keeps pairs with a probability of at least `threshold`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FilterScores {
    /// Number of pairs.
    pub pairs: usize,
    /// Number of true pairs.
    pub true_pairs: usize,
    /// Minimum probability of kept pairs.
    pub threshold: f64,
    /// Share of kept pairs that are true.
    pub precision: f64,
    /// Share of true pairs that are kept.
    pub recall: f64,
    /// Share of false pairs that are dropped.
    pub specificity: f64,
    /// Mean of recall and specificity.
    pub balanced_accuracy: f64,
    /// Area under the precision-recall curve (scikit-learn's `average_precision_score`).
    pub average_precision: f64,
    /// Expected calibration error: mean difference of probability and truth over ten equal ranges of probability.
    pub calibration_error: f64,
}

/// Scores every pair; a row counts as true if its weight is not 0.
pub fn filter(of: &Evaluated, items: &Items, threshold: f64) -> Result<FilterScores> {
    let tokenizer = of.med.tokenizer();
    let mut texts: Vec<Vec<_>> = vec![vec![]; items.images()];
    for (image, text, weight) in &items.texts {
        texts[*image].push((tokenizer.match_ids(&of.text(text), of.text_tokens, ItmToken::Enc), *weight != 0.0));
    }
    let mut judged = Vec::with_capacity(items.texts());
    of.blocks(items, &mut |range, embeddings| {
        let ids: Vec<Vec<&[u32]>> =
            texts[range.clone()].iter().map(|texts| texts.iter().map(|(ids, _)| &**ids).collect()).collect();
        let scores = of.med.match_texts(&embeddings.iter().collect::<Vec<_>>(), &ids)?;
        for (texts, scores) in texts[range].iter().zip(scores) {
            judged.extend(texts.iter().zip(scores).map(|((_, truth), score)| (f64::from(score), *truth)));
        }
        Ok(())
    })?;
    Ok(scores(judged, threshold))
}

/// Computes the scores from each pair's (probability, truth). A share of nothing is 0.
fn scores(mut judged: Vec<(f64, bool)>, threshold: f64) -> FilterScores {
    let pairs = judged.len();
    let share = |part: usize, of: usize| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let count = |what: &dyn Fn(&(f64, bool)) -> bool| judged.iter().filter(|one| what(one)).count();
    let true_pairs = count(&|(_, truth)| *truth);
    let kept = count(&|(p, _)| *p >= threshold);
    let both = count(&|(p, truth)| *truth && *p >= threshold);
    let (recall, specificity) =
        (share(both, true_pairs), share(pairs - true_pairs - (kept - both), pairs - true_pairs));
    let mut calibration_error = 0.0;
    for range in 0..10 {
        let inside = |p: f64| ((p * 10.0) as usize).min(9) == range;
        let (mut n, mut off) = (0, 0.0);
        for (p, truth) in judged.iter().filter(|(p, _)| inside(*p)) {
            n += 1;
            off += p - f64::from(*truth);
        }
        calibration_error += if n == 0 { 0.0 } else { f64::abs(off) / pairs as f64 };
    }
    judged.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut right, mut average_precision) = (0, 0, 0.0);
    for equal in judged.chunk_by(|a, b| a.0 == b.0) {
        let more = equal.iter().filter(|(_, truth)| *truth).count();
        seen += equal.len();
        right += more;
        average_precision += share(more, true_pairs) * share(right, seen);
    }
    FilterScores {
        pairs,
        true_pairs,
        threshold,
        precision: share(both, kept),
        recall,
        specificity,
        balanced_accuracy: (recall + specificity) / 2.0,
        average_precision,
        calibration_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_as_by_hand() {
        let found = scores(vec![(0.9, true), (0.8, false), (0.8, true), (0.3, true), (0.1, false)], 0.5);
        assert_eq!((found.pairs, found.true_pairs), (5, 3));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(found.precision, 2.0 / 3.0);
        close(found.recall, 2.0 / 3.0);
        close(found.specificity, 0.5);
        close(found.balanced_accuracy, 7.0 / 12.0);
        // 1/3 * 1/1 + 1/3 * 2/3 + 1/3 * 3/4, as scikit-learn computes it with tied scores.
        close(found.average_precision, (1.0 + 2.0 / 3.0 + 0.75) / 3.0);
        // |0.9 - 1|, |1.6 - 1|, |0.3 - 1|, |0.1 - 0|, over 5.
        close(found.calibration_error, (0.1 + 0.6 + 0.7 + 0.1) / 5.0);
        let none = scores(vec![(0.2, false)], 0.5);
        assert_eq!((none.precision, none.recall, none.specificity, none.average_precision), (0.0, 0.0, 1.0, 0.0));
    }
}
