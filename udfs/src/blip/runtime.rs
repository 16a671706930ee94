//! ONNX Runtime: location of its library, choice of device, creation of sessions.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::value::{DynValue, Tensor};

use super::cuda::CudaRuntime;
use super::device::{Device, on_device};
use super::graph::tensors::WeightRef;
use super::graph::{self, EXTERNAL_FOLDER, Graph};
use super::operators;
use super::values::lock;
use super::weights::Weights;
use crate::error::{Error, Result};

/// Folders of the library in the Python wheels that the set-up installs: the one for GPUs, if there is one, else the CPU's.
const WHEELS: [&str; 2] = [".deps/onnxruntime-gpu/onnxruntime/capi", ".deps/onnxruntime/onnxruntime/capi"];

/// CUDA's libraries that the CUDA provider needs, each after those that it needs itself.
const CUDA_LIBRARIES: [&str; 8] = [
    "libcudart.so",
    "libnvrtc.so",
    "libnvJitLink.so",
    "libcublasLt.so",
    "libcublas.so",
    "libcurand.so",
    "libcufft.so",
    "libcudnn.so",
];

const HOW_TO_GET: &str = "get it with `make setup` (`make setup-gpu` for CUDA), or install the Python package onnxruntime, version 1.24 \
     or later, or onnxruntime-gpu[cuda,cudnn], and set ORT_DYLIB_PATH to its capi/libonnxruntime.so.*";

/// The process's environment, created when the library is loaded on first use.
pub(crate) fn environment() -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Result<Environment>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let path = find_library()?;
            for library in cuda_libraries(&path) {
                // What cannot be loaded is named by the provider, which needs it.
                if let Err(e) = ort::util::preload_dylib(&library) {
                    log::debug!("{}: {e}", library.display());
                }
            }
            let builder = ort::init_from(&path).map_err(|e| Error::Runtime(format!("{e}; {}", how_to_get())))?;
            let env = builder.with_name("capfilt").build().map_err(|e| Error::Runtime(e.to_string()))?;
            env.set_log_level(ort::logging::LogLevel::Error);
            Ok(env)
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// ONNX Runtime as a host program knows it.
#[derive(Clone)]
struct Host {
    library: Option<PathBuf>,
    how_to_get: &'static str,
}

static HOST: Mutex<Option<Host>> = Mutex::new(None);

/// Sets where ONNX Runtime is for a host program that knows it, such as a Python package beside another: only `library`
/// is loaded, unless ORT_DYLIB_PATH names another, and without one the error says `how_to_get` it. Without effect once a
/// library is loaded.
pub fn set_runtime(library: Option<PathBuf>, how_to_get: &'static str) {
    *lock(&HOST) = Some(Host { library, how_to_get });
}

fn how_to_get() -> &'static str {
    lock(&HOST).as_ref().map_or(HOW_TO_GET, |host| host.how_to_get)
}

/// Library path: ORT_DYLIB_PATH, else that of [`set_runtime`], else next to the executable, else in the project's folder
/// above it, else in the source tree.
fn find_library() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            return Err(Error::Runtime(format!(
                "ORT_DYLIB_PATH is {}, and there is no such file; {}",
                path.display(),
                how_to_get()
            )));
        }
        return Ok(path);
    }
    let not_found = || Error::Runtime(format!("its library libonnxruntime.so was not found; {}", how_to_get()));
    let host = lock(&HOST).clone();
    if let Some(host) = host {
        return host.library.filter(|path| path.is_file()).ok_or_else(not_found);
    }
    let exe = env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    let above =
        exe.iter().flat_map(|e| e.ancestors().skip(1)).flat_map(|folder| WHEELS.map(|wheel| folder.join(wheel)));
    let source = WHEELS.map(|wheel| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(wheel));
    let folders: Vec<PathBuf> = beside.into_iter().map(Into::into).chain(above).chain(source).collect();
    folders.iter().find_map(|folder| library_in(folder)).ok_or_else(not_found)
}

