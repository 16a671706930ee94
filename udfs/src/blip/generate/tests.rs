use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::oracle::{beam_port, greedy_port, log_softmax, nucleus_port};
use super::{Candidates, GenerationOptions, Kept, Row, Search, Strategy};

const EOS: u32 = 2;

/// A language model: next logits of a sequence.
type Model<'a> = &'a dyn Fn(&[u32]) -> Vec<f32>;

/// Drives a search: one model call per row, on the sequences that `Row::parent` implies. Returns the best sequence.
fn search(options: &GenerationOptions, prompt: &[u32], vocab: usize, key: [u8; 32], model: Model<'_>) -> Vec<u32> {
    sequences(options, prompt, vocab, key, model).remove(0)
}

/// Variant of `search` that returns all sequences.
fn sequences(
    options: &GenerationOptions,
    prompt: &[u32],
    vocab: usize,
    key: [u8; 32],
    model: Model<'_>,
) -> Vec<Vec<u32>> {
    sequences_by(options, prompt, vocab, key, model, &mut |search, scores| {
        give(search, &Candidates::rows(scores, vocab))
    })
}

/// Variant of `sequences` in which `advance` passes the rows' scores to the search.
fn sequences_by(
    options: &GenerationOptions,
    prompt: &[u32],
    vocab: usize,
    key: [u8; 32],
    model: Model<'_>,
    advance: &mut dyn FnMut(&mut Search, &[f32]),
) -> Vec<Vec<u32>> {
    let mut search = Search::new(options, prompt, EOS, vocab, key);
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    let mut steps = 0;
    while !search.is_done() {
        if sequences.is_empty() {
            assert_eq!(search.rows(), [Row { parent: 0, token: prompt[prompt.len() - 1] }]);
            sequences.push(prompt.to_vec());
        } else {
            let next = search.rows().iter().map(|row| [&sequences[row.parent][..], &[row.token]].concat());
            sequences = next.collect();
        }
        let scores = |sequence: &Vec<u32>| {
            let logits = model(sequence);
            if options.reads_log_probs() { log_softmax(&logits) } else { logits }
        };
        advance(&mut search, &sequences.iter().map(scores).collect::<Vec<_>>().concat());
        steps += 1;
        assert!(prompt.len() + steps <= options.max_length);
    }
    let sequences = search.into_sequences();
    assert_eq!(sequences.len(), options.returned());
    sequences
}

/// Advances a search by whole rows, which always decide.
fn give(search: &mut Search, rows: &[Candidates<'_>]) {
    assert_eq!(search.advance(rows), [0usize; 0]);
}

/// Logits that depend on the whole sequence. `quantum` above 0 rounds them, which makes ties.
fn toy(seed: u64, vocab: usize, quantum: f32) -> impl Fn(&[u32]) -> Vec<f32> {
    move |sequence| {
        let mut state = seed;
        for &token in sequence {
            state = (state ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(state);
        let mut logits: Vec<f32> = (0..vocab).map(|_| random(&mut rng) * 8.0 - 4.0).collect();
        logits[EOS as usize] += random(&mut rng) * 4.0;
        if quantum > 0.0 {
            logits.iter_mut().for_each(|logit| *logit = (*logit / quantum).round() * quantum);
        }
        logits
    }
}

fn random(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    rng.next_u32() as usize % bound
}

/// Random prompt, lengths, vocabulary and model; the other fields of `options` are kept.
fn random_case(rng: &mut ChaCha8Rng, options: &mut GenerationOptions) -> (Vec<u32>, usize, u64, f32) {
    // Fewer tokens than candidates, so that copies of the prompt survive the first step.
    let vocab = if below(rng, 3) == 0 { 3 + below(rng, 5) } else { 7 + below(rng, 34) };
    // A prompt may hold tokens outside the vocabulary.
    let prompt: Vec<u32> = (0..1 + below(rng, 4)).map(|_| below(rng, vocab + 1) as u32).collect();
    options.max_length = prompt.len() + below(rng, 10);
    options.min_length = below(rng, options.max_length + 1);
    (prompt, vocab, rng.next_u64(), [0.0, 0.0, 0.5, 2.0][below(rng, 4)])
}

#[test]
fn beam_search_equals_the_port() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut cases, mut long) = (0, 0);
    for num_beams in 1..=5 {
        for length_penalty in [0.0, 0.5, 0.7, 1.0, 2.0, -1.0] {
            for early_stopping in [false, true] {
                for repetition_penalty in [1.0, 1.3, 0.8] {
                    for _ in 0..12 {
                        let mut options = GenerationOptions {
                            num_beams,
                            num_return_sequences: 1 + below(&mut rng, num_beams),
                            length_penalty: length_penalty as f32,
                            early_stopping,
                            repetition_penalty,
                            ..Default::default()
                        };
                        let (prompt, vocab, seed, quantum) = random_case(&mut rng, &mut options);
                        let model = toy(seed, vocab, quantum);
                        let found = sequences(&options, &prompt, vocab, [0; 32], &model);
                        let expected = if num_beams == 1 {
                            vec![greedy_port(&options, &prompt, EOS, &model)]
                        } else {
                            beam_port(&options, length_penalty, &prompt, EOS, &model)
                        };
                        assert_eq!(
                            found, expected,
                            "{options:?}, prompt {prompt:?}, vocab {vocab}, seed {seed}, {quantum}"
                        );
                        cases += 1;
                        long += usize::from(found[0].len() > 3);
                    }
                }
            }
        }
    }
    assert!(long * 4 > cases, "{long} of {cases} cases have more than three ids");
}

#[test]
fn greedy_equals_the_port() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for case in 0..400 {
        let repetition_penalty = [1.0, 1.1, 2.0, 0.5][case % 4];
        let mut options = GenerationOptions { strategy: Strategy::Greedy, repetition_penalty, ..Default::default() };
        let (prompt, vocab, seed, quantum) = random_case(&mut rng, &mut options);
        let model = toy(seed, vocab, quantum);
        let expected = greedy_port(&options, &prompt, EOS, &model);
        assert_eq!(search(&options, &prompt, vocab, [0; 32], &model), expected, "{options:?}, seed {seed}");
    }
}

