use safetensors::SafeTensors;
use std::fs;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

pub(super) fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{FIXTURES}/{name}");
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn good(name: &str) -> Vec<u8> {
    fixture(&format!("images/{name}"))
}

/// Image names in the order of golden.json's rows.
fn names() -> Vec<String> {
    let golden: serde_json::Value = serde_json::from_slice(&fixture("golden.json")).unwrap();
    serde_json::from_value(golden["images"].clone()).unwrap()
}

/// Preprocessor of the golden pixels.
fn blip64() -> Preprocessor {
    let json = r#"{
        "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_processor_type": "BlipImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 64, "width": 64}
    }"#;
    Preprocessor::from_json(json).unwrap()
}

fn refuse(bytes: &[u8]) -> String {
    match decode(bytes, &Limits::default()) {
        Ok(image) => panic!("decoded as {} x {}", image.width, image.height),
        Err(error) => error.to_string(),
    }
}

/// SplitMix64 generator, so that each run has the same mutations.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }
}

#[test]
fn pixels_are_those_of_pillow() {
    let file = fixture("golden.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let golden = tensors.tensor("pixel_values").unwrap();
    let golden: Vec<f32> = golden.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let (blip, names) = (blip64(), names());
    assert_eq!(names.len(), 35);
    let mut ours = vec![0.0; 3 * 64 * 64];
    let mut wrong = Vec::new();
    for (name, golden) in names.iter().zip(golden.chunks_exact(ours.len())) {
        let squashed = load(&good(name), &Limits::default(), &blip).unwrap_or_else(|error| panic!("{name}: {error}"));
        blip.normalise_into(&squashed, &mut ours);
        // Difference in grey levels.
        let difference = (0..ours.len())
            .fold(0.0_f32, |most, at| most.max((ours[at] - golden[at]).abs() * blip.std[at / (64 * 64)] * 255.0));
        // The same arithmetic gives the same bytes; only JPEG's decoder differs from libjpeg's, in the last bits.
        let allowed = if name.ends_with(".jpg") { 2.0 } else { 0.0 };
        eprintln!("{name:36} {difference:.4}");
        if difference > allowed + 1e-3 {
            wrong.push(format!("{name}: {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn bad_files_say_why() {
    let expected = [
        ("bad_crc.png", "corrupt PNG: "),
        (
            "bomb_60000x60000.png",
            "image is 60000 x 60000 = 3600000000 pixels, above capfilt.max_image_pixels = 178956970",
        ),
        ("empty.jpg", "empty"),
        ("header_only.jpg", "truncated JPEG: it ends in its header"),
        ("html_error_page.jpg", "not an image: it looks like an HTML page"),
        ("svg.svg", "unsupported image format: SVG"),
        ("text.png", "not an image: it looks like text"),
        ("truncated.jpg", "truncated JPEG: it ends within its picture"),
        ("truncated.png", "truncated PNG: "),
        ("zeros.png", "not an image: unknown format (starts with 00 00 00 00)"),
    ];
    assert_eq!(fs::read_dir(format!("{FIXTURES}/bad")).unwrap().count(), expected.len());
    for (name, start) in expected {
        let message = refuse(&fixture(&format!("bad/{name}")));
        eprintln!("{name:24} {message}");
        assert!(message.starts_with(start) && !message.contains('\n'), "{name}: {message}");
        assert_eq!(check(&fixture(&format!("bad/{name}")), &Limits::default()).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_header_is_enough_for_info() {
    let limits = Limits::default();
    for name in names() {
        let bytes = good(&name);
        let found = info(&bytes, &limits).unwrap();
        let image = decode(&bytes, &limits).unwrap();
        assert_eq!((found.width, found.height), (image.width, image.height), "{name}");
        let format = match name.rsplit_once('.').unwrap().1 {
            "jpg" => "jpeg",
            other => other,
        };
        assert_eq!(found.format, format, "{name}");
        let channels = match name.as_str() {
            "astronaut_gray_alpha.png" => 2,
            "astronaut_cmyk.jpg" => 4,
            _ if name.starts_with("astronaut") => 1,
            _ if name.starts_with("emoji") && !name.contains("white") => 4,
            _ => 3,
        };
        assert_eq!(found.channels, channels, "{name}");
        // A TIFF may have its directory at its end.
        if format != "tiff" {
            assert_eq!(info(&bytes[..bytes.len() / 2], &limits), Ok(found), "{name}");
        }
    }
    let bomb = info(&fixture("bad/bomb_60000x60000.png"), &limits).unwrap();
    assert_eq!((bomb.width, bomb.height, bomb.channels), (60_000, 60_000, 3));
}

#[test]
fn limits_hold_before_the_picture_is_read() {
    let cat = good("cat_progressive.jpg");
    let message = |limits: Limits| decode(&cat, &limits).unwrap_err().to_string();
    let (max_bytes, max_pixels) = (cat.len() as u64 - 1, 451 * 300 - 1);
    assert_eq!(
        message(Limits { max_bytes, ..Limits::default() }),
        format!("{} bytes, above capfilt.max_image_bytes = {max_bytes}", cat.len())
    );
    assert!(info(&cat, &Limits { max_bytes, max_pixels }).is_err());
    assert!(info(&cat, &Limits { max_pixels, ..Limits::default() }).is_ok());
    for name in names().iter().filter(|name| *name != "one_pixel.png") {
        let limits = Limits { max_pixels: 37 * 100, ..Limits::default() };
        assert!(matches!(decode(&good(name), &limits), Err(ImageError::TooManyPixels { limit: 3700, .. })), "{name}");
    }
    let exact = Limits { max_bytes: max_bytes + 1, max_pixels: max_pixels + 1 };
    assert_eq!(decode(&cat, &exact).map(|image| image.data.len()), Ok(451 * 300 * 3));

    // A progressive JPEG's coefficients count: 13000 x 13000 with three full components is 9 bytes a pixel.
    let mut huge = b"\xff\xd8\xff\xc2\0\x11\x08\x32\xc8\x32\xc8\x03\x01\x11\0\x02\x11\0\x03\x11\0".to_vec();
    huge.extend_from_slice(b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\0\xff\xd9");
    let limits = Limits { max_pixels: 13_000 * 13_000, ..Limits::default() };
    assert!(matches!(decode(&huge, &limits), Err(ImageError::TooMuchMemory { limit: 1_368_777_216, .. })));
}

#[test]
fn what_is_cut_is_an_error() {
    let files = [
        "cat_baseline.jpg",
        "cat_progressive.jpg",
        "astronaut_cmyk.jpg",
        "astronaut_gray.jpg",
        "coffee.png",
        "cat_palette.png",
        "cat.webp",
        "cat_lossless.webp",
        "cat.gif",
        "cat.bmp",
        "cat.tiff",
    ];
    for name in files {
        let bytes = good(name);
        let mut cuts: Vec<usize> = (2..=19).map(|twentieth| bytes.len() * twentieth / 20).collect();
        if name.ends_with(".jpg") {
            cuts.extend((bytes.len() - 40)..bytes.len());
        }
        for cut in cuts {
            let error = decode(&bytes[..cut], &Limits::default())
                .expect_err(&format!("{name} cut at {cut} of {}", bytes.len()));
            assert!(matches!(error, ImageError::Truncated { .. }), "{name} cut at {cut} of {}: {error}", bytes.len());
        }
        let whole = decode(&bytes, &Limits::default());
        let trailing = [&bytes[..], b"and more"].concat();
        assert_eq!(decode(&trailing, &Limits::default()), whole, "{name}");
    }
}

#[test]
fn an_end_marker_does_not_make_a_cut_jpeg_whole() {
    for name in ["cat_baseline.jpg", "cat_progressive.jpg", "astronaut_cmyk.jpg", "astronaut_gray.jpg"] {
        let bytes = good(name);
        for part in 3..=9 {
            // Not within a stuffed pair, which would change the data.
            let cut = (bytes.len() * part / 10..).find(|at| bytes[at - 1] != 0xff).unwrap();
            let ended = [&bytes[..cut], b"\xff\xd9"].concat();
            let error = decode(&ended, &Limits::default()).expect_err(&format!("{name} at {part}0 %"));
            assert!(matches!(error, ImageError::Truncated { .. }), "{name} at {part}0 %: {error}");
        }
    }
}

#[test]
fn what_the_jpeg_decoder_would_garble_is_refused() {
    let file = |start: u8, luma: u8, chroma: u8| {
        let frame = [0xff, start, 0, 17, 8, 0, 8, 0, 8, 3, 1, luma, 0, 2, chroma, 0, 3, chroma, 0];
        let scans = [1, 2, 3].map(|component| [0xff, 0xda, 0, 8, 1, component, 0, 0, 63, 0, 0xaa]);
        [b"\xff\xd8", &frame[..], scans.as_flattened(), b"\xff\xd9"].concat()
    };
    assert!(refuse(&file(0xc0, 0x11, 0x21)).starts_with("unsupported JPEG: such sampling"));
    assert!(refuse(&file(0xc0, 0x22, 0x11)).starts_with("unsupported JPEG: sequential coding in several scans"));
    assert!(refuse(&file(0xc9, 0x11, 0x11)).starts_with("unsupported JPEG: arithmetic coding"));
    assert_eq!(info(&file(0xc9, 0x11, 0x11), &Limits::default()).unwrap().width, 8);
}

#[test]
fn garbage_never_panics() {
    let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
    let mut random = Random(7);
    for start in [
        &b""[..],
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x40\0\0\0WEBPVP8 ",
        b"GIF89a",
        b"BM",
        b"II*\0\x08\0\0\0",
    ] {
        for _ in 0..100 {
            let rest: Vec<u8> = (0..random.below(300)).map(|_| random.below(256) as u8).collect();
            let bytes = [start, &rest].concat();
            let _ = (info(&bytes, &limits), decode(&bytes, &limits));
        }
    }
    let small: Vec<Vec<u8>> =
        names().iter().map(|name| good(name)).filter(|bytes| bytes.len() < 36_000).chain([good("cat.gif")]).collect();
    for _ in 0..600 {
        let mut bytes = small[random.below(small.len())].clone();
        for _ in 0..=random.below(6) {
            // Half of the damage is in the first bytes, where the structure is.
            let end = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(700) };
            bytes[random.below(end)] ^= 1 << random.below(8);
        }
        let _ = (info(&bytes, &limits), decode(&bytes, &limits));
    }
}

#[test]
fn a_gif_frame_smaller_than_its_canvas() {
    // A frame of 2 x 1 pixels, red and green, at (1, 1) on a canvas of 3 x 2; the palette's first colour is blue, its
    // second transparent.
    let gif = |transparent: u8| {
        let mut bytes = b"GIF89a\x03\0\x02\0\x91\0\0\0\0\xff\0\0\0\xff\0\0\0\xff\0".to_vec();
        bytes.extend_from_slice(&[b'!', 0xf9, 4, transparent, 0, 0, 1, 0]);
        bytes.extend_from_slice(b",\x01\0\x01\0\x02\0\x01\0\0\x02\x02\xd4\x0a\0;");
        bytes
    };
    let (blue, black, red, green) = ([0, 0, 255], [0; 3], [255, 0, 0], [0, 255, 0]);
    let around = |colour| [colour, colour, colour, colour, red, green].concat();
    assert_eq!(decode(&gif(0), &Limits::default()).unwrap().data, around(blue));
    assert_eq!(decode(&gif(1), &Limits::default()).unwrap().data, around(black));
    assert_eq!(info(&gif(1), &Limits::default()).unwrap().channels, 4);
}

#[test]
fn one_pixel_and_long_strips() {
    let blip = blip64();
    let pixel = decode(&good("one_pixel.png"), &Limits::default()).unwrap();
    assert_eq!(blip.squash(&pixel).unwrap(), pixel.data.repeat(64 * 64));
    // Stored between the two passes, the first image would take 200 MB at this size.
    for (width, height) in [(1, MAX_SIDE), (MAX_SIDE, 1)] {
        let strip = Rgb8 { width, height, data: vec![9; MAX_SIDE as usize * 3] };
        assert_eq!(blip.squash(&strip).unwrap(), vec![9; 64 * 64 * 3]);
    }
    for (width, height, length) in [(0, 0, 0), (0, 4, 0), (2, 2, 11)] {
        let broken = Rgb8 { width, height, data: vec![0; length] };
        assert!(matches!(blip.squash(&broken), Err(ImageError::Resize(_))));
    }
}

#[test]
fn preprocessor_config() {
    let blip = blip64();
    let short = Preprocessor::from_json(r#"{"size": {"height": 64, "width": 64}}"#).unwrap();
    assert_eq!(short, blip);
    for size in
        [r#"{"shortest_edge": 384}"#, "384", "384.0", "[384, 384]", "null", r#"{"height": 384.0, "width": 384}"#]
    {
        let square = Preprocessor::from_json(&format!(r#"{{"size": {size}, "resample": 3}}"#)).unwrap();
        assert_eq!((square.width, square.height), (384, 384));
    }
    assert_eq!(Preprocessor::from_json("{}").unwrap().height, 384);
    for same in [
        r#""do_pad": true, "size_divisor": 32"#,
        r#""do_pad": true, "pad_size": null"#,
        r#""do_pad": false, "pad_size": 96"#,
        r#""do_pad": true, "pad_size": {"height": 64, "width": 64}"#,
        r#""do_center_crop": true, "crop_size": 64"#,
        r#""do_center_crop": null, "resample": 3.0, "image_mean": null"#,
    ] {
        assert_eq!(Preprocessor::from_json(&format!(r#"{{"size": 64, {same}}}"#)).unwrap(), blip, "{same}");
    }
    let half = Preprocessor::from_json(r#"{"size": 64, "image_mean": 0.5, "image_std": 0.25}"#).unwrap();
    assert_eq!((half.mean, half.std), ([0.5; 3], [0.25; 3]));
    let plain = Preprocessor::from_json(r#"{"size": 2, "do_rescale": false, "do_normalize": false}"#).unwrap();
    let mut out = [0.0; 12];
    plain.normalise_into(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &mut out);
    assert_eq!(out, [1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0, 3.0, 6.0, 9.0, 12.0]);
    for (json, key) in [
        ("[", "preprocessor_config.json"),
        (r#"{"size": 0}"#, "size = 0"),
        (r#"{"size": {"height": 64}}"#, "size ="),
        (r#"{"size": 64, "resample": 2}"#, "resample = 2"),
        (r#"{"size": 64, "do_resize": false}"#, "do_resize"),
        (r#"{"size": 64, "do_center_crop": true}"#, "crop_size"),
        (r#"{"size": 64, "do_center_crop": true, "crop_size": {"height": 56, "width": 56}}"#, "do_center_crop"),
        (r#"{"size": 64, "do_pad": true, "pad_size": {"height": 96, "width": 96}}"#, "do_pad"),
        (r#"{"size": 64.5}"#, "size = 64.5"),
        (r#"{"size": 64, "image_mean": [0.5, 0.5]}"#, "image_mean"),
        (r#"{"size": 64, "do_resize": "yes"}"#, "invalid type"),
        (r#"{"size": 64, "image_std": [0, 1, 1]}"#, "image_std"),
    ] {
        let error = Preprocessor::from_json(json).unwrap_err();
        assert!(error.contains(key), "{json}: {error}");
    }
}