/// NVIDIA's libraries beside the ONNX Runtime library `onnxruntime`, as pip installs both, in the order in which they can
/// be loaded: the system's loader does not look there. None for a build for the CPU.
fn cuda_libraries(onnxruntime: &Path) -> Vec<PathBuf> {
    let capi = onnxruntime.parent().unwrap_or(Path::new(""));
    let names = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    if !names(capi).iter().any(|path| path.to_string_lossy().contains("providers_cuda")) {
        return vec![];
    }
    let packages = capi.parent().and_then(Path::parent).map(|site| site.join("nvidia"));
    let packages = packages.iter().flat_map(|nvidia| names(nvidia));
    let libraries: Vec<PathBuf> = packages.flat_map(|package| names(&package.join("lib"))).collect();
    let file_name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let find = |name: &str| libraries.iter().find(|path| file_name(path).starts_with(name)).cloned();
    CUDA_LIBRARIES.iter().filter_map(|name| find(name)).collect()
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name == "libonnxruntime.so"
                || name.starts_with("libonnxruntime.so.")
                || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
                || name == "onnxruntime.dll"
        })
        .collect();
    found.sort();
    found.pop()
}

/// Names of the devices of a value of `capfilt.device`, each of which [`device`] takes.
///
/// # Errors
/// With `cuda:all`, why CUDA has no devices; with `auto`, why ONNX Runtime cannot be loaded.
pub(crate) fn devices(setting: &str) -> Result<Vec<String>> {
    match setting {
        "auto" => Ok(vec![auto()?.to_string()]),
        "cuda" => Ok(vec![Device::Cuda(0).to_string()]),
        "cuda:all" => {
            let count = cuda_runtime().and_then(|cuda| cuda.devices());
            let count =
                count.map_err(|why| Error::Runtime(format!("capfilt.device 'cuda:all' cannot be used: {why}")))?;
            Ok((0..count).map(|id| Device::Cuda(id.into()).to_string()).collect())
        }
        list => Ok(list.split(',').map(str::to_owned).collect()),
    }
}

fn cuda_runtime() -> std::result::Result<CudaRuntime, String> {
    let is_runtime =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcudart."));
    let beside = find_library().map_err(|e| e.to_string())?;
    CudaRuntime::open(cuda_libraries(&beside).into_iter().find(is_runtime))
}

/// Bytes of a CUDA device that were free when they were first asked for, which is before its first model. Later ones
/// would count our own models as others'.
///
/// # Errors
/// Why the CUDA runtime cannot say.
pub(crate) fn free_memory(id: i32) -> Result<usize> {
    static FREE: Mutex<BTreeMap<i32, usize>> = Mutex::new(BTreeMap::new());
    let mut known = lock(&FREE);
    if let Some(bytes) = known.get(&id) {
        return Ok(*bytes);
    }
    let free = cuda_runtime().and_then(|cuda| cuda.free_memory(id)).map_err(|why| {
        Error::Runtime(format!(
            "the free memory of cuda:{id} is not known: {why}; SET capfilt.device_memory to its size"
        ))
    })?;
    known.insert(id, free);
    Ok(free)
}

/// Device for one name of a value of `capfilt.device`: auto, cpu, cuda or cuda:N.
pub(crate) fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => auto(),
        "cuda" => cuda(0),
        _ => {
            let id = name.strip_prefix("cuda:").and_then(|id| id.parse().ok());
            cuda(id.ok_or_else(|| Error::Option(format!("capfilt.device {name:?}: use auto, cpu or cuda:N")))?)
        }
    }
}

fn auto() -> Result<Device> {
    static CHOICE: OnceLock<Result<Device>> = OnceLock::new();
    CHOICE
        .get_or_init(|| {
            environment()?;
            if !CUDA::is_available().map_err(|e| Error::Runtime(e.to_string()))? {
                log::info!("device auto: cpu ({NO_CUDA})");
                return Ok(Device::Cpu);
            }
            match try_cuda(0) {
                Ok(()) => {
                    log::info!("device auto: cuda:0");
                    Ok(Device::Cuda(0))
                }
                Err(why) => {
                    log::warn!("device auto: the CPU, because cuda:0 cannot be used: {why}");
                    Ok(Device::Cpu)
                }
            }
        })
        .clone()
}

fn cuda(id: i32) -> Result<Device> {
    environment()?;
    try_cuda(id).map(|()| Device::Cuda(id)).map_err(|why| {
        Error::Runtime(format!(
            "capfilt.device 'cuda:{id}' cannot be used: {why}; use 'cpu', or an onnxruntime-gpu library with its CUDA \
             and cuDNN (ORT_DYLIB_PATH)"
        ))
    })
}

