//! Cooperative cancellation of work on blocking threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Cancellation flag, checked by every loop over files, members and lines before a job has its first row.
#[derive(Debug, Clone, Default)]
pub struct Halt(Arc<AtomicBool>);

impl Halt {
    /// Cancels the work.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails if the work has been cancelled.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the work has been cancelled.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Runs `work` on a blocking thread. Dropping the future before the work has ended, as `select!` does, sets the work's
/// flag.
pub async fn aside<T: Send + 'static>(work: impl FnOnce(&Halt) -> Result<T> + Send + 'static) -> Result<T> {
    struct Dropped(Halt);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set();
        }
    }
    let dropped = Dropped(Halt::default());
    let halt = dropped.0.clone();
    let ended = tokio::task::spawn_blocking(move || work(&halt)).await;
    ended.unwrap_or_else(|e| Err(Error::Internal(format!("a thread ended: {e}"))))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_is_given_up_ends() {
        assert_eq!(aside(|_| Ok(7)).await.unwrap(), 7);
        let (sender, ended) = mpsc::channel();
        let endless = aside(move |halt| {
            while halt.check().is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = sender.send(());
            halt.check()
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), endless).await.is_err());
        ended.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
