//! Models that fail, panic, run out of memory or do not load.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier};
use std::thread;

use super::fake::{Gate, Picture, Script, key, options, pictures, scripted, setup, text, until};
use crate::blip::WorkBytes;
use crate::engine::{Client, Task, lock};
use crate::error::Error;

#[test]
fn out_of_memory_halves_the_batch() {
    let script = Script { memory_for: 2.into(), gate: Some(Gate::default()), ..Script::default() };
    let s = scripted(options(), script, 0, WorkBytes::default());
    let images = pictures(8);
    let scores = thread::scope(|scope| {
        scope.spawn(|| s.once(vec![Picture::new(99).score(0)]));
        s.script.gate.as_ref().unwrap().arrived(1);
        let run = scope.spawn(|| s.once(images.iter().map(|image| image.score(0)).collect()));
        until("all wait", || s.engine.queued_jobs() == 8);
        s.script.gate.as_ref().unwrap().open(100);
        run.join().unwrap()
    });
    // The blocking first batch, then 8 -> 4 and 4 -> 2 each.
    assert_eq!(*lock(&s.script.encoded), [1, 2, 2, 2, 2]);
    assert_eq!(scores, setup(options()).once(images.iter().map(|image| image.score(0)).collect()));
}

#[test]
fn out_of_memory_for_one_is_an_error_and_gives_back_what_it_can() {
    let s = setup(options());
    let (seen, image) = (Picture::new(1), Picture::new(2));
    s.once(vec![seen.score(0)]);
    drop(s.engine.model(&key("idle")).unwrap());
    assert!(s.engine.embedding_bytes() > 0);
    s.script.no_memory.store(true, SeqCst);
    for task in [image.score(0), seen.score(1), text(1)] {
        let error = s.run(&Client::new(), vec![task]).unwrap_err();
        assert!(
            matches!(&error, Error::OutOfMemory(why) if why.contains("capfilt.memory_limit")
            && why.contains("capfilt.max_batch_images")),
            "{error}"
        );
    }
    assert_eq!((s.engine.embedding_bytes(), s.engine.loaded_models()), (0, 1));
    s.script.no_memory.store(false, SeqCst);
    s.once(vec![image.score(0), seen.score(1), text(1)]);
}

/// Fails the encoder's second call: a batch of two clients, with other work waiting.
fn second_batch_fails(tell: fn(&Script), expected: fn(&Error) -> bool) {
    let s = scripted(options(), Script { gate: Some(Gate::default()), ..Script::default() }, 0, WorkBytes::default());
    let gate = s.script.gate.as_ref().unwrap();
    let images = pictures(3);
    thread::scope(|scope| {
        let first = scope.spawn(|| s.once(vec![images[0].score(0)]));
        gate.arrived(1);
        let (s, images) = (&s, &images);
        let failing = [1, 2].map(|i| scope.spawn(move || s.run(&Client::new(), vec![images[i].score(0)])));
        let other = scope.spawn(|| s.once(vec![text(1)]));
        until("all wait", || s.engine.queued_jobs() == 3);
        gate.open(1);
        first.join().unwrap();
        gate.arrived(2);
        tell(&s.script);
        gate.open(100);
        for call in failing {
            let error = call.join().unwrap().unwrap_err();
            assert!(expected(&error), "{error}");
        }
        other.join().unwrap();
        // Errors are not remembered.
        s.once(vec![images[1].score(0), images[2].score(0)]);
    });
    until("nothing stays in hand", || s.engine.bytes_in_hand() == 0);
}

#[test]
fn a_models_error_fails_its_batch_alone() {
    second_batch_fails(|script| script.fail.store(true, SeqCst), |e| matches!(e, Error::Runtime(_)));
}

#[test]
fn a_models_panic_fails_its_batch_alone() {
    let panicked = |e: &Error| matches!(e, Error::Internal(why) if why.contains("panicked in encode: scripted panic"));
    second_batch_fails(|script| script.panic.store(true, SeqCst), panicked);
}

#[test]
fn a_call_that_fails_takes_its_other_jobs_back() {
    let s = setup(options());
    s.script.fail.store(true, SeqCst);
    let images = pictures(300);
    assert!(s.run(&Client::new(), images.iter().map(|image| image.score(0)).collect()).is_err());
    until("the queue is empty", || s.engine.queued_jobs() == 0 && s.engine.bytes_in_hand() == 0);
    assert!(s.script.images_encoded() < 300);
    s.once(vec![images[0].score(0)]);
}

#[test]
fn work_without_its_image_is_refused() {
    let s = setup(options());
    let task = Task { image: None, ..Picture::new(1).score(0) };
    assert!(matches!(s.run(&Client::new(), vec![task]), Err(Error::Internal(_))));
}

#[test]
fn a_model_is_loaded_once() {
    let s = setup(options());
    let barrier = Barrier::new(4);
    let models: Vec<_> = thread::scope(|scope| {
        let load = || {
            barrier.wait();
            s.model()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(s.script.loads.load(SeqCst), 1);
    assert!(models.iter().all(|model| Arc::ptr_eq(model.med(), models[0].med())));
}

#[test]
fn a_failed_load_is_tried_again() {
    let s = setup(options());
    s.script.refuse.store(true, SeqCst);
    assert!(matches!(s.engine.model(&key("model")), Err(Error::Checkpoint { .. })));
    s.script.refuse.store(false, SeqCst);
    s.model();
    assert_eq!((s.script.loads.load(SeqCst), s.engine.loaded_models()), (2, 1));
}

#[test]
fn dropping_the_engine_ends_its_thread_and_unloads_its_models() {
    let s = setup(options());
    s.once(vec![Picture::new(1).score(0)]);
    let inner = Arc::downgrade(&s.engine.inner);
    drop(s.engine);
    until("the thread lets go", || inner.strong_count() == 0);
    until("the model is gone", || *lock(&s.unloaded) == ["model"]);
}
