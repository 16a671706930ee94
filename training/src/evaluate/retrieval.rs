//! Image-text retrieval as in BLIP's evaluation: ITC for all pairs, ITM for the best k candidates.

use std::collections::BTreeSet;

use capfilt_udfs::blip::{Embedding, Med as _};
use capfilt_udfs::text::ItmToken;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::evaluated::{BATCH, Evaluated, Items, MOST_KEPT};
use crate::error::Result;

/// Recall at k: share of queries with a correct answer among the first k.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recalls {
    /// Recall at 1.
    pub r1: f64,
    /// Recall at 5.
    pub r5: f64,
    /// Recall at 10.
    pub r10: f64,
}

/// Retrieval scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetrievalScores {
    /// Number of images.
    pub images: usize,
    /// Number of texts.
    pub texts: usize,
    /// Text retrieval by ITC alone (TR).
    pub itc_text: Recalls,
    /// Image retrieval by ITC alone (IR).
    pub itc_image: Recalls,
    /// Number of candidates that ITM re-ranks per query.
    pub reranked: usize,
    /// Text retrieval with the best candidates re-ranked by ITM's logit plus ITC's similarity.
    pub itm_text: Recalls,
    /// Image retrieval with the best candidates re-ranked likewise.
    pub itm_image: Recalls,
}

fn recalls(ranks: &[usize]) -> Recalls {
    let share = |k: usize| ranks.iter().filter(|rank| **rank <= k).count() as f64 / ranks.len().max(1) as f64;
    Recalls { r1: share(1), r5: share(5), r10: share(10) }
}

/// Rank of the best correct answer, from 1. `scores` are (candidate, score); ties are broken by the lower candidate.
/// Without a correct candidate the rank is `usize::MAX`.
fn rank(scores: &[(usize, f32)], right: impl Fn(usize) -> bool) -> usize {
    let before = |a: &(usize, f32), b: &(usize, f32)| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0);
    let best = scores.iter().filter(|s| right(s.0)).reduce(|best, s| if before(s, best) { s } else { best });
    best.map_or(usize::MAX, |best| 1 + scores.iter().filter(|s| before(s, best)).count())
}

