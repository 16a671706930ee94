//! Memory, the queue, fairness and cancellation.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use super::fake::{Gate, PIXELS, Picture, Script, key, options, pictures, scripted, setup, text, until};
use crate::blip::WorkBytes;
use crate::blip::generate::Strategy;
use crate::engine::{CancelToken, Client, EngineOptions, lock};
use crate::error::Error;
use crate::image::Limits;

fn gated() -> Script {
    Script { gate: Some(Gate::default()), ..Script::default() }
}

#[test]
fn a_small_client_need_not_wait_for_a_big_one() {
    let s = scripted(options(), gated(), 0, WorkBytes::default());
    let gate = s.script.gate.as_ref().unwrap();
    let (images, other) = (pictures(500), Picture::new(1000));
    thread::scope(|scope| {
        let big = scope.spawn(|| s.once(images.iter().map(|image| image.score(0)).collect()));
        until("all of the big one's wait", || s.engine.queued_jobs() > 480);
        let small = scope.spawn(|| s.once(vec![other.score(0)]));
        until("the small one waits", || s.engine.queued_jobs() > 480 && lock(&s.engine.inner.queue).lanes() == 2);
        // The running batch, at most one more of the big client, and the small client's own.
        gate.open(3);
        small.join().unwrap();
        assert!(!big.is_finished() && s.engine.queued_jobs() > 450);
        gate.open(1000);
        big.join().unwrap();
    });
}

#[test]
fn the_queue_is_bounded_and_can_be_left_while_it_is_full() {
    // A quarter of the limit is for in-flight images, so twelve fit.
    let limit = 4 * 12 * PIXELS;
    let s = scripted(EngineOptions { memory_limit: limit, ..options() }, gated(), 0, WorkBytes::default());
    let gate = s.script.gate.as_ref().unwrap();
    let (images, other) = (pictures(100), Picture::new(1000));
    let (a, b) = (Client::new(), Client::new());
    let tasks = || images.iter().map(|image| image.score(0)).collect();
    thread::scope(|scope| {
        let full = scope.spawn(|| s.run(&a, tasks()));
        until("it waits for room", || lock(&s.engine.inner.queue).waiting() == 1);
        assert!(s.engine.bytes_in_hand() <= 12 * PIXELS);
        let small = scope.spawn(|| s.run(&b, vec![other.score(0)]));
        until("another client gets in", || lock(&s.engine.inner.queue).lanes() == 2);
        // The worker is still blocked in a model call.
        a.cancel_running();
        assert!(matches!(full.join().unwrap(), Err(Error::Cancelled)));
        gate.open(1000);
        assert_eq!(small.join().unwrap().unwrap().len(), 1);
        assert_eq!(s.run(&a, tasks()).unwrap().len(), 100);
    });
    until("nothing stays in hand", || s.engine.bytes_in_hand() == 0 && s.engine.queued_jobs() == 0);
    assert_eq!(lock(&s.engine.inner.queue).lanes(), 0);
}

#[test]
fn an_image_with_very_many_texts_passes_the_queue_in_slices() {
    let s = scripted(options(), gated(), 0, WorkBytes::default());
    let image = Picture::new(1);
    thread::scope(|scope| {
        let all = scope.spawn(|| s.once((0..5000).map(|t| image.score(t)).collect()));
        until("it waits for room", || lock(&s.engine.inner.queue).waiting() == 1);
        assert!(s.engine.queued_jobs() <= crate::engine::shared::QUEUE_JOBS * 5 / 4);
        s.script.gate.as_ref().unwrap().open(1);
        assert_eq!(all.join().unwrap().len(), 5000);
    });
    assert_eq!(s.script.images_encoded(), 1);
}

#[test]
fn cancelling_stops_generation_and_harms_nobody() {
    let s = setup(options());
    s.script.endless.store(true, SeqCst);
    let image = Picture::new(1);
    let (a, token) = (Client::new(), CancelToken::new());
    let query = a.with_token(token.clone());
    thread::scope(|scope| {
        let endless = scope.spawn(|| s.run(&query, vec![image.caption(Strategy::Beam, 0, 0)]));
        until("it generates", || s.script.generating.load(SeqCst) == 1);
        let waiting = scope.spawn(|| s.run(&a, vec![image.score(0)]));
        until("another query waits", || s.engine.queued_jobs() == 1);
        token.cancel();
        assert!(matches!(endless.join().unwrap(), Err(Error::Cancelled)));
        assert_eq!(waiting.join().unwrap().unwrap().len(), 1);
    });
    s.script.endless.store(false, SeqCst);
    assert!(matches!(s.run(&query, vec![text(1)]), Err(Error::Cancelled)), "a token holds for good");
    assert_eq!(s.run(&a, vec![image.caption(Strategy::Beam, 0, 0)]).unwrap().len(), 1);
}

