//! Deduplication, encoding once, and results that do not depend on the batch.

use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use super::fake::{FLOATS, Gate, Picture, Script, options, pictures, scripted, setup, text, until};
use crate::blip::WorkBytes;
use crate::blip::generate::Strategy;
use crate::engine::cache::Lru;
use crate::engine::inputs::Encoded;
use crate::engine::task::Key;
use crate::engine::{Client, EngineOptions, Outcome, Task, Work};
use crate::image::Limits;

/// Bytes of an embedding cache for `images` images.
fn room_for(images: usize) -> Option<usize> {
    Some(images * Lru::<Key, Encoded>::cost(FLOATS * 4))
}

const N: usize = 160;

#[test]
fn an_image_is_encoded_once_when_its_texts_come_in_one_call() {
    for threads in [1, 2, 7] {
        let s = setup(EngineOptions { embedding_cache: room_for(N / 20), ..options() });
        let images = pictures(N);
        thread::scope(|scope| {
            for part in images.chunks(N.div_ceil(threads)) {
                let s = &s;
                scope.spawn(move || {
                    for images in part.chunks(5) {
                        // The texts of an image are far apart, as after a join.
                        let tasks = [0, 1].iter().flat_map(|&t| images.iter().map(move |i| i.score(t))).collect();
                        s.once(tasks);
                    }
                });
            }
        });
        assert_eq!((s.script.images_encoded(), s.stats().texts_scored), (N, 2 * N as u64), "{threads} threads");
        assert!(s.engine.embedding_bytes() <= room_for(N / 20).unwrap());
    }
}

#[test]
fn an_image_is_encoded_once_when_its_texts_come_in_concurrent_calls() {
    for threads in [1, 2, 7] {
        let s = setup(EngineOptions { embedding_cache: room_for(N / 20), ..options() });
        let images = pictures(N);
        let barrier = Barrier::new(threads);
        thread::scope(|scope| {
            for thread in 0..threads as u32 {
                let (s, images, barrier) = (&s, &images, &barrier);
                scope.spawn(move || {
                    for images in images.chunks(4) {
                        barrier.wait();
                        let texts = if threads == 1 { vec![0, 1] } else { vec![thread % 2] };
                        for text in texts {
                            s.once(images.iter().map(|image| image.score(text)).collect());
                        }
                    }
                });
            }
        });
        assert_eq!((s.script.images_encoded(), s.stats().texts_scored), (N, 2 * N as u64), "{threads} threads");
    }
}

#[test]
fn a_question_is_encoded_once_for_all_its_answers() {
    let s = setup(options());
    let images = pictures(20);
    for round in 0..3 {
        // In one call and in several, of each kind.
        let tasks = |image| {
            let image: &Picture = image;
            (0..2).flat_map(move |q| {
                [image.score_answer(q, 2 * round), image.score_answer(q, 2 * round + 1), image.rank(q, 3, round == 0)]
            })
        };
        s.once(images.iter().flat_map(tasks).collect());
        s.once(images.iter().map(|image| image.answer(1, Strategy::Beam, u64::from(round))).collect());
    }
    assert_eq!((s.script.images_encoded(), s.script.questions.load(SeqCst)), (20, 40));
    // Two of the six ranks of an image are those of before; of each three answers are scored. Beam search has no seed.
    assert_eq!((s.stats().texts_scored, s.stats().captions), (20 * (12 + 4 * 3), 20));
}

#[test]
fn without_a_cache_a_batch_encodes_its_questions_once() {
    let none = EngineOptions { embedding_cache: Some(0), memo_limit: 0, ..options() };
    let s = setup(none);
    let image = Picture::new(1);
    let tasks = || (0..12).map(|n| image.score_answer(n % 3, n)).collect();
    let (first, again) = (s.once(tasks()), s.once(tasks()));
    assert_eq!(first, again);
    assert_eq!((s.script.images_encoded(), s.script.questions.load(SeqCst)), (2, 6));
}

#[test]
fn without_any_cache_what_waits_together_is_encoded_once() {
    let script = Script { gate: Some(Gate::default()), ..Script::default() };
    let none = EngineOptions { embedding_cache: Some(0), memo_limit: 0, ..options() };
    let s = scripted(none, script, 0, WorkBytes::default());
    let gate = s.script.gate.as_ref().unwrap();
    let (first, image) = (Picture::new(1), Picture::new(2));
    thread::scope(|scope| {
        scope.spawn(|| s.once(vec![first.score(0)]));
        gate.arrived(1);
        let (s, image) = (&s, &image);
        let scores = [0, 1].map(|t| scope.spawn(move || s.once(vec![image.score(t)])));
        // Other work on the image forms another batch, which finds it encoded.
        let vector = scope.spawn(|| s.once(vec![image.task(Work::EmbedImage)]));
        until("all wait", || s.engine.queued_jobs() == 3);
        gate.open(100);
        let [a, b] = scores.map(|score| score.join().unwrap());
        assert_ne!(a, b);
        assert!(matches!(vector.join().unwrap()[..], [Outcome::Vector(_)]));
    });
    assert_eq!(s.script.images_encoded(), 2);
    until("nothing stays in hand", || s.engine.bytes_in_hand() == 0);
    assert_eq!((s.engine.embedding_bytes(), s.engine.memo_bytes()), (0, 0));
}

