//! An answerer's question encoder and answer scores, on the host.

use std::sync::Arc;

use super::med::{AnswerScore, Embedding};
use super::session::{OrtMed, Part};
use super::values::{Named, floats, ints, tensor_i64};
use super::work::SCORED_TOKENS;
use crate::error::{Error, Result};

/// Implements [`super::Med::encode_questions`].
pub(super) fn encode_questions(
    med: &OrtMed,
    images: &[&Embedding],
    questions: &[Vec<&[u32]>],
) -> Result<Vec<Vec<Embedding>>> {
    let width = med.checkpoint.config.text.width;
    let kv = med.cross_kv(Part::EncoderKv, images)?;
    med.in_groups(questions, usize::MAX, |images, questions, bucket| {
        let inputs = (med.text_inputs(questions, bucket)?, bucket);
        let outputs = med.run_texts(Part::Question, &kv, images, inputs, questions.len())?;
        let states = floats(&outputs[0])?.chunks_exact(bucket * width);
        // The padding's states are dropped: nothing reads them.
        let own = states.zip(questions).map(|(states, ids)| Embedding::Host(states[..ids.len() * width].into()));
        Ok(own.collect())
    })
}

/// Implements [`super::Med::score_answers`].
pub(super) fn score(
    med: &OrtMed,
    questions: &[&Embedding],
    answers: &[Vec<&[u32]>],
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<AnswerScore>>> {
    let positions = med.checkpoint.config.text.max_positions;
    if answers.iter().flatten().any(|ids| ids.len() < 2 || ids.len() > positions + 1) {
        return Err(Error::Internal(format!("an answer does not have from 2 to {} tokens", positions + 1)));
    }
    // The last token is none that others follow, so it is not fed.
    let fed: Vec<Vec<&[u32]>> =
        answers.iter().map(|answers| answers.iter().map(|ids| &ids[..ids.len() - 1]).collect()).collect();
    let sep = med.checkpoint.tokenizer.sep();
    let mut scores = vec![vec![]; questions.len()];
    for members in med.by_source_tokens(questions) {
        let own: Vec<&Embedding> = members.iter().map(|&i| questions[i]).collect();
        let kv = med.cross_kv(Part::DecoderKv, &own)?;
        let fed: Vec<Vec<&[u32]>> = members.iter().map(|&i| fed[i].clone()).collect();
        let found = med.in_groups(&fed, SCORED_TOKENS, |questions, answers, bucket| {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let inputs = (answer_inputs(med, answers, sep, bucket)?, bucket);
            let outputs = med.run_texts(Part::AnswerScores, &kv, questions, inputs, answers.len())?;
            let [likelihood, mean] = [floats(&outputs[0])?, floats(&outputs[1])?];
            let rows = likelihood.chunks_exact(bucket).zip(mean.chunks_exact(bucket)).zip(answers);
            let sum = |of: &[f32], ids: &[u32]| of[..ids.len()].iter().sum();
            Ok(rows
                .map(|((likelihood, mean), ids)| AnswerScore {
                    log_likelihood: sum(likelihood, ids),
                    mean_log_probability: sum(mean, ids),
                })
                .collect())
        })?;
        members.into_iter().zip(found).for_each(|(i, found)| scores[i] = found);
    }
    Ok(scores)
}

/// Inputs of [`Part::AnswerScores`] of answers without their [SEP], padded to `bucket` tokens.
fn answer_inputs(med: &OrtMed, answers: &[&[u32]], sep: u32, bucket: usize) -> Result<Named> {
    let pad = med.checkpoint.tokenizer.pad();
    let padded = |ids: &mut dyn Iterator<Item = u32>| -> Vec<i64> {
        ids.chain(std::iter::repeat(pad)).take(bucket).map(i64::from).collect()
    };
    let ids: Vec<i64> = answers.iter().flat_map(|ids| padded(&mut ids.iter().copied())).collect();
    let targets = answers.iter().flat_map(|ids| padded(&mut ids[1..].iter().copied().chain([sep]))).collect();
    Ok(vec![
        ("ids".into(), tensor_i64(&[answers.len(), bucket], ids)?),
        ("positions".into(), ints(&(0..bucket).collect::<Vec<_>>())?),
        ("targets".into(), tensor_i64(&[answers.len(), bucket, 1], targets)?),
    ])
}

/// The `k` answers with the likeliest first tokens by `first`, the log-probabilities of an answer's first token; among
/// equals, the first of the list. In the list's order.
pub(crate) fn likeliest(first: &[f32], answers: &[Arc<[u32]>], k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..answers.len()).collect();
    // [DEC] comes before the first token.
    let of = |place: usize| answers[place].get(1).and_then(|&id| first.get(id as usize)).copied();
    let of = |place: usize| of(place).filter(|p| !p.is_nan()).unwrap_or(f32::NEG_INFINITY);
    places.sort_by(|&a, &b| of(b).total_cmp(&of(a)));
    places.truncate(k);
    places.sort_unstable();
    places
}

/// Index of the greatest score, the first among equals; a NaN is less than any. `None` without scores.
pub(crate) fn best(scores: impl Iterator<Item = f32>) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, score) in scores.enumerate() {
        if best.is_none_or(|(_, most)| score > most || most.is_nan()) {
            best = Some((i, score));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests;
