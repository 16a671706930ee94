//! Interruption, and the end of the interpreter, which must not come while models run: ONNX Runtime's library is torn down
//! with the process.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capfilt_udfs::engine::Engine;
use datafusion::common::{Result, exec_err};
use pyo3::prelude::*;

use crate::error::failed;
use crate::logging;
use crate::settings::{self, CLIENTS};

/// Planning recurses deeply, and Python's threads have small stacks.
pub(crate) const STACK: usize = 64 << 20;

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

/// Interval between checks for Ctrl-C.
pub(crate) const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Error of a thread of ours that panicked.
pub(crate) const PANICKED: &str = "capfilt panicked; its message is on stderr";

/// Runs `work` on a thread with a large stack, with the interpreter's lock released. After Ctrl-C, and while the interpreter
/// is ending, it calls `cancel` until the work has ended; then it raises KeyboardInterrupt.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> PyResult<T> + Send,
    cancel: impl Fn() + Send + Sync,
) -> PyResult<T> {
    let (ended, interrupted) = py.detach(|| {
        std::thread::scope(|scope| {
            let caller = std::thread::current();
            let work = move || {
                let ended = work();
                caller.unpark();
                ended
            };
            let thread =
                match std::thread::Builder::new().name("capfilt".into()).stack_size(STACK).spawn_scoped(scope, work) {
                    Ok(thread) => thread,
                    Err(e) => return (Err(failed(e)), None),
                };
            let mut interrupted = None;
            while !thread.is_finished() {
                std::thread::park_timeout(CHECK_EVERY);
                interrupted = interrupted.or_else(signal);
                if interrupted.is_some() || is_ending() {
                    cancel();
                }
            }
            (thread.join().unwrap_or_else(|_| Err(failed(PANICKED))), interrupted)
        })
    });
    match interrupted {
        Some(signal) => Err(signal),
        None => ended,
    }
}

/// The exception of a pending signal, such as KeyboardInterrupt. `None` without a signal, and after the interpreter ended.
pub(crate) fn signal() -> Option<PyErr> {
    Python::try_attach(|py| py.check_signals().err()).flatten()
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
        logging::flush();
    });
}