#[test]
fn nucleus_equals_the_port() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for case in 0..600 {
        let mut options = GenerationOptions {
            strategy: Strategy::Nucleus,
            top_k: [50, 0, 1, 3, 12, 40_000][case % 6],
            top_p: [0.9, 1.0, 0.5, 0.05, 0.999][case % 5],
            temperature: [1.0, 0.7, 1.5][case % 3],
            repetition_penalty: [1.0, 1.1][case % 2],
            ..Default::default()
        };
        let (prompt, mut vocab, seed, quantum) = random_case(&mut rng, &mut options);
        // Large enough for the search to sort only a part.
        if case % 50 == 7 {
            vocab = 30_524;
        }
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let model = toy(seed, vocab, quantum);
        let expected = nucleus_port(&options, &prompt, EOS, key, &model);
        assert_eq!(search(&options, &prompt, vocab, key, &model), expected, "{options:?}, vocab {vocab}, seed {seed}");
    }
}

/// Advances a search by its rows' `k` likeliest tokens, ties in random order, and by whole rows where it needs them.
/// Returns how many it needed.
fn give_kept(search: &mut Search, scores: &[f32], vocab: usize, k: usize, rng: &mut ChaCha8Rng) -> usize {
    let rows: Vec<&[f32]> = scores.chunks(vocab).collect();
    let kept: Vec<(Vec<i32>, Vec<f32>, Vec<f32>)> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let mut tokens: Vec<(u32, i32)> = (0..vocab).map(|token| (rng.next_u32(), token as i32)).collect();
            tokens.sort_by(|(a, x), (b, y)| row[*y as usize].partial_cmp(&row[*x as usize]).unwrap().then(a.cmp(b)));
            let tokens: Vec<i32> = tokens.into_iter().map(|(_, token)| token).take(k).collect();
            let own = search.own_tokens(index).into_iter();
            let own = own.map(|token| row.get(token as usize).copied().unwrap_or(777.0)).collect();
            let scores = tokens.iter().map(|&token| row[token as usize]).collect();
            (tokens, scores, own)
        })
        .collect();
    let kept = kept.iter().map(|(tokens, scores, own)| Candidates::Kept(Kept { tokens, scores, own }));
    let mut candidates: Vec<Candidates<'_>> = kept.collect();
    let undecided = search.advance(&candidates);
    if !undecided.is_empty() {
        undecided.iter().for_each(|&row| candidates[row] = Candidates::Whole(rows[row]));
        give(search, &candidates);
    }
    undecided.len()
}

#[test]
fn the_likeliest_tokens_decide_like_whole_rows() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut needed, mut steps) = ([0; 3], [0; 3]);
    for case in 0..6000 {
        let strategy = case % 3;
        let mut options = GenerationOptions {
            strategy: Strategy::ALL[strategy],
            num_beams: 1 + below(&mut rng, 5),
            early_stopping: below(&mut rng, 2) == 0,
            repetition_penalty: [1.0, 1.3, 0.8][below(&mut rng, 3)],
            top_k: [50, 0, 1, 3, 12, 40_000][below(&mut rng, 6)],
            top_p: [0.9, 1.0, 0.5, 0.05][below(&mut rng, 4)],
            temperature: [1.0, 0.7, 1.5][below(&mut rng, 3)],
            ..Default::default()
        };
        options.num_return_sequences = 1 + below(&mut rng, options.num_beams);
        let (prompt, vocab, seed, quantum) = random_case(&mut rng, &mut options);
        let k = [options.kept(), 1, 2, 5][below(&mut rng, 4)].min(vocab);
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let model = toy(seed, vocab, quantum);
        let expected = sequences(&options, &prompt, vocab, key, &model);
        let found = sequences_by(&options, &prompt, vocab, key, &model, &mut |search, scores| {
            needed[strategy] += give_kept(search, scores, vocab, k, &mut rng);
            steps[strategy] += scores.len() / vocab;
        });
        assert_eq!(found, expected, "{options:?}, prompt {prompt:?}, vocab {vocab}, k {k}, seed {seed}, {quantum}");
    }
    for (needed, steps) in needed.into_iter().zip(steps) {
        assert!(needed > steps / 50 && needed < steps / 10 * 9, "{needed} whole rows of {steps}");
    }
}

