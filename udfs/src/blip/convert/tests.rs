//! Damaged, hostile and odd files. tests/convert.rs compares valid ones with transformers.

use std::path::{Path, PathBuf};

use super::archive::read;
use super::machine;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(pickles().join(name)).unwrap()
}

fn pickles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pickles")
}

/// A file in the format before torch 1.6: `object` is the pickle of its contents, followed by `storages`.
fn legacy(object: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    file.extend(object);
    file.extend(b"\x80\x02](");
    for (key, ..) in storages {
        file.extend(text(key));
    }
    file.extend(b"e.");
    for (_, len, data) in storages {
        file.extend(len.to_le_bytes());
        file.extend(*data);
    }
    file
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// {"w": a float32 tensor on a single storage "0"}, its numbers given as pickle instructions.
fn one_tensor(len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), len, b"tQ"].concat();
    let call = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        &storage[..],
        offset,
        shape,
        strides,
        b"\x89ccollections\nOrderedDict\n)RtR",
    ];
    [b"\x80\x02}", &text("w")[..], &call.concat(), b"s."].concat()
}

fn refused(file: &[u8]) -> String {
    read(file).map(|tensors| tensors.len()).unwrap_err()
}

#[test]
fn a_tensor_is_a_view_of_its_storage() {
    let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let floats = |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
    let of = |offset: &[u8], shape: &[u8], strides: &[u8]| {
        let file = legacy(&one_tensor(b"K\x06", offset, shape, strides), &[("0", 6, &data)]);
        floats(&read(&file).unwrap()["w"].data())
    };
    assert_eq!(of(b"K\0", b"K\x02K\x03\x86", b"K\x03K\x01\x86"), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(of(b"K\0", b"K\x03K\x02\x86", b"K\x01K\x03\x86"), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(of(b"K\x04", b"K\x02\x85", b"K\x01\x85"), [4., 5.]);
    assert_eq!(of(b"K\x01", b"K\x03\x85", b"K\x02\x85"), [1., 3., 5.]);
    assert_eq!(of(b"K\x05", b")", b")"), [5.]);
    // The stride of a dimension of one is irrelevant, and an empty tensor may have any offset.
    assert_eq!(of(b"K\0", b"K\x01K\x06\x86", b"K\0K\x01\x86"), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(of(b"K\x63", b"K\0\x85", b"K\x01\x85"), [0.; 0]);
}

#[test]
fn a_tensor_stays_in_its_storage() {
    let data = [0; 24];
    let of = |len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]| {
        refused(&legacy(&one_tensor(len, offset, shape, strides), &[("0", 6, &data)]))
    };
    let (row, one) = (b"K\x06\x85", b"K\x01\x85");
    // 2^62 as an integer of eight bytes.
    let huge: &[u8] = b"\x8a\x08\0\0\0\0\0\0\0\x40";
    for (offset, shape, strides) in [
        (&b"K\x01"[..], &row[..], &one[..]),
        (b"K\0", b"K\x07\x85", one),
        (b"K\0", row, b"K\x02\x85"),
        (huge, row, one),
        (b"K\0", &[huge, huge, b"\x86"].concat(), &[huge, huge, b"\x86"].concat()),
        (b"K\0", &[huge, b"\x85"].concat(), b"K\0\x85"),
    ] {
        let message = of(b"K\x06", offset, shape, strides);
        assert!(message.contains("leaves its storage 0") || message.contains("expanded"), "{message}");
    }
    assert!(of(b"K\x06", b"J\xff\xff\xff\xff", row, one).contains("size of -1"));
    assert!(of(b"K\x06", b"K\0", row, b"K\x01K\x01\x86").contains("as many strides"));
    assert!(of(b"K\x07", b"K\0", row, one).contains("has 6 numbers"), "the storage's own length");
    let short = legacy(&one_tensor(b"K\x06", b"K\0", row, one), &[("0", 6, &data[..23])]);
    assert!(refused(&short).contains("ends in storage 0"));
    let huge = legacy(&one_tensor(huge, b"K\0", row, one), &[("0", 1 << 62, &data)]);
    assert!(refused(&huge).contains("ends in storage 0"));
    let absent = legacy(&one_tensor(b"K\x06", b"K\0", row, one), &[]);
    assert!(refused(&absent).contains("tensor w: it has no storage 0"));
}

#[test]
fn few_numbers_under_many_names_are_no_large_model() {
    let one = one_tensor(b"M\0\x10", b"K\0", b"M\0\x10\x85", b"K\x01\x85");
    let call = &one[3 + text("w").len()..one.len() - 2];
    let named = |names: usize| {
        let mut object = [&b"\x80\x02}("[..], &text("0"), call, b"q\0"].concat();
        (1..names).for_each(|i| object.extend([&text(&i.to_string())[..], b"h\0"].concat()));
        object.extend(b"u.");
        legacy(&object, &[("0", 4096, &[0; 4 * 4096])])
    };
    assert_eq!(read(&named(4)).unwrap().len(), 4);
    assert!(refused(&named(3000)).contains("overlap"));
}

#[test]
fn what_is_no_tensor_is_refused_by_its_name() {
    let argument = text("touch owned");
    for (pickle, name) in [
        ([b"\x80\x02cposix\nsystem\n(", &argument[..], b"tR."].concat(), "posix.system"),
        // By strings, as in protocol 4; by the instruction that calls at once; as a new object; without a call.
        ([b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93(", &argument[..], b"tR."].concat(), "builtins.eval"),
        ([b"(", &argument[..], b"ios\nsystem\n."].concat(), "os.system"),
        ([b"\x80\x02csubprocess\nPopen\n(", &argument[..], b"t\x81."].concat(), "subprocess.Popen"),
        (b"\x80\x02ctorch.hub\nload\n.".to_vec(), "torch.hub.load"),
        ([b"\x80\x02}", &text("optimizer")[..], b"cnumpy.testing\nruncode\n)Rs."].concat(), "numpy.testing.runcode"),
        (b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n.".to_vec(), "_rebuild_device_tensor_from_numpy"),
        (b"\x80\x02ctorch\nQInt8Storage\n.".to_vec(), "torch.QInt8Storage"),
        (b"\x80\x02(\x82\x01t.".to_vec(), "instruction 0x82"),
    ] {
        let message = refused(&legacy(&pickle, &[]));
        assert!(message.contains(name), "{name}: {message}");
    }
    // Values that stand for data cannot be called either.
    let message = refused(&legacy(b"\x80\x02NNR.", &[]));
    assert!(message.contains("it calls a value"), "{message}");
}

#[test]
fn what_is_beside_the_weights_is_passed_over() {
    let number =
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0f8K\0K\x01tR(K\x03X\x01\0\0\0<NNNtbC\x01\0tR";
    let arguments = [b"cargparse\nNamespace\n)\x81}", &text("lr")[..], b"G\0\0\0\0\0\0\0\0sb"].concat();
    let tensor = one_tensor(b"K\x01", b"K\0", b"K\x01\x85", b"K\x01\x85");
    let inner = &tensor[2..tensor.len() - 1];
    let object = [
        b"\x80\x02}(",
        &text("best")[..],
        number,
        &text("args"),
        &arguments,
        &text("model"),
        inner,
        &text("epoch"),
        b"K\x07u.",
    ];
    let file = legacy(&object.concat(), &[("0", 1, &[0, 0, 128, 63])]);
    let tensors = read(&file).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), [&"w"]);
    assert_eq!(*tensors["w"].data(), [0, 0, 128, 63]);
}

#[test]
fn what_torch_did_not_write_is_named() {
    for (file, word) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"[..], "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}         ", "safetensors"),
        (b"hello", "torch did not write it"),
        (b"", "torch did not write it"),
        (b"PK\x03\x04\x14\0", "cut short"),
        (b"\x80\x02}q\0.", "torch.save did not write it"),
        (b"\x80\x02", "in the middle"),
    ] {
        let message = refused(file);
        assert!(message.contains(word), "{message}");
    }
    let nested = legacy(&[&b"\x80\x02"[..], &[b'('; 100_000], b"."].concat(), &[]);
    assert!(refused(&nested).contains("empty stack"));
    let deep = legacy(&[&b"\x80\x02)"[..], &[0x85; 200_000], b"."].concat(), &[]);
    assert!(refused(&deep).contains("no state dict"));
    let endless = [&b"\x80\x02"[..], &vec![b'N'; machine::MAX_STEPS]].concat();
    assert!(machine::read(&endless).unwrap_err().contains("instructions"));
}

#[test]
fn a_zip_file_is_checked_whole() {
    let whole = fixture("hf/pytorch_model.bin");
    let tensors = read(&whole).unwrap().len();
    assert!(tensors > 50);
    for cut in [30, 1000, whole.len() / 2, whole.len() - 1] {
        assert!(refused(&whole[..cut]).contains("cut short"), "{cut}");
    }
    // One flipped bit of a tensor.
    let tensor = read(&whole).unwrap()["vision_model.post_layernorm.bias"].data().into_owned();
    let mut flipped = whole.clone();
    flipped[whole.windows(tensor.len()).position(|bytes| bytes == tensor).unwrap() + 5] ^= 1;
    let message = refused(&flipped);
    assert!(message.contains("post_layernorm.bias") && message.contains("checksum"), "{message}");
    // A zip file may end with a comment.
    let mut commented = whole.clone();
    let end = whole.len() - 2;
    commented[end..].copy_from_slice(&5u16.to_le_bytes());
    commented.extend(b"hello");
    assert_eq!(read(&commented).unwrap().len(), tensors);
    // Deflated, according to the method in each directory entry.
    let mut compressed = whole.clone();
    let entries: Vec<usize> = (0..whole.len() - 4).filter(|at| whole[*at..].starts_with(b"PK\x01\x02")).collect();
    for at in entries {
        compressed[at + 10] = 8;
    }
    assert!(refused(&compressed).contains("is compressed"));
}

/// Deterministic random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most.max(1) as u64) as usize
    }
}

/// Damages some bytes, most of them among the first `hot`.
fn damage(bytes: &mut Vec<u8>, random: &mut Random, hot: usize) {
    for _ in 0..=random.below(4) {
        let end = if random.below(4) > 0 { hot.min(bytes.len()) } else { bytes.len() };
        let at = random.below(end);
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.below(256) as u8),
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            3 => bytes.iter_mut().skip(at).take(1 + random.below(8)).for_each(|b| *b = 0xff),
            // A piece of the file copied elsewhere.
            4 => {
                let piece = bytes[at..].iter().copied().take(random.below(64)).collect::<Vec<_>>();
                let to = random.below(end);
                bytes.splice(to..to, piece);
            }
            _ if at < bytes.len() => bytes[at] = random.below(256) as u8,
            _ => {}
        }
    }
}

