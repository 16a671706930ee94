//! Small pictures of all kinds against the pixels that Pillow makes of them (tests/fixtures/pixels.py).

use flate2::read::GzDecoder;
use safetensors::SafeTensors;
use std::{collections::BTreeMap, io::Read, panic};

use super::{
    tests::{Random, fixture},
    *,
};

/// The unpacked fixture.
fn archive() -> Vec<u8> {
    let mut archive = Vec::new();
    GzDecoder::new(&fixture("pixels.safetensors.gz")[..]).read_to_end(&mut archive).unwrap();
    archive
}

/// Each file by its name, and what is to come of it: Pillow's size and pixels, or the message of a refusal.
fn corpus(archive: &[u8]) -> BTreeMap<String, (&[u8], Result<(u32, u32, &[u8]), String>)> {
    let (_, header) = SafeTensors::read_metadata(archive).unwrap();
    let refused = &header.metadata().as_ref().unwrap()["refused"];
    let refused: BTreeMap<String, String> = serde_json::from_str(refused).unwrap();
    let tensors = SafeTensors::deserialize(archive).unwrap();
    let names = tensors.names().into_iter().filter(|name| !name.ends_with(".rgb"));
    let file = |name: &str| {
        let expected = match refused.get(name) {
            Some(message) => Err(message.clone()),
            None => {
                let rgb = tensors.tensor(&format!("{name}.rgb")).unwrap();
                Ok((rgb.shape()[1] as u32, rgb.shape()[0] as u32, rgb.data()))
            }
        };
        (tensors.tensor(name).unwrap().data(), expected)
    };
    names.map(|name| (name.to_string(), file(name))).collect()
}

#[test]
fn every_kind_of_file_has_pillows_pixels() {
    let archive = archive();
    let corpus = corpus(&archive);
    assert!(corpus.len() > 400, "{}", corpus.len());
    let limits = Limits::default();
    let mut wrong = Vec::new();
    for (name, (file, expected)) in &corpus {
        let found = decode(file, &limits).map_err(|error| error.to_string());
        let (image, width, height, pixels) = match (found, expected) {
            (Ok(image), Ok((width, height, pixels))) => (image, *width, *height, *pixels),
            (Err(message), Err(expected)) if message == *expected => continue,
            (found, expected) => {
                wrong.push(format!("{name}: {found:?}, not {:?}", expected.as_ref().map(|_| "pixels")));
                continue;
            }
        };
        let info = info(file, &limits).map(|info| (info.width, info.height));
        if (image.width, image.height) != (width, height) || info != Ok((width, height)) {
            wrong.push(format!("{name}: {} x {}, {info:?}, not {width} x {height}", image.width, image.height));
            continue;
        }
        let most = image.data.iter().zip(pixels).map(|(our, their)| our.abs_diff(*their)).max().unwrap();
        // Of JPEG the decoder rounds brightness and colours otherwise than libjpeg, by one, which are up to three in RGB;
        // after squashing two are left.
        if most > if name.contains("jpeg") { 3 } else { 0 } {
            let at = image.data.iter().zip(pixels).position(|(our, their)| our.abs_diff(*their) == most).unwrap() / 3;
            let pixel = |data: &[u8]| format!("{:?}", &data[at * 3..at * 3 + 3]);
            let (our, their) = (pixel(&image.data), pixel(pixels));
            wrong.push(format!(
                "{name}: off by {most}: {our}, not {their}, at ({}, {})",
                at as u32 % width,
                at as u32 / width
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), corpus.len(), wrong.join("\n"));
}

#[test]
fn a_readable_header_gives_info_even_of_what_is_refused() {
    let archive = archive();
    for (name, (file, expected)) in corpus(&archive) {
        let found = info(file, &Limits::default());
        // Damage before the size is known.
        let unreadable = ["png_depth_3", "bmp_text", "tiff_cut", "tiff_no_size"].contains(&&*name);
        assert_eq!(found.is_err(), unreadable, "{name}: {found:?}");
        assert!(expected.is_err() || found.is_ok(), "{name}");
    }
}

#[test]
fn no_damage_to_any_kind_of_file_panics() {
    let archive = archive();
    let corpus: Vec<_> = corpus(&archive).into_iter().collect();
    let limits = Limits { max_pixels: 1 << 16, ..Limits::default() };
    let mut random = Random(11);
    let mut messages = BTreeMap::<String, usize>::new();
    for _ in 0..15 {
        for (name, (file, _)) in &corpus {
            let mut bytes = file.to_vec();
            for _ in 0..=random.below(4) {
                // Half of it in the first bytes, where the structure is.
                let end = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(200) };
                let at = random.below(end);
                match random.below(8) {
                    0 => bytes.truncate(at.max(1)),
                    1..3 => bytes[at] = [0, 0xff, 0x7f, 1][random.below(4)],
                    _ => bytes[at] ^= 1 << random.below(8),
                }
            }
            let outcome = panic::catch_unwind(|| (info(&bytes, &limits), decode(&bytes, &limits)));
            let (info, image) = outcome.unwrap_or_else(|_| panic!("{name} panics as {bytes:02x?}"));
            if let Ok(image) = &image {
                assert!(u64::from(image.width) * u64::from(image.height) <= limits.max_pixels, "{name}");
                assert_eq!(info.map(|info| (info.width, info.height)), Ok((image.width, image.height)), "{name}");
            }
            if let Err(error) = image {
                *messages.entry(error.to_string()).or_default() += 1;
            }
        }
    }
    // Words of Rust's debugger are none for the column `error`.
    let odd: Vec<_> =
        messages.keys().filter(|message| message.contains(['{', '}', '`', '\n']) || message.contains("::")).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}
