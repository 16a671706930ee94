//! Capabilities of the machine: its processor, and the fastest product that ONNX Runtime achieves on it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use capfilt_udfs::image::{Limits, Preprocessor, load};
use ort::session::Session;
use ort::value::TensorRef;
use serde_json::{Value, json};

use crate::Result;

/// Model and features of the processor; int8 and bfloat16 speed depend on its integer and bfloat16 products.
pub(crate) struct Cpu {
    pub(crate) model: String,
    pub(crate) features: Vec<(&'static str, bool)>,
}

impl Cpu {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
        };
        let flags: Vec<&str> = field("flags").or(field("Features")).unwrap_or_default().split(' ').collect();
        let names = [
            ("AVX2", "avx2"),
            ("AVX-512", "avx512f"),
            ("AVX-512 VNNI", "avx512_vnni"),
            ("AVX-VNNI", "avx_vnni"),
            ("AMX int8", "amx_int8"),
            ("AVX-512 BF16", "avx512_bf16"),
            ("AMX BF16", "amx_bf16"),
        ];
        Ok(Self {
            model: field("model name").unwrap_or("unknown").into(),
            features: names.map(|(name, flag)| (name, flags.contains(&flag))).into(),
        })
    }

    pub(crate) fn json(&self) -> Value {
        let features: Vec<&str> = self.features.iter().filter(|f| f.1).map(|f| f.0).collect();
        json!({ "model": self.model, "has": features })
    }
}

/// Best speed of several products of two square float32 matrices, in GFLOP/s.
///
/// Measured in a separate process: ONNX Runtime allows one environment per process, and the library has its own.
pub(crate) fn peak(size: usize, threads: usize) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--child-peak", &size.to_string(), "--threads", &threads.to_string()])
        .env("ORT_DYLIB_PATH", loaded_library()?)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the product's process failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Path of the ONNX Runtime library that this process has loaded.
fn loaded_library() -> Result<String> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let path =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libonnxruntime"));
    Ok(path.ok_or("ONNX Runtime is not loaded")?.to_string())
}

/// Writes the seconds that one image takes from its file's bytes to 384 x 384 pixels, the best of several.
pub(crate) fn child_decode(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let blip = Preprocessor { width: 384, height: 384, mean: [0.0; 3], std: [1.0; 3], rescale_factor: 1.0 };
    let time = crate::Timing::of(7, || {
        load(&bytes, &Limits::default(), &blip)?;
        Ok(())
    })?;
    Ok(writeln!(std::io::stdout(), "{}", time.min())?)
}

pub(crate) fn child_peak(size: usize, threads: usize) -> Result<()> {
    let environment = ort::init_from(std::env::var("ORT_DYLIB_PATH")?)?.build()?;
    let mut session =
        Session::builder(&environment)?.with_intra_threads(threads)?.commit_from_memory(&product_model(size as u64))?;
    let matrix: Vec<f32> = (0..size * size).map(|i| (i % 251) as f32 / 251.0).collect();
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let [a, b] = [&matrix, &matrix].map(|m| TensorRef::from_array_view(([size, size], m.as_slice())));
        let start = Instant::now();
        session.run(ort::inputs!["a" => a?, "b" => b?])?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    writeln!(std::io::stdout(), "{}", 2.0 * (size as f64).powi(3) / best / 1e9)?;
    Ok(())
}

/// An ONNX model of one node, `y = a b`, in protobuf's wire format. Field numbers are onnx.proto's.
fn product_model(size: u64) -> Vec<u8> {
    let dimension = message(1, &number(1, size));
    let shape = message(2, &[dimension.clone(), dimension].concat());
    // TypeProto.tensor_type with element type 1, float.
    let tensor = message(1, &[number(1, 1), shape].concat());
    let value = |name: &str| [message(1, name.as_bytes()), message(2, &tensor)].concat();
    let node = [message(1, b"a"), message(1, b"b"), message(2, b"y"), message(4, b"MatMul")].concat();
    let graph = [
        message(1, &node),
        message(2, b"product"),
        message(11, &value("a")),
        message(11, &value("b")),
        message(12, &value("y")),
    ];
    // ir_version 8; operator set 17 of the default domain.
    [number(1, 8), message(7, &graph.concat()), message(8, &number(2, 17))].concat()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

fn message(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}