#[test]
fn work_shared_with_a_cancelled_call_goes_on() {
    let s = scripted(options(), gated(), 0, WorkBytes::default());
    let (first, image) = (Picture::new(1), Picture::new(2));
    let a = Client::new();
    thread::scope(|scope| {
        scope.spawn(|| s.once(vec![first.score(0)]));
        s.script.gate.as_ref().unwrap().arrived(1);
        let gone = scope.spawn(|| s.run(&a, vec![image.score(0)]));
        let kept = scope.spawn(|| s.once(vec![image.score(0)]));
        until("both wait", || s.engine.queued_jobs() == 2);
        a.cancel_running();
        assert!(gone.join().unwrap().is_err());
        s.script.gate.as_ref().unwrap().open(10);
        assert_eq!(kept.join().unwrap().len(), 1);
    });
}

#[test]
fn batches_shrink_to_what_memory_allows() {
    let work = WorkBytes { encode: 10_000, generate: 9_000, per_sequence: 500, match_text: 1_000, answer: 0 };
    let weights = 5_000;
    let limits = EngineOptions { memory_limit: weights + 40_000, embedding_cache: None, ..options() };
    let s = scripted(limits, gated(), weights, work);
    let gate = s.script.gate.as_ref().unwrap();
    let images = pictures(40);
    thread::scope(|scope| {
        let run = scope.spawn(|| s.once(images.iter().map(|image| image.score(0)).collect()));
        until("many wait", || s.engine.queued_jobs() > 20);
        gate.open(1000);
        run.join().unwrap();
    });
    let calls = lock(&s.script.encoded).clone();
    assert_eq!(calls.iter().sum::<usize>(), 40);
    assert!(calls.iter().all(|&n| n <= 3) && calls.contains(&2), "{calls:?}");
    assert!(s.engine.embedding_bytes() <= 10_000);
}

#[test]
fn caches_make_room_for_work() {
    let work = WorkBytes { encode: 9_000, ..WorkBytes::default() };
    let limits = EngineOptions { memory_limit: 10_000, embedding_cache: Some(10_000), ..options() };
    let s = scripted(limits, Script::default(), 0, work);
    for image in pictures(100) {
        s.once(vec![image.score(0)]);
        assert!(s.engine.embedding_bytes() + s.engine.memo_bytes() <= 10_000);
    }
    assert_eq!(s.script.images_encoded(), 100);
}

#[test]
fn too_little_memory_says_what_to_do() {
    let work = WorkBytes { encode: 1_000, ..WorkBytes::default() };
    let s = scripted(EngineOptions { memory_limit: 1_500, ..options() }, Script::default(), 600, work);
    let image = Picture::new(1);
    let message = s.run(&Client::new(), vec![image.score(0)]).unwrap_err().to_string();
    assert!(message.contains("SET capfilt.memory_limit to at least 1648"), "{message}");
    s.engine.set_limits(Some(1_648), None);
    s.once(vec![image.score(0)]);

    let s = scripted(EngineOptions { memory_limit: 500, ..options() }, Script::default(), 600, work);
    let message = s.engine.model(&key("model")).unwrap_err().to_string();
    assert!(message.contains("SET capfilt.memory_limit to more than 600"), "{message}");
    assert_eq!((s.engine.loaded_models(), &lock(&s.unloaded)[..]), (0, &["model".to_owned()][..]));
    s.engine.set_limits(Some(700), None);
    s.model();
}

#[test]
fn idle_models_leave_the_oldest_first() {
    let s = scripted(EngineOptions { memory_limit: 2_000, ..options() }, Script::default(), 900, WorkBytes::default());
    let load = |name| s.engine.model(&key(name));
    let a = load("a").unwrap();
    drop(load("b").unwrap());
    drop(load("c").unwrap());
    assert_eq!((lock(&s.unloaded).concat().as_str(), s.engine.loaded_models()), ("b", 2));
    assert_eq!(s.engine.stats().iter().map(|row| row.weight_bytes).collect::<Vec<_>>(), [900, 0, 900]);
    let c = load("c").unwrap();
    assert!(matches!(load("b"), Err(Error::OutOfMemory(_))), "both are in use");
    drop((a, c));
    // Evicts a, which was used before c.
    load("b").unwrap();

    assert_eq!(*lock(&s.unloaded), ["b", "a"]);
    assert_eq!(s.script.loads.load(SeqCst), 4);
    s.engine.set_limits(Some(1_000), None);
    assert_eq!(s.engine.loaded_models(), 1);
}

#[test]
fn models_are_told_apart_and_counted_apart() {
    let s = setup(options());
    let image = Picture::new(1);
    for name in ["a", "b", "a"] {
        let model = s.engine.model(&key(name)).unwrap();
        s.engine.run(&Client::new(), &model, &Limits::default(), 0, vec![image.score(0)]).unwrap();
    }
    let rows = s.engine.stats();
    let counts: Vec<_> = rows.iter().map(|r| (r.images_encoded, r.texts_scored, r.memo_hits)).collect();
    assert_eq!(counts, [(1, 1, 1), (1, 1, 0)]);
    assert!(rows.iter().all(|r| r.decode_seconds > 0.0 && r.encode_seconds > 0.0 && r.score_seconds > 0.0));
    assert!(rows.iter().all(|r| r.wait_seconds > 0.0 && r.generate_seconds == 0.0));
}
