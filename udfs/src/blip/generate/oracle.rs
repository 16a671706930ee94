//! Literal, slow ports of transformers' decoding for one image, as reference for the tests. Tensors are vectors, and
//! `topk` prefers the lower index.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::options::GenerationOptions;

type Model<'a> = &'a dyn Fn(&[u32]) -> Vec<f32>;

pub(super) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    logits.iter().map(|logit| logit - highest - sum.ln()).collect()
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - highest).exp())).sum();
    logits.iter().map(|logit| (logit - highest).exp() / sum as f32).collect()
}

fn topk(values: &[f32], k: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
    indices.truncate(k);
    indices
}

fn gather<T: Clone>(values: &[T], indices: &[usize]) -> Vec<T> {
    indices.iter().map(|&index| values[index].clone()).collect()
}

fn flag(value: bool) -> f32 {
    f32::from(u8::from(value))
}

/// RepetitionPenaltyLogitsProcessor, then MinLengthLogitsProcessor.
fn process(options: &GenerationOptions, eos: u32, input_ids: &[u32], scores: &[f32]) -> Vec<f32> {
    let vocab = scores.len();
    let mut padded = scores.to_vec();
    padded.push(0.0);
    if options.repetition_penalty != 1.0 {
        let before = padded.clone();
        for &id in input_ids {
            let id = (id as usize).min(vocab);
            let (score, penalty) = (before[id], options.repetition_penalty);
            padded[id] = if score < 0.0 { score * penalty } else { score / penalty };
        }
    }
    padded.truncate(vocab);
    if options.min_length > 0 && input_ids.len() < options.min_length {
        padded[eos as usize] = f32::NEG_INFINITY;
    }
    padded
}

fn cut(ids: &[u32], eos: u32) -> Vec<u32> {
    ids.iter().copied().take_while(|&id| id != eos).collect()
}

/// `_beam_search` with `length_penalty` as Python's double; returns `num_return_sequences` sequences.
pub(super) fn beam_port(
    options: &GenerationOptions,
    length_penalty: f64,
    prompt: &[u32],
    eos: u32,
    model: Model<'_>,
) -> Vec<Vec<u32>> {
    let (num_beams, max_length, prompt_len) = (options.num_beams, options.max_length, prompt.len());
    // transformers raises an error here; this crate returns no new ids.
    if prompt_len >= max_length {
        return vec![Vec::new(); options.num_return_sequences];
    }
    let beams_to_keep = 2 * num_beams;
    let mut cur_len = prompt_len;
    let mut running_sequences = vec![[prompt, &vec![0; max_length - prompt_len]].concat(); num_beams];
    let mut sequences = running_sequences.clone();
    let mut running_beam_scores = vec![-1e9f32; num_beams];
    running_beam_scores[0] = 0.0;
    let mut beam_scores = vec![-1e9f32; num_beams];
    let mut is_sent_finished = vec![false; num_beams];
    let mut unsatisfied = true;
    let mut running_beam_indices = vec![vec![-1i32; max_length - prompt_len]; num_beams];
    let mut beam_indices = running_beam_indices.clone();
    loop {
        let mut accumulated = Vec::new();
        for beam in 0..num_beams {
            let input_ids = &running_sequences[beam][..cur_len];
            let log_probs = process(options, eos, input_ids, &log_softmax(&model(input_ids)));
            accumulated.extend(log_probs.iter().map(|log_prob| log_prob + running_beam_scores[beam]));
        }

        // _get_top_k_continuations
        let topk_indices = topk(&accumulated, beams_to_keep);
        let mut topk_log_probs = gather(&accumulated, &topk_indices);
        let vocab = accumulated.len() / num_beams;
        let current_beams: Vec<usize> = topk_indices.iter().map(|index| index / vocab).collect();
        let mut topk_beam_indices = gather(&running_beam_indices, &current_beams);
        let mut topk_sequences = gather(&running_sequences, &current_beams);
        for (place, index) in topk_indices.iter().enumerate() {
            topk_sequences[place][cur_len] = (index % vocab) as u32;
            topk_beam_indices[place][cur_len - prompt_len] = current_beams[place] as i32;
        }

        let hits = |sequence: &Vec<u32>| cur_len + 1 >= max_length || sequence[cur_len] == eos;
        let hits: Vec<bool> = topk_sequences.iter().map(hits).collect();

        // _get_running_beams_for_next_iteration
        let topk_running: Vec<f32> =
            topk_log_probs.iter().zip(&hits).map(|(log_prob, &hit)| log_prob + flag(hit) * -1e9).collect();
        let next = topk(&topk_running, num_beams);
        running_sequences = gather(&topk_sequences, &next);
        running_beam_scores = gather(&topk_running, &next);
        running_beam_indices = gather(&topk_beam_indices, &next);

        // _update_finished_beams
        let just_finished: Vec<bool> = hits.iter().enumerate().map(|(place, hit)| *hit && place < num_beams).collect();
        let full = is_sent_finished.iter().all(|finished| *finished) && options.early_stopping;
        for (place, log_prob) in topk_log_probs.iter_mut().enumerate() {
            *log_prob /= ((cur_len + 1 - prompt_len) as f64).powf(length_penalty) as f32;
            *log_prob += flag(full) * -1e9;
            *log_prob += flag(!unsatisfied) * -1e9;
            *log_prob += flag(!just_finished[place]) * -1e9;
        }
        let merged_scores = [beam_scores, topk_log_probs].concat();
        let merged = topk(&merged_scores, num_beams);
        sequences = gather(&[sequences, topk_sequences].concat(), &merged);
        beam_scores = gather(&merged_scores, &merged);
        beam_indices = gather(&[beam_indices, topk_beam_indices].concat(), &merged);
        is_sent_finished = gather(&[is_sent_finished, just_finished].concat(), &merged);

        // _check_early_stop_heuristic
        cur_len += 1;
        let best_possible = running_beam_scores[0] / ((cur_len - prompt_len) as f64).powf(length_penalty) as f32;
        let least = beam_scores.iter().copied().fold(f32::INFINITY, f32::min);
        unsatisfied &= is_sent_finished.iter().any(|&finished| best_possible > if finished { least } else { -1e9 });

        // _beam_search_has_unfinished_sequences
        let exists_open_beam = !(is_sent_finished.iter().all(|finished| *finished) && options.early_stopping);
        let valid_continuations = !hits.iter().all(|hit| *hit);
        if !(unsatisfied && exists_open_beam && valid_continuations) {
            break;
        }
    }
    let returned = sequences.iter().zip(&beam_indices).take(options.num_return_sequences);
    returned
        .map(|(sequence, beam_indices)| {
            let generated = beam_indices.iter().filter(|index| **index >= 0).count();
            cut(&sequence[prompt_len..prompt_len + generated], eos)
        })
        .collect()
}

