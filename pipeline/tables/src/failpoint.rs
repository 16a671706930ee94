//! Crash points, at which tests kill a job; optimised builds have none.

/// Kills the process as `kill -9` does if the environment asks for it: `CAPFILT_KILL_AT=manifest:3` kills it when the
/// point `manifest` is passed for the third time.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(asked) = std::env::var("CAPFILT_KILL_AT") else { return };
    let Some((wanted, count)) = asked.split_once(':') else { return };
    if wanted == name && Some(PASSED.fetch_add(1, Ordering::Relaxed) + 1) == count.parse().ok() {
        let pid = std::process::id().to_string();
        let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
        std::process::abort();
    }
}

/// Does nothing in optimised builds.
#[cfg(not(debug_assertions))]
pub fn point(_: &str) {}
