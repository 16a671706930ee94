//! One model on several devices.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use super::fake::{FLOATS, Picture, Script, Setup, key, options, pictures, scripted, setup, text};
use crate::blip::WorkBytes;
use crate::blip::generate::Strategy;
use crate::engine::{Client, EngineOptions, ModelHandle, ModelKey, Outcome, Task, lock};
use crate::error::Result;
use crate::image::Limits;

const N: usize = 240;

fn run(s: &Setup, devices: &str, tasks: Vec<Task<'_>>) -> Result<Vec<Outcome>> {
    let model = s.engine.model(&ModelKey { device: devices.into(), ..key("model") })?;
    s.engine.run(&Client::new(), &model, &Limits::default(), 0, tasks)
}

fn scores(picture: &Picture) -> [Task<'_>; 3] {
    [picture.score(0), picture.score(1), picture.score_answer(0, 1)]
}

/// Scores of two texts and an answer, a caption, an answer and the text's embedding for each picture, by six clients.
fn work(s: &Setup, devices: &str, pictures: &[Picture]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let part = |part: &'static str, pictures: &[Picture]| {
            let tasks = pictures.iter().enumerate().flat_map(|(i, picture)| {
                let caption = picture.caption(Strategy::Greedy, 0, 0);
                match part {
                    "scores" => scores(picture),
                    _ => [caption, picture.answer(0, Strategy::Greedy, 0), text(i as u32)],
                }
            });
            run(s, devices, tasks.collect()).unwrap()
        };
        let clients: Vec<_> = pictures
            .chunks(N / 3)
            .flat_map(|pictures| ["scores", "captions"].map(|of| scope.spawn(move || part(of, pictures))))
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn encoded(s: &Setup) -> BTreeMap<String, usize> {
    lock(&s.script.encoded_on).clone()
}

#[test]
fn two_devices_share_the_work_and_each_image_stays_on_one() {
    let pictures = pictures(N);
    let expected = work(&setup(options()), "cuda:0", &pictures);
    let slow = Some(("cuda:1", Duration::from_millis(8)));
    let s = scripted(options(), Script { slow, ..Script::default() }, 0, WorkBytes::default());
    assert_eq!(work(&s, "cuda:0,cuda:1", &pictures), expected);
    let encoded = encoded(&s);
    assert_eq!(encoded.values().sum::<usize>(), N, "an image is encoded once: {encoded:?}");
    assert!(encoded["cuda:1"] > 0 && encoded["cuda:0"] > encoded["cuda:1"], "{encoded:?}");
    assert_eq!(s.script.loads.load(SeqCst), 2);
    assert_eq!((s.stats().device.as_str(), s.stats().images_encoded), ("cuda:0,cuda:1", N as u64));
}

#[test]
fn a_device_that_dies_leaves_its_work_to_the_other() {
    let pictures = pictures(N);
    let expected = work(&setup(options()), "cuda:0", &pictures);
    for dies in ["cuda:0", "cuda:1"] {
        for calls in [0, 1, 4] {
            let script = Script { dying: Some((dies, calls.into())), ..Script::default() };
            let s = scripted(options(), script, 0, WorkBytes::default());
            assert_eq!(work(&s, "cuda:0,cuda:1", &pictures), expected, "{dies} dies after {calls} batches");
            let encoded = encoded(&s).get(dies).copied().unwrap_or(0);
            assert!(encoded <= 8 * calls, "{encoded}");
            assert!(s.script.failures.load(SeqCst) <= 1, "a device that was given up is asked again");
        }
    }
}

#[test]
fn what_fails_on_every_device_is_an_error_and_later_work_goes_on() {
    let s = setup(options());
    let pictures = pictures(20);
    let scores =
        |s: &Setup, text| run(s, "cuda:0,cuda:1", pictures.iter().map(|picture| picture.score(text)).collect());
    s.script.broken.store(true, SeqCst);
    for text in 0..3 {
        let error = scores(&s, text).unwrap_err().to_string();
        assert!(error.contains("is broken"), "{error}");
        assert_eq!(s.engine.queued_jobs(), 0);
    }
    s.script.broken.store(false, SeqCst);
    let expected = run(&setup(options()), "cuda:0", pictures.iter().map(|picture| picture.score(7)).collect());
    assert_eq!(scores(&s, 7).unwrap(), expected.unwrap());
}