#[test]
fn equal_tasks_are_computed_once() {
    let s = setup(options());
    let (a, b) = (Picture::new(1), Picture::new(2));
    let tasks = || vec![a.score(0), text(3), b.score(0), a.score(0), text(3), a.caption(Strategy::Beam, 1, 0)];
    let first = s.once(tasks());
    assert_eq!((&first[0], &first[1]), (&first[3], &first[4]));
    assert_ne!(first[0], first[2]);
    let stats = s.stats();
    assert_eq!((stats.texts_scored, stats.texts_encoded, stats.captions, stats.memo_hits), (2, 1, 1, 2));
    assert_eq!((stats.images_encoded, stats.tokens_decoded), (2, 3));
    assert_eq!(s.once(tasks()), first);
    let again = s.stats();
    assert_eq!((again.texts_scored, again.texts_encoded, again.captions, again.memo_hits), (2, 1, 1, 8));
    // Without a memo, the call itself still computes equal tasks once.
    s.engine.set_limits(None, Some(0));
    assert_eq!(s.once(tasks()), first);
    assert_eq!((s.stats().texts_scored, s.engine.memo_bytes()), (4, 0));
}

#[test]
fn only_what_changes_a_result_tells_tasks_apart() {
    let s = setup(options());
    let image = Picture::new(1);
    let captions = s.once(vec![
        image.caption(Strategy::Greedy, 1, 0),
        image.caption(Strategy::Greedy, 2, 5),
        image.caption(Strategy::Nucleus, 1, 0),
        image.caption(Strategy::Nucleus, 2, 0),
        image.caption(Strategy::Nucleus, 1, 1),
    ]);
    assert_eq!(captions[0], captions[1]);
    assert_eq!(s.stats().captions, 4);
    assert!(captions[2] != captions[3] && captions[2] != captions[4]);
}

/// Work of all kinds on `images`.
fn mixed(images: &[Picture]) -> Vec<Task<'_>> {
    let mut tasks: Vec<Task<'_>> = (0..3).map(text).collect();
    for image in images {
        tasks.extend((0..3).map(|t| image.score(t)));
        tasks.extend((0..3).map(|c| image.caption(Strategy::Nucleus, 9, c)));
        tasks.extend([image.caption(Strategy::Beam, 0, 0), image.task(Work::EmbedImage)]);
        tasks.extend((0..3).map(|q| image.answer(q, Strategy::Nucleus, 9)));
        tasks.extend((0..6).map(|n| image.score_answer(n % 2, n)));
        tasks.extend([(0, 9, true), (0, 9, false), (1, 4, true), (0, 2, false)].map(|(q, k, s)| image.rank(q, k, s)));
    }
    tasks
}

#[test]
fn a_result_is_a_function_of_its_row() {
    let images = pictures(20);
    let alone = setup(options());
    let expected: Vec<Outcome> = mixed(&images).into_iter().map(|task| alone.once(vec![task]).remove(0)).collect();
    // One call in reverse order, with other batch sizes.
    for max_images in [1, 3, 50] {
        let s = setup(options());
        let tasks = mixed(&images).into_iter().rev().collect();
        let run = s.engine.run(&Client::new(), &s.model(), &Limits::default(), max_images, tasks);
        assert!(run.unwrap().iter().rev().eq(&expected));
    }
    // Memory for fewer items per call.
    for memory_for in [1, 2, 3] {
        let script = Script { memory_for: memory_for.into(), ..Script::default() };
        let s = scripted(options(), script, 0, WorkBytes::default());
        assert_eq!(s.once(mixed(&images)), expected);
        assert_eq!((s.script.images_encoded(), s.stats().images_encoded), (20, 20));
    }
}

#[test]
fn a_bad_image_is_a_value_and_is_remembered() {
    let s = setup(options());
    let (good, bad) = (Picture::new(1), Picture::of(b"no image".to_vec()));
    let outcomes = s.once(vec![bad.score(0), good.score(0), bad.score(1), bad.caption(Strategy::Beam, 0, 0)]);
    assert!(matches!(
        outcomes[..],
        [Outcome::BadImage(_), Outcome::Score(_), Outcome::BadImage(_), Outcome::BadImage(_)]
    ));
    assert_eq!(s.stats().memo_hits, 0);
    s.once(vec![bad.task(Work::EmbedImage)]);
    assert_eq!(s.stats().memo_hits, 1);
    until("nothing stays in hand", || s.engine.bytes_in_hand() == 0);
}

#[test]
fn narrower_limits_hold_for_what_is_cached() {
    let s = setup(options());
    let image = Picture::new(1);
    s.once(vec![image.score(0)]);
    let limits = Limits { max_bytes: 10, ..Limits::default() };
    for text in [0, 1] {
        let outcome = s.engine.run(&Client::new(), &s.model(), &limits, 0, vec![image.score(text)]).unwrap();
        assert!(matches!(outcome[..], [Outcome::BadImage(_)]));
    }
}

#[test]
fn it_runs_on_both_kinds_of_tokio_runtime() {
    let image = Picture::new(1);
    let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    for runtime in [current, multi] {
        let s = setup(options());
        runtime.block_on(async { s.once(vec![image.score(0)]) });
        assert_eq!(s.stats().texts_scored, 1);
    }
}
