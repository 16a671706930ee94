//! What the project logs, such as settings of a checkpoint that are not obeyed, as records of Python's logger `capfilt`.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;

/// Sends records to the thread that passes them to Python. A thread that logs must not take the interpreter's lock itself:
/// the holder of the lock may be waiting for that thread.
struct Forwarding(Sender<Message>);

enum Message {
    Record(Level, String),
    /// Asks for an answer when all records before it are handed over.
    Flush(Sender<()>),
}

/// Longest wait for records at the end of the interpreter.
const PATIENCE: Duration = Duration::from_secs(1);

static LOGGER: OnceLock<Sender<Message>> = OnceLock::new();

impl Log for Forwarding {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("capfilt") || metadata.level() == Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // After a fork the receiver is in the parent, and the record is lost.
            let _ = self.0.send(Message::Record(record.level(), record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Installs the logger, unless the process has one, as the command has.
pub(crate) fn install() {
    LOGGER.get_or_init(|| {
        let (sender, receiver) = channel();
        let started = std::thread::Builder::new().name("capfilt-log".into()).spawn(move || forward(&receiver));
        if started.is_ok() && log::set_boxed_logger(Box::new(Forwarding(sender.clone()))).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
        sender
    });
}

/// Waits until Python has the records so far. The interpreter's lock must be released.
pub(crate) fn flush() {
    if let Some(logger) = LOGGER.get() {
        let (done, ended) = channel();
        if logger.send(Message::Flush(done)).is_ok() {
            let _ = ended.recv_timeout(PATIENCE);
        }
    }
}

fn forward(messages: &Receiver<Message>) {
    for message in messages {
        let (level, message) = match message {
            Message::Record(level, message) => (level, message),
            Message::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        let level = match level {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let logged = Python::try_attach(|py| {
            py.import("logging")?.call_method1("getLogger", ("capfilt",))?.call_method1(level, (&message,)).map(drop)
        });
        if !matches!(logged, Some(Ok(()))) {
            eprintln!("{message}");
        }
    }
}