/// Evaluates retrieval; ITM re-ranks the best `rerank` candidates of each query.
pub fn retrieval(of: &Evaluated, items: &Items, rerank: usize) -> Result<RetrievalScores> {
    let (images, texts) = (items.images(), items.texts());
    let words: Vec<String> = items.texts.iter().map(|(_, text, _)| of.text(text)).collect();
    let tokenizer = of.med.tokenizer();
    let mut text_features = vec![];
    for block in words.chunks(4 * BATCH) {
        let ids: Vec<_> = block.iter().map(|text| tokenizer.itc_ids(text, of.text_tokens)).collect();
        text_features.extend(of.med.encode_texts(&ids.iter().map(AsRef::as_ref).collect::<Vec<&[u32]>>())?);
    }
    let mut image_features = vec![];
    let mut kept: Vec<Embedding> = vec![];
    let mut bytes = 0;
    of.blocks(items, &mut |_, embeddings| {
        image_features.extend(of.med.project(&embeddings.iter().collect::<Vec<_>>())?);
        bytes += embeddings.iter().map(Embedding::bytes).sum::<usize>();
        if bytes <= MOST_KEPT {
            kept.extend_from_slice(embeddings);
        }
        Ok(())
    })?;
    let matrix = |rows: &[std::sync::Arc<[f32]>]| {
        let width = rows.first().map_or(0, |row| row.len()) as i64;
        Tensor::from_slice(&rows.iter().flat_map(|row| row.iter().copied()).collect::<Vec<f32>>()).view([-1, width])
    };
    let similarities = matrix(&image_features).matmul(&matrix(&text_features).transpose(0, 1));
    let rows_of = |matrix: &Tensor| -> Vec<Vec<f32>> {
        (0..matrix.size()[0]).map(|i| Vec::try_from(matrix.get(i).contiguous()).unwrap_or_default()).collect()
    };
    let by_image = rows_of(&similarities);
    let by_text = rows_of(&similarities.transpose(0, 1));
    let numbered = |row: &[f32]| row.iter().copied().enumerate().collect::<Vec<_>>();
    let own = |image: usize| move |text: usize| items.texts[text].0 == image;
    let itc_text: Vec<usize> = by_image.iter().enumerate().map(|(i, row)| rank(&numbered(row), own(i))).collect();
    let itc_image: Vec<usize> =
        by_text.iter().enumerate().map(|(t, row)| rank(&numbered(row), |i| i == items.texts[t].0)).collect();

    // The best candidates of each query, grouped by image so that each image is encoded once.
    let best = |matrix: &Tensor, k: usize| -> Vec<Vec<i64>> {
        let (_, at) = matrix.topk(k as i64, -1, true, false);
        (0..at.size()[0]).map(|i| Vec::try_from(at.get(i).to_kind(Kind::Int64)).unwrap_or_default()).collect()
    };
    let best_texts = best(&similarities, rerank.min(texts));
    let best_images = best(&similarities.transpose(0, 1).contiguous(), rerank.min(images));
    let mut wanted: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); images];
    for (i, found) in best_texts.iter().enumerate() {
        wanted[i].extend(found.iter().map(|t| *t as usize));
    }
    for (t, found) in best_images.iter().enumerate() {
        found.iter().for_each(|i| _ = wanted[*i as usize].insert(t));
    }
    let ids: Vec<_> = words.iter().map(|text| tokenizer.match_ids(text, of.text_tokens, ItmToken::Enc)).collect();
    let mut for_image: Vec<Vec<(usize, f32)>> = vec![vec![]; images];
    let mut for_text: Vec<Vec<(usize, f32)>> = vec![vec![]; texts];
    let mut score = |range: std::ops::Range<usize>, embeddings: &[Embedding]| -> Result<()> {
        let texts: Vec<Vec<&[u32]>> =
            wanted[range.clone()].iter().map(|texts| texts.iter().map(|t| &*ids[*t]).collect()).collect();
        let logits = of.med.match_logits(&embeddings.iter().collect::<Vec<_>>(), &texts)?;
        for (i, logits) in range.zip(logits) {
            let (texts_of, images_of) = (&best_texts[i], &best_images);
            for (t, [_, logit]) in wanted[i].iter().copied().zip(logits) {
                let score = logit + by_image[i][t];
                if texts_of.contains(&(t as i64)) {
                    for_image[i].push((t, score));
                }
                if images_of[t].contains(&(i as i64)) {
                    for_text[t].push((i, score));
                }
            }
        }
        Ok(())
    };
    if kept.len() == images {
        for (i, embeddings) in kept.chunks(BATCH).enumerate() {
            score(i * BATCH..i * BATCH + embeddings.len(), embeddings)?;
        }
    } else {
        of.blocks(items, &mut score)?;
    }
    let itm_text: Vec<usize> = for_image.iter().enumerate().map(|(i, scores)| rank(scores, own(i))).collect();
    let itm_image: Vec<usize> =
        for_text.iter().enumerate().map(|(t, scores)| rank(scores, |i| i == items.texts[t].0)).collect();
    Ok(RetrievalScores {
        images,
        texts,
        itc_text: recalls(&itc_text),
        itc_image: recalls(&itc_image),
        reranked: rerank,
        itm_text: recalls(&itm_text),
        itm_image: recalls(&itm_image),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_the_best_right_answer() {
        let scores = [(0, 0.1), (1, 0.9), (2, 0.5), (3, 0.5)];
        assert_eq!(rank(&scores, |i| i == 1), 1);
        assert_eq!(rank(&scores, |i| i == 0), 4);
        assert_eq!(rank(&scores, |i| i == 2), 2);
        assert_eq!(rank(&scores, |i| i == 3), 3, "of equals the first comes first");
        assert_eq!(rank(&scores, |i| i == 0 || i == 3), 3);
        assert_eq!(rank(&scores, |_| false), usize::MAX);
        let shares = recalls(&[1, 2, 6, usize::MAX]);
        assert_eq!(shares, Recalls { r1: 0.25, r5: 0.5, r10: 0.75 });
    }
}
