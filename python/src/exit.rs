//! Interruption, and the end of the interpreter, which must not come while models run: ONNX Runtime's library is torn down
//! with the process.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capfilt_udfs::engine::Engine;
use datafusion::common::{Result, exec_err};
use pyo3::prelude::*;

use crate::settings::{self, CLIENTS};

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

/// Starts a thread that cancels the models' work in Polars at each SIGINT: otherwise a call would run to the end of its
/// column before Python sees the signal. Python's own handler stays in place.
#[pyfunction]
pub(crate) fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let started = runtime.and_then(|runtime| {
            std::thread::Builder::new().name("capfilt-signals".into()).spawn(move || {
                while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                    CLIENTS.polars.cancel_running();
                }
            })
        });
        if let Err(e) = started {
            log::warn!("Ctrl-C will not cancel models in Polars: {e}");
        }
    });
}

/// Cancels all work, and waits for the batch in hand. For `atexit`.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) {
    IS_ENDING.store(true, Ordering::Release);
    settings::cancel();
    py.detach(|| {
        let (engine, begun) = (Engine::shared(), Instant::now());
        while engine.bytes_in_hand() + engine.queued_jobs() > 0 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