/// `_sample`; `choose` selects a token from processed scores.
fn sample_port(
    options: &GenerationOptions,
    prompt: &[u32],
    eos: u32,
    model: Model<'_>,
    mut choose: impl FnMut(Vec<f32>) -> u32,
) -> Vec<u32> {
    let mut input_ids = prompt.to_vec();
    while input_ids.len() < options.max_length {
        let next = choose(process(options, eos, &input_ids, &model(&input_ids)));
        input_ids.push(next);
        if next == eos {
            break;
        }
    }
    cut(&input_ids[prompt.len()..], eos)
}

pub(super) fn greedy_port(options: &GenerationOptions, prompt: &[u32], eos: u32, model: Model<'_>) -> Vec<u32> {
    sample_port(options, prompt, eos, model, |scores| topk(&scores, 1)[0] as u32)
}

/// Sampling with TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper. torch's generator and `multinomial`
/// are replaced by this crate's uniform numbers, over the tokens from the end of TopPLogitsWarper's order.
pub(super) fn nucleus_port(
    options: &GenerationOptions,
    prompt: &[u32],
    eos: u32,
    key: [u8; 32],
    model: Model<'_>,
) -> Vec<u32> {
    let mut rng = ChaCha8Rng::from_seed(key);
    // As typed: 0.9, not 0.89999998.
    let top_p: f64 = format!("{}", options.top_p).parse().unwrap();
    sample_port(options, prompt, eos, model, |mut scores| {
        if options.temperature != 1.0 {
            scores.iter_mut().for_each(|score| *score /= options.temperature);
        }
        if options.top_k != 0 {
            let top_k = options.top_k.min(scores.len());
            let last = scores[topk(&scores, top_k)[top_k - 1]];
            scores.iter_mut().filter(|score| **score < last).for_each(|score| *score = f32::NEG_INFINITY);
        }
        let mut sorted_indices: Vec<usize> = (0..scores.len()).collect();
        sorted_indices.sort_by(|&a, &b| scores[a].partial_cmp(&scores[b]).unwrap());
        if top_p < 1.0 {
            let mut cumulative = 0.0f64;
            let probabilities = softmax(&gather(&scores, &sorted_indices));
            for (place, index) in sorted_indices.iter().enumerate() {
                cumulative += f64::from(probabilities[place]);
                let remove = cumulative as f32 <= (1.0 - top_p) as f32;
                if remove && place + 1 < sorted_indices.len() {
                    scores[*index] = f32::NEG_INFINITY;
                }
            }
        }
        let probabilities = softmax(&scores);
        let uniform = (rng.next_u64() >> 11) as f64 / 2f64.powi(53);
        let mut reached = 0.0;
        for &index in sorted_indices.iter().rev() {
            reached += f64::from(probabilities[index]);
            if reached > uniform {
                return index as u32;
            }
        }
        topk(&probabilities, 1)[0] as u32
    })
}