#[test]
fn devices_that_fail_now_and_then_leave_no_call_waiting() {
    let pictures = pictures(N);
    let expected = work(&setup(options()), "cuda:0", &pictures);
    for (flaky, devices) in [(2, "cuda:0,cuda:1"), (3, "cuda:0,cuda:1"), (2, "cuda:0,cuda:1,cuda:2"), (5, "cuda:1")] {
        let s = scripted(options(), Script { flaky, ..Script::default() }, 0, WorkBytes::default());
        let failures = thread::scope(|scope| {
            let s = &s;
            let client = move |pictures: &[Picture]| -> usize {
                let scores = || pictures.iter().flat_map(scores).collect();
                (0..1000).find(|_| run(s, devices, scores()).is_ok()).expect("a call that never succeeds")
            };
            let clients: Vec<_> =
                pictures.chunks(N / 6).map(|pictures| scope.spawn(move || client(pictures))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
        });
        assert!(devices.contains(',') || failures > 0, "{failures}");
        assert_eq!(s.engine.queued_jobs(), 0);
        // What was computed is right, whichever device did it.
        let scores: Vec<Outcome> = pictures
            .iter()
            .flat_map(|picture| (0..1000).find_map(|_| run(&s, devices, scores(picture).into()).ok()).unwrap())
            .collect();
        let all: Vec<Outcome> = pictures
            .chunks(N / 3)
            .zip(expected.chunks(6 * N / 3))
            .flat_map(|(pictures, outcomes)| outcomes[..3 * pictures.len()].to_vec())
            .collect();
        assert_eq!(scores, all);
    }
}

#[test]
fn a_device_is_given_up_while_another_is_left() {
    let s = setup(options());
    let handle = s.engine.model(&ModelKey { device: "cuda:0,cuda:1".into(), ..key("model") }).unwrap();
    let model = handle.loaded();
    let up = || [0, 1, 2].map(|device| model.is_up(device));
    assert_eq!(up(), [true, true, false]);
    assert!(model.give_up(0, 0b01));
    assert_eq!((up(), model.is_any_up(0b01), model.is_any_up(0b10)), ([false, true, false], true, false));
    // Nothing is left for what fails on the second, so the first gets another try.
    assert!(!model.give_up(1, 0b10));
    assert_eq!(up(), [true, true, false]);
    assert!(!model.give_up(1, 0b11));
    assert_eq!(up(), [true, true, false]);
}

fn on_devices(memory: usize, weights: usize, limits: EngineOptions) -> Setup {
    let script = Script { device_memory: Some(memory), ..Script::default() };
    scripted(limits, script, weights, WorkBytes::default())
}

fn load(s: &Setup, name: &str, devices: &str) -> Result<ModelHandle> {
    s.engine.model(&ModelKey { device: devices.into(), ..key(name) })
}

#[test]
fn weights_on_devices_count_there_and_not_in_the_hosts_memory() {
    let s = on_devices(4_000, 900, EngineOptions { memory_limit: 1_000, ..options() });
    let [a, b] = ["a", "b"].map(|name| load(&s, name, "cuda:0,cuda:1").unwrap());
    assert_eq!((s.engine.loaded_models(), s.stats().weight_bytes), (2, 1_800));
    load(&s, "here", "cpu").unwrap();
    // Half of a device's 4,000 bytes is for weights, of which two models leave 200.
    let error = load(&s, "c", "cuda:1").unwrap_err().to_string();
    let words =
        ["900 bytes of cuda:1", "in use 1800", "2000, is for them", "SET capfilt.device_memory to at least 5400"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    load(&s, "c", "cuda:2").unwrap();
    drop(a);
    load(&s, "c", "cuda:1").unwrap();
    assert!(lock(&s.unloaded).contains(&"a".to_owned()) && !lock(&s.unloaded).contains(&"b".to_owned()));
    drop(b);
    load(&s, "a", "cuda:0,cuda:1").unwrap();
}

#[test]
fn embeddings_on_devices_are_cached_in_what_weights_leave_there() {
    let pictures = pictures(N);
    let each = 4 * FLOATS;
    // The host's cache has no room at all.
    let limits = EngineOptions { embedding_cache: Some(0), ..options() };
    let expected = work(&setup(options()), "cuda:0", &pictures);
    for (memory, cached) in [(1 << 20, N), (8 * 50 * each, 20)] {
        let s = on_devices(memory, 1, limits.clone());
        assert_eq!(work(&s, "cuda:0", &pictures), expected);
        let held = s.engine.embedding_bytes() / each;
        assert!(held > 0 && (cached < N || s.script.images_encoded() == N), "{held} of {memory} bytes");
        assert!(s.engine.embedding_bytes() <= memory / 4, "{held}");
    }
}
