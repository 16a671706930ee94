//! The end of the interpreter, which must not come while models run: ONNX Runtime's library is torn down with the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capfilt_udfs::engine::Engine;
use datafusion::common::{Result, exec_err};
use pyo3::prelude::*;

use crate::settings;

/// Longest wait for the batch in hand.
const PATIENCE: Duration = Duration::from_secs(30);

static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Whether the interpreter is ending.
pub(crate) fn is_ending() -> bool {
    IS_ENDING.load(Ordering::Acquire)
}

/// Refuses new work while the interpreter is ending, which threads of others do not notice.
pub(crate) fn check() -> Result<()> {
    if is_ending() { exec_err!("the Python interpreter is ending") } else { Ok(()) }
}

/// Cancels all work, and waits for the batch in hand. For `atexit`.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) {
    IS_ENDING.store(true, Ordering::Release);
    settings::client().cancel_running();
    py.detach(|| {
        let (engine, begun) = (Engine::shared(), Instant::now());
        while engine.bytes_in_hand() + engine.queued_jobs() > 0 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
