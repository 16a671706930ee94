//! A call of a function on a batch: its arguments, and its work for the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray as _, Int64Array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DataFusionError, Result, internal_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

use super::image_arg::ImageArg;
use super::options_arg::{OptionField, RowOptions};
use super::plan::Plan;
use super::text_arg::TextArg;
use crate::blip::{self, Room};
use crate::config::settings::SettingKey as _;
use crate::config::{CapfiltOptions, Key};
use crate::engine::{Engine, ModelHandle, ModelKey, Outcome, Task};
use crate::error::Error;
use crate::image::ImageError;
use crate::query;

/// Wraps an error of a model or the engine with the function's name.
pub(crate) fn external(function: &str, error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error)).context(function)
}

/// Folder of the checkpoint that a call names, else of the setting `role`.
pub(crate) fn checkpoint(function: &str, role: Key, named: Option<&str>, session: &CapfiltOptions) -> Result<PathBuf> {
    let Some(name) = named.or_else(|| session.text(role)) else {
        let role = role.setting().name;
        let article = if role.starts_with('a') { "an" } else { "a" };
        return plan_err!("{function} needs {article} {role}: SET capfilt.{role} = '/path/to/checkpoint'");
    };
    blip::checkpoint_dir(name).map_err(|e| external(function, e))
}

/// Folder of the checkpoint that a call will use, if known at planning time; `None` if it depends on the rows.
pub(crate) fn planned_checkpoint(plan: &Plan<'_>, role: Key) -> Result<Option<PathBuf>> {
    match &plan.options {
        _ if plan.listed => Ok(None),
        Some(options) => checkpoint(plan.function, role, options.model(), plan.session).map(Some),
        None if plan.may_name_model => Ok(None),
        None => checkpoint(plan.function, role, None, plan.session).map(Some),
    }
}

/// A call on a batch of `rows` rows.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) function: &'static str,
    pub(crate) session: &'a CapfiltOptions,
    pub(crate) args: &'a [ColumnarValue],
    /// Rows of the batch; 1 if all arguments are constants.
    pub(crate) rows: usize,
    pub(crate) return_type: &'a DataType,
}

impl<'a> Call<'a> {
    fn arg(&self, i: usize) -> Result<&'a ColumnarValue> {
        match self.args.get(i) {
            Some(arg) => Ok(arg),
            None => internal_err!("{} was called without argument {i}", self.function),
        }
    }

    pub(crate) fn images(&self, i: usize) -> Result<ImageArg<'a>> {
        ImageArg::new(self.arg(i)?)
    }

    /// Integers of argument `i`, one per row.
    pub(crate) fn integers(&self, i: usize) -> Result<Int64Array> {
        let array = self.arg(i)?.to_array(self.rows)?;
        // An overflow is an error, not a NULL.
        let strict = CastOptions { safe: false, ..Default::default() };
        Ok(cast_with_options(&array, &DataType::Int64, &strict)?.as_primitive::<Int64Type>().clone())
    }

    pub(crate) fn texts(&self, i: usize) -> Result<TextArg<'a>> {
        TextArg::new(self.arg(i)?)
    }

    /// Options in argument `i`, if present.
    pub(crate) fn options(&self, i: usize, known: &[OptionField]) -> Result<RowOptions> {
        RowOptions::new(self.function, known, self.args.get(i), self.rows)
    }

    /// Handles a bad image: ignores it, or returns the error that fails the query under `on_error = 'fail'`.
    pub(crate) fn bad_image(
        &self,
        row: usize,
        images: &ImageArg<'_>,
        sha256: &[u8; 32],
        why: &ImageError,
    ) -> Result<()> {
        if !self.session.fails_on_error() {
            return Ok(());
        }
        let path = images.path(row).map(|p| format!(", path {p}")).unwrap_or_default();
        let reason = format!(
            "{why} (sha256 {}{path}); SET capfilt.on_error = 'null' to get NULL instead, and image_error(image) for the \
             reason",
            hex::encode(sha256)
        );
        Err(DataFusionError::External(Box::new(Error::Image { function: self.function, row, reason })))
    }

    /// Error for an outcome of another kind than requested.
    pub(crate) fn confused<T>(&self) -> Result<T> {
        internal_err!("{}: the engine's outcome is not of the kind that was asked for", self.function)
    }
}

