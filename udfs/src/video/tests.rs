//! Clips against decord's frames and Pillow's, hostile ones, and mutations of all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::contract::Limits;
use super::*;
use crate::config::CapfiltOptions;
use crate::image::{self, Rgb8};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/video")
}

fn clip(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

fn limits() -> Limits {
    CapfiltOptions::new().video_limits()
}

fn uniform(n: usize) -> Frames {
    Frames { n, sampling: Sampling::Uniform, start: 0.0, end: None }
}

fn picture(png: &[u8]) -> Rgb8 {
    image::decode(png, &image::Limits::default()).unwrap()
}

fn taken(bytes: &[u8], wanted: &Frames) -> Result<Vec<Rgb8>, VideoError> {
    Ok(frames(bytes, wanted, &limits(), &|| false)?.iter().map(|png| picture(png)).collect())
}

fn refusal(bytes: &[u8], limits: &Limits) -> String {
    let reason = frames(bytes, &uniform(4), limits, &|| false).unwrap_err();
    assert_eq!(check(bytes, limits, &|| false), Err(reason.clone()));
    reason.to_string()
}

fn golden() -> Value {
    serde_json::from_slice(&clip("golden.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

const CLIPS: [&str; 4] = ["shapes.mp4", "shapes.webm", "shapes.gif", "rotated.mp4"];

#[test]
fn indices_are_those_of_blip_and_lavis() {
    for clip in CLIPS {
        let golden = &golden()["clips"][clip];
        let count = golden["frames"].as_u64().unwrap() as usize;
        assert_eq!(Sampling::Blip.indices(count, 8), numbers(&golden["blip_indices"]), "{clip}");
        assert_eq!(Sampling::Blip.indices(count, 16), numbers(&golden["blip_indices_16"]), "{clip}");
        // LAVIS takes no frame twice.
        assert_eq!(Sampling::Uniform.indices(count, count.min(8)), numbers(&golden["lavis_indices"]), "{clip}");
    }
    assert_eq!(Sampling::Uniform.indices(5, 8), [0, 0, 1, 1, 2, 3, 3, 4]);
    assert_eq!(Sampling::Middle.indices(75, 8), [4, 14, 23, 32, 42, 51, 60, 70]);
    assert_eq!(Sampling::Middle.indices(1, 3), [0, 0, 0]);
    assert!(Sampling::NAMES.iter().all(|name| name.parse::<Sampling>().is_ok()));
}

#[test]
fn frames_are_decords() {
    for name in CLIPS {
        let golden = &golden()["clips"][name];
        let expected: Vec<&str> = golden["png"].as_array().unwrap().iter().map(|png| png.as_str().unwrap()).collect();
        assert_eq!(expected.len(), 8);
        let found = taken(&clip(name), &Frames { sampling: Sampling::Blip, ..uniform(8) }).unwrap();
        assert_eq!(found.len(), 8, "{name}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(*found, picture(&clip(&format!("frames/{expected}"))), "{expected}");
        }
    }
}

#[test]
fn facts_are_decords() {
    for (name, format, codec, rotation) in [
        ("shapes.mp4", "mp4", "h264", 0),
        ("shapes.webm", "webm", "vp9", 0),
        ("shapes.gif", "gif", "gif", 0),
        ("rotated.mp4", "mp4", "h264", 270),
    ] {
        let golden = &golden()["clips"][name];
        let info = info(&clip(name), &limits(), &|| false).unwrap();
        assert_eq!((info.format, info.codec.as_str(), info.rotation), (format, codec, rotation));
        assert_eq!(info.frames, golden["frames"].as_u64().unwrap(), "{name}");
        assert_eq!(
            (u64::from(info.width), u64::from(info.height)),
            (golden["width"].as_u64().unwrap(), golden["height"].as_u64().unwrap())
        );
        assert!((info.fps.unwrap() - golden["fps"].as_f64().unwrap()).abs() < 1e-9, "{name}: {info:?}");
        assert!((info.seconds.unwrap() - 3.0).abs() < 1e-9, "{name}: {info:?}");
        assert_eq!(check(&clip(name), &limits(), &|| false), Ok(()), "{name}");
    }
}

#[test]
fn a_window_is_of_times() {
    for name in ["shapes.mp4", "shapes.gif"] {
        let bytes = clip(name);
        let all = taken(&bytes, &uniform(if name == "shapes.mp4" { 75 } else { 5 })).unwrap();
        let step = 3.0 / all.len() as f64;
        for (start, end) in [(0.0, None), (1.2, None), (0.6, Some(1.8)), (2.4, Some(99.0))] {
            let first = (start / step).round() as usize;
            let last = end.map_or(all.len(), |end: f64| ((end / step).round() as usize).min(all.len()));
            let found = taken(&bytes, &Frames { start, end, ..uniform(last - first) }).unwrap();
            assert!(found == all[first..last], "{name} from {start} to {end:?}");
        }
        let reason = taken(&bytes, &Frames { start: 3.0, end: Some(4.5), ..uniform(2) }).unwrap_err().to_string();
        assert_eq!(reason, "no frame from 3 s on and before 4.5 s; the video ends at 3 s");
    }
    // The middle one alone.
    let bytes = clip("shapes.webm");
    let middle = taken(&bytes, &Frames { sampling: Sampling::Middle, ..uniform(1) }).unwrap();
    assert_eq!(middle[0], taken(&bytes, &uniform(30)).unwrap()[15]);
}

#[test]
fn animations_are_pillows() {
    let limits = limits();
    let mut seen = 0;
    for entry in fs::read_dir(folder().join("animations")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".strip.png") || name == "png_default.png" {
            continue;
        }
        let strip = picture(&fs::read(path.with_file_name(format!("{name}.strip.png"))).unwrap());
        let bytes = fs::read(&path).unwrap();
        let info = info(&bytes, &limits, &|| false).unwrap();
        assert_eq!((info.width, info.height * info.frames as u32), (strip.width, strip.height), "{name}");
        assert_eq!(info.seconds, Some(0.2 * info.frames as f64).map(|s| (s * 10.0).round() / 10.0), "{name}");
        let found = taken(&bytes, &uniform(info.frames as usize)).unwrap();
        let found: Vec<u8> = found.into_iter().flat_map(|frame| frame.data).collect();
        let most = found.iter().zip(&strip.data).map(|(our, their)| our.abs_diff(*their)).max().unwrap();
        assert_eq!(most, 0, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 24);
    // The first picture of this file is no frame.
    let default = fs::read(folder().join("animations/png_default.png")).unwrap();
    assert_eq!(info(&default, &limits, &|| false).unwrap().frames, 2);
    let first = taken(&default, &uniform(1)).unwrap().remove(0);
    assert_ne!(first, picture(&default));
}

#[test]
fn a_still_picture_is_a_video_of_one_frame() {
    let images = folder().join("../images");
    for name in ["cat.webp", "cat_palette.png", "astronaut_16bit.png"] {
        let bytes = fs::read(images.join(name)).unwrap();
        assert_eq!(taken(&bytes, &uniform(2)).unwrap(), vec![picture(&bytes); 2], "{name}");
        assert_eq!(info(&bytes, &limits(), &|| false).unwrap().frames, 1);
    }
    // This one has two.
    let bytes = fs::read(images.join("cat.gif")).unwrap();
    assert_eq!(taken(&bytes, &uniform(1)).unwrap(), [picture(&bytes)]);
}

#[test]
fn other_files_are_refused_with_a_reason() {
    for (name, reason) in [
        ("truncated.mp4", "mp4: moov atom not found"),
        ("not_a_video.webm", "not a video: it looks like an HTML page"),
        ("playlist.mp4", "not a video: it looks like an HLS playlist"),
    ] {
        assert_eq!(refusal(&clip(name), &limits()), reason);
    }
    assert_eq!(refusal(b"", &limits()), "empty");
    assert!(refusal(&clip("shapes.gif")[..600], &limits()).starts_with("truncated GIF"));
    assert!(refusal(&clip("shapes.webm")[..100], &limits()).starts_with("webm: "));
    // A playlist in the guise of a container that is allowed.
    let disguised = [b"\0\0\0\x18ftypisom\0\0\0\0".as_slice(), &clip("playlist.mp4")].concat();
    assert!(refusal(&disguised, &limits()).starts_with("mp4: "));
}

#[test]
fn a_damaged_frame_is_an_error() {
    // From the first key frame on, so that nothing of it can be decoded.
    let mut bytes = clip("shapes.webm");
    let at = bytes.windows(4).position(|word| word == [0x1f, 0x43, 0xb6, 0x75]).unwrap();
    bytes[at + 40..at + 700].fill(0xa5);
    assert!(refusal(&bytes, &limits()).starts_with("webm: "));
    // The container is sound.
    assert_eq!(info(&bytes, &limits(), &|| false).unwrap().frames, 30);
}

#[test]
fn limits_hold() {
    let mp4 = clip("shapes.mp4");
    for name in CLIPS {
        let bytes = clip(name);
        let small = Limits { max_bytes: 1000, ..limits() };
        assert!(refusal(&bytes, &small).ends_with(" bytes, above capfilt.max_video_bytes = 1000"), "{name}");
        let few = Limits { frame: image::Limits { max_pixels: 1000, ..image::Limits::default() }, ..limits() };
        assert!(refusal(&bytes, &few).contains("pixels, above capfilt.max_image_pixels = 1000"), "{name}");
        let none = Limits { time: Duration::ZERO, ..limits() };
        let slow = "decoding takes longer than capfilt.video_timeout = 0 allows";
        assert_eq!(refusal(&bytes, &none), slow, "{name}");
        assert_eq!(frames(&bytes, &uniform(2), &limits(), &|| true), Err(VideoError::Cancelled), "{name}");
    }
    assert_eq!(taken(&mp4, &uniform(80)).unwrap().len(), 80);
}

/// The program as the tests find it.
fn ffmpeg() -> Command {
    Command::new(super::ffmpeg::program().unwrap())
}

/// A clip remade from shapes.mp4 with these options.
fn remade(extension: &str, options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join(format!("clip.{extension}"));
    let done =
        ffmpeg().args(["-v", "error", "-i"]).arg(folder().join("shapes.mp4")).args(options).arg(&to).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read(to).unwrap()
}

#[test]
fn every_container_is_read() {
    let expected = taken(&clip("shapes.mp4"), &uniform(5)).unwrap();
    for (extension, format, options) in [
        ("mov", "mov", &["-c", "copy"][..]),
        ("mkv", "matroska", &["-c", "copy"]),
        ("flv", "flv", &["-c", "copy"]),
        ("ts", "mpegts", &["-c", "copy"]),
        ("avi", "avi", &["-c:v", "mpeg4", "-q:v", "2"]),
        ("mpg", "mpeg", &["-c:v", "mpeg2video", "-q:v", "2"]),
        ("wmv", "asf", &["-c:v", "wmv2", "-q:v", "2"]),
        ("ogv", "ogg", &["-c:v", "libtheora", "-q:v", "9"]),
        (
            "mp4",
            "mp4",
            &["-f", "lavfi", "-i", "sine=duration=3", "-c:v", "copy", "-c:a", "aac", "-movflags", "faststart"],
        ),
    ] {
        let bytes = remade(extension, options);
        let info = info(&bytes, &limits(), &|| false).unwrap();
        assert_eq!((info.format, info.width, info.height), (format, 96, 72));
        assert!((74..=76).contains(&info.frames), "{info:?}");
        assert!((info.fps.unwrap() - 25.0).abs() < 0.5, "{info:?}");
        assert_eq!(check(&bytes, &limits(), &|| false), Ok(()), "{format}");
        let found = taken(&bytes, &uniform(5)).unwrap();
        assert_eq!(found.len(), 5);
        if options.contains(&"copy") {
            assert_eq!(found, expected, "{format}");
        }
    }
}

#[test]
fn what_is_cut_is_no_video() {
    // The index comes first, so that the container can be read, but not the last frames.
    let whole = remade("mp4", &["-c", "copy", "-movflags", "faststart"]);
    let cut = &whole[..whole.len() - 1500];
    let reason = refusal(cut, &limits());
    assert!(reason.starts_with("mp4: "), "{reason}");
}

#[test]
fn frames_that_are_never_shown_are_not_counted_twice() {
    // VP8 has invisible frames in packets of their own.
    let bytes = remade("webm", &["-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "100k"]);
    let found = taken(&bytes, &uniform(75)).unwrap();
    assert_eq!(found.len(), 75);
    assert_eq!(check(&bytes, &limits(), &|| false), Ok(()));
}

/// Pseudo-random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A file with some bytes changed, removed or repeated, or cut.
fn mutated(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(6) {
        // Half of the damage is in the first bytes, where the structure is.
        let end = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(400) };
        let at = random.below(end);
        let to = (at + 1 + random.below(40)).min(bytes.len());
        match random.below(10) {
            0 => bytes.truncate(at.max(16)),
            1 => drop(bytes.drain(at..to)),
            2 => bytes.extend_from_within(at..to),
            3..5 => bytes[at] = [0, 0xff, 0x7f, 0x80][random.below(4)],
            5 => bytes[at..to].fill(0xff),
            _ => bytes[at] ^= 1 << random.below(8),
        }
        if bytes.len() < 17 {
            break;
        }
    }
    bytes
}

/// Children of this thread, each of which a call must have waited for.
fn children() -> String {
    fs::read_to_string("/proc/thread-self/children").unwrap_or_default()
}

fn names(folder: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Mutates every clip `rounds` times: no panic, no hang, no process and no file left, and reasons for people.
fn fuzz(rounds: usize, seed: u64) {
    let mut clips: Vec<(String, Vec<u8>)> = CLIPS.iter().map(|name| ((*name).to_owned(), clip(name))).collect();
    for name in [
        "gif_clear_2.gif",
        "gif_3.gif",
        "png_clear_21.png",
        "png_opaque_11.png",
        "webp_lossy_clear.webp",
        "webp_clear.webp",
    ] {
        clips.push((name.to_owned(), clip(&format!("animations/{name}"))));
    }
    let limits = Limits {
        frame: image::Limits { max_pixels: 1 << 20, ..image::Limits::default() },
        time: Duration::from_secs(5),
        ..limits()
    };
    let folders = [std::env::current_dir().unwrap(), PathBuf::from("/"), folder()];
    let before = folders.each_ref().map(|folder| names(folder));
    let mut random = Random(seed);
    let mut refused = 0;
    for _ in 0..rounds {
        for (name, bytes) in &clips {
            let bytes = mutated(bytes, &mut random);
            let started = Instant::now();
            let sampling = [Sampling::Uniform, Sampling::Blip, Sampling::Middle][random.below(3)];
            let wanted = Frames { sampling, start: 0.0, end: None, n: 1 + random.below(8) };
            let found = frames(&bytes, &wanted, &limits, &|| false);
            let known = info(&bytes, &limits, &|| false);
            let checked = check(&bytes, &limits, &|| false);
            assert!(started.elapsed() < limits.time * 4 * 3 + Duration::from_secs(1), "{name} hangs");
            assert_eq!(children(), "", "{name} leaves a process");
            match &found {
                Ok(found) => assert_eq!(found.len(), wanted.n, "{name}"),
                Err(reason) => {
                    refused += 1;
                    let reason = reason.to_string();
                    let odd = reason.is_empty()
                        || reason.contains(['\n', '{', '}'])
                        || reason.contains("@ 0x")
                        || reason.contains("::");
                    assert!(!odd, "{name}: {reason}");
                }
            }
            assert!(
                checked.is_err() || found.is_ok() && known.is_ok(),
                "{name}: {checked:?}, {known:?}, {:?}",
                found.map(|_| ())
            );
        }
    }
    assert!(refused > 0);
    assert_eq!(before, folders.each_ref().map(|folder| names(folder)));
}

#[test]
fn mutated_clips_do_no_harm() {
    fuzz(6, 11);
}

#[test]
#[ignore = "takes minutes: 3,000 mutations"]
fn thousands_of_mutated_clips_do_no_harm() {
    fuzz(300, 12);
}