#[test]
fn options_keep_enough_tokens_to_decide() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for case in 0..60 {
        let options = GenerationOptions {
            strategy: Strategy::ALL[case % 3],
            num_beams: 3,
            repetition_penalty: [1.0, 1.2, 0.9][case % 5 % 3],
            min_length: 8,
            ..Default::default()
        };
        let vocab = 1000;
        let model = toy(case as u64, vocab, 0.0);
        let expected = sequences(&options, &[1, 7], vocab, [3; 32], &model);
        let found = sequences_by(&options, &[1, 7], vocab, [3; 32], &model, &mut |search, scores| {
            assert_eq!(give_kept(search, scores, vocab, options.kept(), &mut rng), 0, "{options:?}, seed {case}");
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn nucleus_draws_in_proportion() {
    // Probabilities 0.5, 0.3, 0.15, 0.05: 0.9 takes three tokens.
    let logits: Vec<f32> = [0.05f32, 0.5, 0.15, 0.3].iter().map(|probability| probability.ln()).collect();
    let options = GenerationOptions { strategy: Strategy::Nucleus, max_length: 2, ..Default::default() };
    let mut drawn = [0.0f64; 4];
    for seed in 0u32..4000 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&seed.to_le_bytes());
        let mut search = Search::new(&options, &[0], 9, 4, key);
        give(&mut search, &Candidates::rows(&logits, 4));
        assert!(search.is_done());
        drawn[search.into_sequences()[0][0] as usize] += 1.0 / 4000.0;
    }
    assert_eq!(drawn[0], 0.0);
    for (token, expected) in [(1, 0.5 / 0.95), (2, 0.15 / 0.95), (3, 0.3 / 0.95)] {
        assert!((drawn[token] - expected).abs() < 0.03, "{drawn:?}");
    }
}

#[test]
fn nucleus_draws_from_the_top_k_and_what_is_as_likely() {
    // Distinct logits, except that the third and fourth most likely tokens are tied.
    let logits = [0.0f32, 3.0, 1.0, 2.0, 1.0];
    let drawn = |options: &GenerationOptions| -> Vec<u32> {
        let mut drawn: Vec<u32> = (0u32..500)
            .map(|seed| {
                let mut key = [7; 32];
                key[..4].copy_from_slice(&seed.to_le_bytes());
                let mut search = Search::new(options, &[0], 9, 5, key);
                give(&mut search, &Candidates::rows(&logits, 5));
                search.into_sequences()[0][0]
            })
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    };
    let options = |top_k, top_p| GenerationOptions {
        strategy: Strategy::Nucleus,
        max_length: 2,
        temperature: 2.0,
        top_k,
        top_p,
        ..Default::default()
    };
    for (top_k, expected) in [
        (0, &[0, 1, 2, 3, 4][..]),
        (1, &[1]),
        (2, &[1, 3]),
        (3, &[1, 2, 3, 4]),
        (4, &[1, 2, 3, 4]),
        (9, &[0, 1, 2, 3, 4]),
    ] {
        assert_eq!(drawn(&options(top_k, 1.0)), expected, "top_k {top_k}");
    }
    // top_p applies after top_k: of the two most likely tokens the first has 0.62; of all five, 0.39.
    assert_eq!(drawn(&options(2, 0.6)), [1]);
    assert_eq!(drawn(&options(0, 0.6)), [1, 3]);
}

#[test]
fn a_prompt_must_leave_room() {
    let options = GenerationOptions { min_length: 5, ..Default::default() };
    assert_eq!(options.check_room(19, 64), Ok(()));
    let message = options.check_room(20, 64).unwrap_err();
    assert!(message.contains("it has 20 tokens, and max_length is 20; set max_length to at least 21"), "{message}");
    let long = GenerationOptions { max_length: 512, ..options };
    assert_eq!(long.check_room(63, 64), Ok(()));
    let message = long.check_room(64, 64).unwrap_err();
    assert!(message.contains("it has 64 tokens, and the checkpoint reads 64 at most"), "{message}");
}

#[test]
fn beams_find_what_greedy_misses() {
    // Token 3 starts best, but only 4 leads to a likely end.
    let model = |sequence: &[u32]| -> Vec<f32> {
        let probabilities: [f32; 6] = match sequence {
            [0] => [0.01, 0.01, 0.01, 0.5, 0.46, 0.01],
            [0, 4] => [0.01, 0.01, 0.95, 0.01, 0.01, 0.01],
            _ => [0.2, 0.2, 0.1, 0.1, 0.1, 0.3],
        };
        probabilities.iter().map(|probability| probability.ln()).collect()
    };
    let beam = GenerationOptions { num_beams: 2, max_length: 3, ..Default::default() };
    let greedy = GenerationOptions { strategy: Strategy::Greedy, ..beam.clone() };
    assert_eq!(search(&beam, &[0], 6, [0; 32], &model), [4]);
    assert_eq!(search(&greedy, &[0], 6, [0; 32], &model), [3, 5]);
}

#[test]
fn a_prompt_that_fills_the_length_gets_no_ids() {
    for strategy in Strategy::ALL {
        let options = GenerationOptions { strategy, max_length: 2, ..Default::default() };
        for prompt in [&[][..], &[5, 6], &[5, 6, 7]] {
            let mut search = Search::new(&options, prompt, EOS, 10, [0; 32]);
            assert!(search.is_done() && search.rows().is_empty());
            give(&mut search, &Candidates::rows(&[0.0; 10], 10));
            assert_eq!(search.into_sequences(), [[0u32; 0]]);
        }
    }
}

#[test]
fn bad_scores_neither_panic_nor_loop() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for case in 0..1500 {
        let options = GenerationOptions {
            strategy: Strategy::ALL[case % 3],
            temperature: [1.0, 1e-42][case % 2],
            repetition_penalty: [1.0, 1e-42, 1e38][case % 5 % 3],
            length_penalty: [1.0, -1e30, 1e30][case % 7 % 3],
            min_length: 3,
            ..Default::default()
        };
        let vocab = below(&mut rng, 9);
        let mut search = Search::new(&options, &[1, 40], EOS, vocab, [case as u8; 32]);
        let mut steps = 0;
        while !search.is_done() {
            let odd = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -0.0, f32::MIN, -1.0];
            let of = 1 + below(&mut rng, odd.len());
            // Some steps get too few scores.
            let count = (search.rows().len() * vocab).saturating_sub(below(&mut rng, 20) / 19);
            let scores: Vec<f32> = (0..count).map(|_| odd[below(&mut rng, of)]).collect();
            give(&mut search, &Candidates::rows(&scores, vocab));
            steps += 1;
        }
        assert!(steps <= 18);
        assert!(search.into_sequences()[0].len() <= 18);
    }
    for strategy in Strategy::ALL {
        let options = GenerationOptions { strategy, ..Default::default() };
        let mut search = Search::new(&options, &[0], EOS, 5, [0; 32]);
        give(&mut search, &Candidates::rows(&[f32::NAN; 5], 5));
        assert!(search.is_done());
        assert_eq!(search.into_sequences(), [[0u32; 0]]);
    }
}