/// Tasks of a call by model.
pub(crate) struct Tasks<'a> {
    call: &'a Call<'a>,
    engine: Arc<Engine>,
    queues: Vec<Queue<'a>>,
    len: usize,
}

struct Queue<'a> {
    checkpoint: PathBuf,
    model: ModelHandle,
    tasks: Vec<Task<'a>>,
    /// Indices of the outcomes.
    slots: Vec<usize>,
}

impl<'a> Tasks<'a> {
    pub(crate) fn new(call: &'a Call<'a>) -> Self {
        Self { call, engine: call.session.engine(), queues: vec![], len: 0 }
    }

    /// Loads the call's checkpoint, unless loaded, with the session's device, precision and threads; returns its index.
    pub(crate) fn model(&mut self, role: Key, named: Option<&str>) -> Result<usize> {
        let session = self.call.session;
        let checkpoint = checkpoint(self.call.function, role, named, session)?;
        if let Some(i) = self.queues.iter().position(|q| q.checkpoint == checkpoint) {
            return Ok(i);
        }
        let bytes = |key| session.integer(key).map(|b| usize::try_from(b).unwrap_or(usize::MAX));
        // Answerers run on the CPU, and refuse another device that is named.
        let device = match (role, session.device()) {
            (Key::Answerer, "auto") => "cpu",
            (_, device) => device,
        };
        let devices = blip::runtime::devices(device).map_err(|e| external(self.call.function, e))?;
        // On the CPU these do not matter, and two models would be loaded for two values.
        let room = match &*devices {
            [device] if device == "cpu" => Room::default(),
            _ => Room { memory: bytes(Key::DeviceMemory), images: bytes(Key::MaxBatchImages) },
        };
        let key = ModelKey {
            checkpoint: checkpoint.clone(),
            device: devices.join(","),
            precision: session.precision(),
            threads: session.threads(),
            room,
        };
        self.engine.set_limits(bytes(Key::MemoryLimit), bytes(Key::MemoLimit));
        let model = self.engine.model(&key).map_err(|e| external(self.call.function, e))?;
        self.queues.push(Queue { checkpoint, model, tasks: vec![], slots: vec![] });
        Ok(self.queues.len() - 1)
    }

    /// Handle of the model at an index from [`Tasks::model`].
    pub(crate) fn handle(&self, model: usize) -> &ModelHandle {
        &self.queues[model].model
    }

    /// Folder of the model at an index from [`Tasks::model`].
    pub(crate) fn checkpoint(&self, model: usize) -> &Path {
        &self.queues[model].checkpoint
    }

    /// Queues work for a model; returns the index of its outcome.
    pub(crate) fn push(&mut self, model: usize, task: Task<'a>) -> usize {
        let queue = &mut self.queues[model];
        queue.tasks.push(task);
        queue.slots.push(self.len);
        self.len += 1;
        self.len - 1
    }

    /// Runs all queued work. Outcomes are at the indices that [`Tasks::push`] returned.
    pub(crate) fn run(&mut self) -> Result<Vec<Outcome>> {
        let (call, session) = (self.call, self.call.session);
        // Planning evaluates constants outside any query.
        let client = match query::current_scope() {
            Some((token, meter)) => session.client().with_token(token).with_meter(meter),
            None => session.client().clone(),
        };
        let mut outcomes: Vec<Option<Outcome>> = vec![None; self.len];
        for queue in &mut self.queues {
            let tasks = std::mem::take(&mut queue.tasks);
            if tasks.is_empty() {
                continue;
            }
            let done = self
                .engine
                .run(&client, &queue.model, &session.image_limits(), session.max_batch_images(), tasks)
                .map_err(|e| external(call.function, e))?;
            for (slot, outcome) in queue.slots.drain(..).zip(done) {
                outcomes[slot] = Some(outcome);
            }
        }
        match outcomes.into_iter().collect() {
            Some(outcomes) => Ok(outcomes),
            None => internal_err!("{}: the engine left tasks without an outcome", call.function),
        }
    }
}
