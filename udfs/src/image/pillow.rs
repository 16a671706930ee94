//! Small images of all kinds compared with Pillow's pixels (tests/fixtures/pixels.py).

use flate2::read::GzDecoder;
use safetensors::SafeTensors;
use std::{collections::BTreeMap, io::Read, panic};

use super::{
    tests::{Random, fixture},
    *,
};

/// The decompressed fixture.
fn archive() -> Vec<u8> {
    let mut archive = Vec::new();
    GzDecoder::new(&fixture("pixels.safetensors.gz")[..]).read_to_end(&mut archive).unwrap();
    archive
}

/// A file and its expected result: Pillow's width, height and pixels, or an error message.
type Case<'a> = (&'a [u8], Result<(u32, u32, &'a [u8]), String>);

/// Cases by file name.
fn corpus(archive: &[u8]) -> BTreeMap<String, Case<'_>> {
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
        // zune-jpeg rounds luma and chroma differently from libjpeg, by one, which is up to three in RGB and two after
        // squashing.
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
        // Files damaged before their size is known.
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
                // Half of the damage is in the first bytes, where the structure is.
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
    // Rust debug output must not reach the column `error`.
    let odd: Vec<_> =
        messages.keys().filter(|message| message.contains(['{', '}', '`', '\n']) || message.contains("::")).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

/// A little-endian TIFF with one directory, whose tags have four-byte numbers.
fn tiff(tags: &[(u16, &[u32])]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend_from_slice(&(tags.len() as u16).to_le_bytes());
    let mut lists = Vec::new();
    for (tag, numbers) in tags {
        let stored: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&[4, 0]);
        bytes.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
        if numbers.len() == 1 {
            bytes.extend_from_slice(&stored);
        } else {
            let at = 8 + 2 + tags.len() * 12 + 4 + lists.len();
            bytes.extend_from_slice(&(at as u32).to_le_bytes());
            lists.extend(stored);
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(lists);
    bytes
}

#[test]
fn limits_hold_before_memory_and_time_are_spent_on_a_tiff_or_bmp() {
    let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
    let refuse = |bytes: &[u8]| decode(bytes, &limits).unwrap_err();
    let grey: &[(u16, &[u32])] = &[(258, &[8]), (262, &[1]), (277, &[1])];
    let with = |tags: &[(u16, &[u32])]| tiff(&[grey, tags].concat());

    let huge = with(&[(256, &[60_000]), (257, &[60_000]), (273, &[8]), (279, &[8])]);
    assert!(matches!(refuse(&huge), ImageError::TooManyPixels { width: 60_000, height: 60_000, .. }));
    assert_eq!(info(&huge, &limits).unwrap().width, 60_000);
    // Rotation swaps the sides.
    let strip = with(&[(256, &[2_000_000]), (257, &[1]), (273, &[8]), (274, &[6])]);
    assert!(matches!(decode(&strip, &Limits::default()), Err(ImageError::TooLong { width: 1, height: 2_000_000 })));

    // A tile's row, or the whole tile as JPEG or fax, takes memory.
    for (compression, bits, side) in [(5, 8, 1 << 30), (7, 8, 1 << 14), (4, 1, 1 << 16)] {
        let tags: &[(u16, &[u32])] = &[(256, &[9]), (257, &[9]), (259, &[compression]), (258, &[bits])];
        let tile: &[(u16, &[u32])] = &[(262, &[1]), (322, &[side]), (323, &[side]), (324, &[8]), (325, &[8])];
        let error = refuse(&tiff(&[tags, tile].concat()));
        assert!(matches!(error, ImageError::TooMuchMemory { format: "TIFF", .. }), "{compression}: {error}");
    }

    // Ten thousand strips over the same bytes would be decompressed ten thousand times.
    let (offsets, lengths) = ([8; 10_000], [40_000; 10_000]);
    let strips = with(&[(256, &[9]), (257, &[10_000]), (259, &[5]), (273, &offsets), (278, &[1]), (279, &lengths)]);
    assert_eq!(refuse(&strips).to_string(), "corrupt TIFF: its strips or tiles are longer than the file");
    // A list's announced length takes no memory.
    let list = with(&[(256, &[9]), (257, &[9]), (273, &[8]), (279, &[8])]);
    let long: Vec<u8> = list
        .windows(12)
        .position(|entry| entry[..2] == [17, 1])
        .map_or(vec![], |at| [&list[..at + 4], &[0xff; 4], &list[at + 8..]].concat());
    assert!(matches!(refuse(&long), ImageError::Truncated { .. }));

    let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bmp.extend_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0, 1, 0, 24, 0]);
    bmp.resize(54, 0);
    assert!(matches!(refuse(&bmp), ImageError::TooManyPixels { width: 60_000, height: 60_000, .. }));
    assert_eq!(info(&bmp, &limits).unwrap().height, 60_000);
}