#[test]
fn options_outside_their_range_are_named() {
    type Change = fn(&mut GenerationOptions);
    let bad: [(&str, Change); 14] = [
        ("num_return_sequences", |options| options.num_return_sequences = 4),
        ("num_return_sequences", |options| options.num_return_sequences = 0),
        ("num_beams", |options| options.num_beams = 0),
        ("num_beams", |options| options.num_beams = 65),
        ("top_p", |options| options.top_p = 0.0),
        ("top_p", |options| options.top_p = 1.1),
        ("top_p", |options| options.top_p = f32::NAN),
        ("temperature", |options| options.temperature = 0.0),
        ("temperature", |options| options.temperature = f32::INFINITY),
        ("max_length", |options| options.max_length = 0),
        ("min_length", |options| options.min_length = 21),
        ("length_penalty", |options| options.length_penalty = f32::NAN),
        ("repetition_penalty", |options| options.repetition_penalty = -1.0),
        ("repetition_penalty", |options| options.repetition_penalty = f32::INFINITY),
    ];
    for (name, change) in bad {
        let mut options = GenerationOptions::default();
        assert_eq!(options.validate(), Ok(()));
        change(&mut options);
        let message = options.validate().unwrap_err();
        assert!(message.starts_with(name), "{message}");
    }
}

#[test]
fn strategies_have_names() {
    for strategy in Strategy::ALL {
        assert_eq!(strategy.to_string().parse(), Ok(strategy));
    }
    let message = "Beam".parse::<Strategy>().unwrap_err();
    assert_eq!(message, "unknown strategy 'Beam': it is one of beam, greedy, nucleus");
}
