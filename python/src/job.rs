//! Jobs, run as the command runs them: the options are those of the command line, and so are the words of its errors.

use std::sync::mpsc::{RecvTimeoutError, channel};

use capfilt::Prepared;
use capfilt_job::{Done, Stop, Summary};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::watch;

use crate::error::failed;
use crate::exit::{self, CHECK_EVERY, PANICKED, STACK};
use crate::logging;

/// What the job's thread reports.
enum Report {
    Progress(Box<Done>),
    Ended(Result<Vec<(String, Box<Summary>)>, String>),
}

/// Runs the command line `arguments`, of which the first is the verb `run`, `resume`, `update` or `retry`. Returns a
/// dictionary for each shard.
///
/// `progress` is called with a dictionary from the calling thread. Ctrl-C stops the job after the unit in hand, and a second
/// one at once; either way KeyboardInterrupt is raised, and the same call resumes the job.
#[pyfunction]
#[pyo3(signature = (arguments, progress=None))]
pub(crate) fn run(py: Python<'_>, arguments: Vec<String>, progress: Option<Py<PyAny>>) -> PyResult<Vec<Py<PyDict>>> {
    logging::install();
    let (stop, stopped) = watch::channel(Stop::No);
    let (report, mut reports) = channel();
    let job = std::thread::Builder::new().name("capfilt-job".into()).stack_size(STACK).spawn(move || {
        let ended = execute(arguments, stopped, &|done| drop(report.send(Report::Progress(Box::new(done.clone())))));
        drop(report.send(Report::Ended(ended)));
    });
    let job = job.map_err(failed)?;
    // The first error of the callback, or the interruption.
    let mut raised: Option<PyErr> = None;
    let mut progress = progress;
    let ended = loop {
        let next;
        (next, reports) = py.detach(move || (reports.recv_timeout(CHECK_EVERY), reports));
        if exit::is_ending() {
            let _ = stop.send(Stop::Now);
        }
        if raised.is_some() || exit::is_ending() {
            // The job may not have begun, and wait for its models.
            capfilt_tables::hub::interrupt();
        }
        if let Err(signal) = py.check_signals() {
            let _ = stop.send(if raised.is_some() { Stop::Now } else { Stop::AtUnit });
            raised.get_or_insert(signal);
        }
        match next {
            Ok(Report::Progress(done)) => {
                if let Some(callback) = &progress
                    && let Err(error) = of_progress(py, &done).and_then(|done| callback.call1(py, (done,)))
                {
                    let _ = stop.send(Stop::AtUnit);
                    raised.get_or_insert(error);
                    progress = None;
                }
            }
            Ok(Report::Ended(ended)) => break Some(ended),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    py.detach(|| drop(job.join()));
    match (ended, raised) {
        // Also if the job was at its last unit: Python expects the interruption.
        (_, Some(error)) => Err(error),
        (Some(Err(message)), None) => Err(failed(message)),
        (None, None) => Err(failed(PANICKED)),
        (Some(Ok(summaries)), None) => summaries.iter().map(|(dest, summary)| of_summary(py, dest, summary)).collect(),
    }
}

fn execute(
    arguments: Vec<String>,
    stopped: watch::Receiver<Stop>,
    progress: &dyn Fn(&Done),
) -> Result<Vec<(String, Box<Summary>)>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let ended = runtime.block_on(async {
        let Prepared { ctx, jobs } = capfilt::prepare(arguments).await.map_err(|e| capfilt::message(&e))?;
        let mut summaries = vec![];
        for job in &jobs {
            let summary = capfilt_job::run(&ctx, job, stopped.clone(), progress).await;
            let summary = summary.map_err(|failure| capfilt::as_options(failure.to_string()))?;
            summaries.push((job.dest.display().to_string(), Box::new(summary)));
        }
        Ok(summaries)
    });
    runtime.shutdown_background();
    ended
}

/// `capfilt select` with these arguments.
#[pyfunction]
pub(crate) fn select(py: Python<'_>, arguments: Vec<String>) -> PyResult<Py<PyDict>> {
    let work = || capfilt::select(arguments).map_err(|e| failed(capfilt::message(&e)));
    let (dest, summary) = exit::interruptible(py, work, || {})?;
    of_summary(py, &dest.display().to_string(), &summary)
}

/// The page of `capfilt report` with these arguments, of which -o is left out.
#[pyfunction]
pub(crate) fn report(py: Python<'_>, arguments: Vec<String>) -> PyResult<String> {
    exit::interruptible(py, || capfilt::report(arguments).map_err(|e| failed(capfilt::message(&e))), || {})
}

fn of_progress(py: Python<'_>, done: &Done) -> PyResult<Py<PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("rows", done.tally.rows)?;
    dict.set_item("total_rows", done.rows)?;
    dict.set_item("resumed_rows", done.before)?;
    counts(&dict, &done.tally)?;
    Ok(dict.unbind())
}

fn of_summary(py: Python<'_>, dest: &str, summary: &Summary) -> PyResult<Py<PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("dest", dest)?;
    dict.set_item("rows", summary.tally.rows)?;
    dict.set_item("resumed_rows", summary.before)?;
    dict.set_item("pairs", summary.pairs)?;
    dict.set_item("files", summary.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())?;
    dict.set_item("bytes", summary.bytes)?;
    dict.set_item("seconds", summary.elapsed.as_secs_f64())?;
    dict.set_item("text", summary.to_string())?;
    counts(&dict, &summary.tally)?;
    Ok(dict.unbind())
}

fn counts(dict: &Bound<'_, PyDict>, tally: &capfilt_job::Tally) -> PyResult<()> {
    dict.set_item("failed", tally.failed)?;
    dict.set_item("duplicates", tally.duplicates)?;
    for (name, count) in [("web", &tally.web), ("synthetic", &tally.synthetic)] {
        let of = PyDict::new(dict.py());
        of.set_item("pairs", count.pairs)?;
        of.set_item("kept", count.kept)?;
        of.set_item("mean_itm", count.mean())?;
        dict.set_item(name, of)?;
    }
    let reasons = PyDict::new(dict.py());
    for (reason, count) in tally.reasons() {
        reasons.set_item(reason, count)?;
    }
    dict.set_item("reasons", reasons)
}