const NO_CUDA: &str = "this ONNX Runtime is built without CUDA";

/// Tries what queries need on CUDA device `id`, since a library built with CUDA may still not work here. The error says
/// why it does not.
fn try_cuda(id: i32) -> std::result::Result<(), String> {
    if !CUDA::is_available().map_err(|e| e.to_string())? {
        return Err(NO_CUDA.into());
    }
    let tried =
        register_operators().and_then(|()| probe(Device::Cpu)).and_then(|here| Ok((here, probe(Device::Cuda(id))?)));
    let (here, there) = tried.map_err(|e| first_line(&e.to_string()).to_string())?;
    let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3;
    if here.len() != there.len() || !here.iter().zip(&there).all(is_close) {
        return Err("its results differ from the CPU's".into());
    }
    Ok(())
}

/// Makes the first session with this project's operators alone. That session adds their domain to a map of the process,
/// and ONNX Runtime fails if two sessions try to do so at the same time.
fn register_operators() -> Result<()> {
    static IS_DONE: Mutex<bool> = Mutex::new(false);
    let mut is_done = lock(&IS_DONE);
    if !*is_done {
        probe(Device::Cpu)?;
        *is_done = true;
    }
    Ok(())
}

/// Results of a weight's product and of attention on a device.
fn probe(device: Device) -> Result<Vec<f32>> {
    environment()?;
    let failed = |e: ort::Error| Error::Runtime(e.to_string());
    let weight: Vec<f32> = (0..graph::PROBE_WIDTH.pow(2)).map(|n| ((n % 7) as f32 - 3.0) / 8.0).collect();
    let weight = Tensor::from_array(([graph::PROBE_WIDTH; 2], weight)).map_err(failed)?.into_dyn();
    let weight = Arc::new(on_device(weight, device).map_err(failed)?);
    let value = |_: &WeightRef| Ok(Arc::clone(&weight));
    let mut session = assemble(&graph::probe(), value, &PrepackedWeights::new(), device, 1)?;
    let x: Vec<f32> = (0..3 * graph::PROBE_WIDTH).map(|n| (n % 5) as f32 / 4.0).collect();
    let x = Tensor::from_array(([1, 3, graph::PROBE_WIDTH], x)).map_err(failed)?;
    let outputs = session.run(ort::inputs!["x" => x]).map_err(failed)?;
    Ok(outputs["y"].try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
}

/// CUDA with float32 products in float32, not TF32, whose ten bits would be far from the reference, and the sums of norms
/// in float32 even of halves.
fn cuda_provider(id: i32) -> CUDA {
    CUDA::default().with_device_id(id).with_tf32(false).with_skip_layer_norm_strict_mode(true)
}

fn builder(device: Device, threads: usize) -> std::result::Result<SessionBuilder, String> {
    let env = environment().map_err(|e| e.to_string())?;
    let mut builder = Session::builder(env).map_err(|e| e.to_string())?;
    // The graphs already use the fused operators, so there is nothing to optimise, and the optimiser would read weights
    // that are only passed later.
    builder = builder.with_optimization_level(GraphOptimizationLevel::Disable).map_err(|e| e.to_string())?;
    builder = builder.with_intra_threads(threads).map_err(|e| e.to_string())?;
    // Shapes change with every batch.
    builder = builder.with_memory_pattern(false).map_err(|e| e.to_string())?;
    let entries = [
        // Sessions take turns: the threads of one must not spin while another runs.
        ("session.force_spinning_stop", "1"),
        ("session.model_external_initializers_file_folder_path", EXTERNAL_FOLDER),
    ];
    for (key, value) in entries {
        builder = builder.with_config_entry(key, value).map_err(|e| e.to_string())?;
    }
    match device {
        Device::Cpu | Device::Fake(_) => {
            let operators = operators::domain().map_err(|e| e.to_string())?;
            builder.with_operators(operators).map_err(|e| e.to_string())
        }
        Device::Cuda(id) => {
            builder.with_execution_providers([cuda_provider(id).build().error_on_failure()]).map_err(|e| e.to_string())
        }
    }
}

/// A session over `graph` with the checkpoint's tensors.
pub(crate) fn session(
    graph: &Graph,
    weights: &Weights,
    prepacked: &PrepackedWeights,
    device: Device,
    threads: usize,
) -> Result<Session> {
    register_operators()?;
    assemble(graph, |weight| weights.value(weight, device), prepacked, device, threads)
}

fn assemble(
    graph: &Graph,
    value: impl Fn(&WeightRef) -> Result<Arc<DynValue>>,
    prepacked: &PrepackedWeights,
    device: Device,
    threads: usize,
) -> Result<Session> {
    let failed =
        |e: String| memory_or(&e).unwrap_or_else(|| Error::Runtime(format!("a session could not be made: {e}")));
    let mut builder = builder(device, threads).map_err(failed)?;
    if device == Device::Cpu {
        // Other providers pack nothing, and some of the CPU's kernels for halves cannot share what they pack.
        builder = builder.with_prepacked_weights(prepacked).map_err(|e| failed(e.to_string()))?;
    }
    for weight in &graph.weights {
        builder = builder.with_initializer(weight.name(), value(weight)?).map_err(|e| failed(e.to_string()))?;
    }
    builder.commit_from_memory(&graph.model).map_err(|e| failed(e.to_string()))
}

/// Detects an out-of-memory error by the messages of ONNX Runtime's allocators.
pub(crate) fn memory_or(message: &str) -> Option<Error> {
    let lower = message.to_lowercase();
    let words = ["bad_alloc", "failed to allocate memory", "out of memory", "is smaller than requested bytes"];
    words.iter().any(|w| lower.contains(w)).then(|| Error::OutOfMemory(first_line(message).to_string()))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results that `auto` compares a CUDA device's with.
    #[test]
    fn the_probe_uses_its_weight_and_attends() {
        let y = probe(Device::Cpu).unwrap();
        assert_eq!(y.len(), 3 * graph::PROBE_WIDTH);
        // Attention mixes the three rows of x, whose values differ.
        assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{y:?}");
        assert!(y.windows(2).any(|pair| pair[0] != pair[1]), "{y:?}");
    }

    /// The first sessions of a process, made by many threads at once.
    #[test]
    fn sessions_are_made_at_the_same_time() {
        let all = std::sync::Barrier::new(16);
        std::thread::scope(|scope| {
            let make = || {
                all.wait();
                register_operators().and_then(|()| probe(Device::Cpu)).map(drop)
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(make)).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
    }

    #[test]
    fn a_setting_names_its_devices() {
        for (setting, names) in
            [("cpu", &["cpu"] as &[_]), ("cuda", &["cuda:0"]), ("cuda:1,cuda:0", &["cuda:1", "cuda:0"])]
        {
            assert_eq!(devices(setting).unwrap(), names);
        }
        match devices("cuda:all") {
            Ok(names) => assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("cuda:")), "{names:?}"),
            Err(why) => assert!(why.to_string().contains("capfilt.device 'cuda:all' cannot be used: "), "{why}"),
        }
        // With device_memory, the device's is not asked for.
        if let Err(why) = free_memory(63) {
            assert!(why.to_string().contains("SET capfilt.device_memory"), "{why}");
        }
    }

    #[test]
    fn cuda_comes_from_beside_onnxruntime() {
        let site = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = site.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let library = make("onnxruntime/capi/libonnxruntime.so.1.31.1");
        let cudnn = make("nvidia/cudnn/lib/libcudnn.so.9");
        let [blas, lt] = ["libcublas.so.13", "libcublasLt.so.13"].map(|name| make(&format!("nvidia/cu13/lib/{name}")));
        make("nvidia/cu13/lib/libcusolver.so.12");
        assert_eq!(cuda_libraries(&library), Vec::<PathBuf>::new(), "a build for the CPU");
        make("onnxruntime/capi/libonnxruntime_providers_cuda.so");
        assert_eq!(cuda_libraries(&library), [lt, blas, cudnn]);
    }

    #[test]
    fn an_initialiser_that_is_not_given_is_not_replaced_by_something_else() {
        let graph = graph::probe();
        let model = builder(Device::Cpu, 1).unwrap().commit_from_memory(&graph.model);
        assert!(model.is_err(), "a session without its weight");
    }
}
