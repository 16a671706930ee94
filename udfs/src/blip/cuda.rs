//! NVIDIA's CUDA runtime, asked about its devices.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;

use libloading::Library;

/// Names under which the system's loader may know the library, newest first.
const SYSTEM_NAMES: [&str; 3] = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"];

/// A function's result; 0 is success.
type Status = c_int;

/// The CUDA runtime.
pub(super) struct CudaRuntime(Library);

impl CudaRuntime {
    /// Loads the library `beside`, if there is one, else the system's.
    ///
    /// # Errors
    /// Why none can be loaded.
    pub(super) fn open(beside: Option<PathBuf>) -> Result<Self, String> {
        let names = beside.into_iter().chain(SYSTEM_NAMES.map(PathBuf::from));
        let mut why = String::new();
        for name in names {
            // SAFETY: the library's initialisation is that of NVIDIA's runtime, which any thread may cause.
            match unsafe { Library::new(&name) } {
                Ok(library) => return Ok(Self(library)),
                // The loader's words are the error's source.
                Err(e) if why.is_empty() => why = e.source().map_or_else(|| e.to_string(), ToString::to_string),
                Err(_) => {}
            }
        }
        Err(format!("the CUDA runtime cannot be loaded: {why}"))
    }

    /// Number of devices.
    ///
    /// # Errors
    /// What the runtime says, which is an error if there is no device.
    pub(super) fn devices(&self) -> Result<u16, String> {
        let mut count = 0;
        // SAFETY: cudaError_t cudaGetDeviceCount(int *count).
        let status = unsafe {
            self.function::<unsafe extern "C" fn(*mut c_int) -> Status>(b"cudaGetDeviceCount\0")?(&mut count)
        };
        self.check(status)?;
        u16::try_from(count).map_err(|_| format!("{count} devices"))
    }

    /// Free bytes of a device's memory. Its context is created if it has none, as its first model would do.
    ///
    /// # Errors
    /// What the runtime says, for example that there is no such device.
    pub(super) fn free_memory(&self, device: c_int) -> Result<usize, String> {
        let (mut before, mut free, mut total) = (0, 0usize, 0usize);
        // SAFETY: cudaError_t cudaGetDevice(int *device).
        let status =
            unsafe { self.function::<unsafe extern "C" fn(*mut c_int) -> Status>(b"cudaGetDevice\0")?(&mut before) };
        self.check(status)?;
        // SAFETY: cudaError_t cudaSetDevice(int device).
        let set = unsafe { self.function::<unsafe extern "C" fn(c_int) -> Status>(b"cudaSetDevice\0")? };
        // SAFETY: cudaError_t cudaMemGetInfo(size_t *free, size_t *total).
        let info =
            unsafe { self.function::<unsafe extern "C" fn(*mut usize, *mut usize) -> Status>(b"cudaMemGetInfo\0")? };
        // SAFETY: as declared above. The thread's device is put back, which ONNX Runtime may rely on.
        let (chosen, known, restored) = unsafe {
            let chosen = set(device);
            let known = if chosen == 0 { info(&mut free, &mut total) } else { chosen };
            (chosen, known, set(before))
        };
        for status in [chosen, known, restored] {
            self.check(status)?;
        }
        Ok(free)
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: const char *cudaGetErrorString(cudaError_t), which returns a constant, terminated string.
        let text = unsafe {
            let text = self.function::<unsafe extern "C" fn(Status) -> *const c_char>(b"cudaGetErrorString\0")?(status);
            if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(format!("CUDA: {text} ({status})"))
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be its type.
    unsafe fn function<F: Copy>(&self, name: &[u8]) -> Result<F, String> {
        // SAFETY: the caller's; the copy is used while the library is loaded.
        unsafe { self.0.get::<F>(name) }.map(|function| *function).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Two devices as the runtime presents them: devices have their own memory, and the current one is the thread's.
    const TWO_DEVICES: &str = r#"
        #include <stddef.h>
        static int current = 0;
        int cudaGetDeviceCount(int *count) { *count = 2; return 0; }
        int cudaGetDevice(int *device) { *device = current; return 0; }
        int cudaSetDevice(int device) { if (device > 1) return 101; current = device; return 0; }
        int cudaMemGetInfo(size_t *free, size_t *total) { *free = 1000 + current; *total = 2000; return 0; }
        const char *cudaGetErrorString(int status) { return status == 101 ? "invalid device ordinal" : "?"; }
    "#;

    #[test]
    fn devices_and_their_memory_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("cudart.c"), folder.path().join("libcudart.so.13"));
        std::fs::write(&source, TWO_DEVICES).unwrap();
        assert!(
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap().success()
        );
        let cuda = CudaRuntime::open(Some(library)).unwrap();
        assert_eq!(cuda.devices(), Ok(2));
        assert_eq!([1, 0, 1].map(|device| cuda.free_memory(device)), [Ok(1001), Ok(1000), Ok(1001)]);
        assert_eq!(cuda.free_memory(2), Err("CUDA: invalid device ordinal (101)".into()));
        // SAFETY: int cudaGetDevice(int *).
        let current = unsafe {
            let mut current = -1;
            cuda.function::<unsafe extern "C" fn(*mut c_int) -> Status>(b"cudaGetDevice\0").unwrap()(&mut current);
            current
        };
        assert_eq!(current, 0, "the thread's device is put back");
    }

    #[test]
    fn a_library_that_is_not_the_runtime_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libcudart.so.13");
        std::fs::write(&library, "not a library").unwrap();
        // A machine with CUDA has the system's.
        if let Err(why) = CudaRuntime::open(Some(library.clone())) {
            assert!(why.contains("cannot be loaded") && why.contains(library.to_str().unwrap()), "{why}");
        }
    }
}