#[test]
fn damaged_files_are_read_or_refused_in_bounded_memory() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let zip = fixture("hf/pytorch_model.bin");
    // Without checksums, which would hide most damage from the code behind them.
    let mut unchecked = zip.clone();
    for at in (0..zip.len() - 4).filter(|at| zip[*at..].starts_with(b"PK\x01\x02")) {
        unchecked[at + 16..at + 20].fill(0);
    }
    assert!(read(&unchecked).is_ok());
    let (mut whole, mut broken) = (0, 0);
    for file in [fixture("legacy.bin"), unchecked, zip] {
        for _ in 0..1500 {
            let mut bytes = file.clone();
            damage(&mut bytes, &mut random, 9000);
            match read(&bytes) {
                Ok(tensors) => {
                    whole += 1;
                    for tensor in tensors.values() {
                        assert!(tensor.len() <= bytes.len());
                        assert_eq!(tensor.data().len(), tensor.len());
                    }
                }
                Err(_) => broken += 1,
            }
        }
    }
    assert!(whole > 50 && broken > 1000, "{whole} whole, {broken} broken");

    // The pickle alone: it keeps no more values than it has bytes.
    let legacy = fixture("legacy.bin");
    let start = legacy.windows(14).position(|bytes| bytes == b"\x80\x02ccollections").unwrap();
    let object = &legacy[start..];
    for _ in 0..6000 {
        let mut bytes = object[..13_000].to_vec();
        damage(&mut bytes, &mut random, 12_000);
        if let Ok(pickle) = machine::read(&bytes) {
            let lists: usize = pickle.lists.iter().map(Vec::len).sum();
            let dicts: usize = pickle.dicts.iter().map(Vec::len).sum();
            let kept = pickle.items.len() + lists + dicts + pickle.storages.len() + pickle.tensors.len();
            assert!(kept <= bytes.len());
        }
    }
}
