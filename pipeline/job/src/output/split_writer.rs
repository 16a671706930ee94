//! Writes the pair table on a separate thread: one file per unit, joined into the parts of the table.
//!
//! A unit is done once its file has its final name. Units are joined into parts as soon as they reach the target size;
//! the manifest records which. When all rows are done, the parts are moved into place. The next run completes or
//! removes whatever an interruption left half done.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use capfilt_tables::pair_table::State;
use capfilt_tables::split::RowPosition;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::checkpoint::admission::check_agreement;
use crate::checkpoint::contract::JobStore;
use crate::checkpoint::manifest::{Manifest, Part};
use crate::options::OutputFormat;
use crate::output::commit::contract::Committer;
use crate::output::commit::register::committer;
use crate::output::pair_files::{Format, PairFile, read};
use crate::tally::counts::Tally;

const UNIT_KEY: &str = "capfilt.unit";
/// Rows copied at a time when units are joined; their images are in memory together.
const JOIN_ROWS: usize = 64;

/// Result of the writing thread.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The table's files, if it is complete.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
    pub(crate) pairs: u64,
    /// Source rows that need not be repeated.
    pub(crate) rows: u64,
    /// Whether parts of an old table may already have been replaced.
    pub(crate) placing: bool,
}

/// State in which the writing ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All rows were written.
    Whole,
    /// The last unit is complete, but others are missing.
    AtUnit,
    /// Within a unit.
    Broken,
}

/// Pairs of consecutive rows within a unit.
pub(crate) struct Pairs {
    pub(crate) unit: RowPosition,
    /// Number of the first row in its file.
    pub(crate) row: u64,
    /// Number of source rows covered, including rows deleted from a Delta table: the next pairs begin at `row + rows`.
    pub(crate) rows: u64,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) tally: Tally,
}

enum Message {
    Pairs(Pairs),
    End(End),
}

/// The job's handle of the writing thread. Dropping it stops the thread.
pub(crate) struct WriterThread {
    sender: mpsc::Sender<Message>,
    thread: JoinHandle<(Written, Result<()>)>,
}

/// State an earlier run left to resume from.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// First position that is not yet done.
    pub(crate) next: RowPosition,
    pub(crate) tally: Tally,
}

impl Left {
    fn after(manifest: &Manifest, units: &[Unit]) -> Self {
        let mut left = Self { next: manifest.done, tally: manifest.tally.clone() };
        for Unit { record, .. } in units {
            left.next = record.end;
            left.tally.merge(&record.tally);
        }
        left
    }
}

impl WriterThread {
    /// Starts the writer on `manifest`, resuming if `begun`. `saved`: the manifest is already on disk unchanged.
    pub(crate) fn open(
        store: Box<dyn JobStore>,
        format: Format,
        manifest: Manifest,
        begun: bool,
        saved: bool,
    ) -> Result<(Self, Left)> {
        let mut writer = SplitWriter {
            committer: committer(format.output, store.table())?,
            store,
            format,
            manifest,
            saved,
            done: Vec::new(),
            done_bytes: 0,
            open: None,
            given_up: false,
        };
        let left = writer.restore(begun)?;
        let (sender, mut receiver) = mpsc::channel(4);
        let thread = tokio::task::spawn_blocking(move || {
            let ended = writer.work(&mut receiver);
            // Drop the open file before the job is notified of the end.
            writer.open = None;
            (writer.written(), ended)
        });
        Ok((Self { sender, thread }, left))
    }

    /// Writes pairs. Returns false if the thread has failed; `close` then returns its error.
    pub(crate) async fn write(&self, pairs: Pairs) -> bool {
        self.sender.send(Message::Pairs(pairs)).await.is_ok()
    }

    /// Ends the writing in the given state. Returns what has been written even on error.
    pub(crate) async fn close(self, end: End) -> (Written, Result<()>) {
        let _ = self.sender.send(Message::End(end)).await;
        drop(self.sender);
        let failed = |e| (Written::default(), Err(Error::Internal(format!("the writing thread ended: {e}"))));
        self.thread.await.unwrap_or_else(failed)
    }
}

/// Metadata of a unit's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct UnitRecord {
    unit: RowPosition,
    /// Position after its last row.
    end: RowPosition,
    tally: Tally,
    /// Bytes the unit takes in a part, if parts are not Parquet.
    bytes: Option<u64>,
}

/// A finished unit.
pub(crate) struct Unit {
    record: UnitRecord,
    path: PathBuf,
    pairs: u64,
    bytes: u64,
}

struct OpenUnit {
    record: UnitRecord,
    file: PairFile,
}

/// The writer of units and parts, on its own thread.
pub(crate) struct SplitWriter {
    pub(crate) store: Box<dyn JobStore>,
    pub(crate) format: Format,
    pub(crate) committer: Box<dyn Committer>,
    pub(crate) manifest: Manifest,
    saved: bool,
    /// Finished units that are in no part yet, and their total bytes.
    pub(crate) done: Vec<Unit>,
    done_bytes: u64,
    open: Option<OpenUnit>,
    /// Set once a retry is abandoned and the old table's manifest restored.
    pub(crate) given_up: bool,
}

impl SplitWriter {
    /// Collects the finished units of an earlier run, and removes its unfinished files.
    fn restore(&mut self, begun: bool) -> Result<Left> {
        if !begun {
            let stopped = self.store.manifest().is_some_and(|manifest| manifest.state != State::Finished);
            self.store.clear()?;
            if stopped {
                // Its table may be only half in place, and must not be taken for a complete one.
                self.begin()?;
            }
            return Ok(Left::default());
        }
        self.store.remove_unfinished(&self.manifest)?;
        let (units, gone) = units(&*self.store, &self.manifest)?;
        for (path, reason) in gone {
            if let Some(reason) = reason {
                log::warn!("{reason}; it and what follows are done anew");
            }
            remove(&path)?;
        }
        let left = Left::after(&self.manifest, &units);
        units.into_iter().for_each(|unit| self.add(unit));
        // A kill may have come between a part's last unit and the part itself.
        self.end_part_if_large()?;
        Ok(left)
    }

    fn work(&mut self, messages: &mut mpsc::Receiver<Message>) -> Result<()> {
        let ended = loop {
            match messages.blocking_recv() {
                Some(Message::Pairs(pairs)) => {
                    if let Err(error) = self.write(pairs) {
                        break Err(error);
                    }
                }
                Some(Message::End(End::Whole)) => break self.end_unit().and_then(|()| self.finish()),
                Some(Message::End(End::AtUnit)) => break self.end_unit(),
                Some(Message::End(End::Broken)) | None => break Ok(()),
            }
        };
        // Unblocks senders waiting on a stopped thread.
        messages.close();
        ended
    }

    fn written(&self) -> Written {
        if self.given_up {
            return Written::default();
        }
        let Manifest { parts, state, .. } = &self.manifest;
        let (pairs, bytes) = (parts.iter().map(|part| part.pairs).sum(), parts.iter().map(|part| part.bytes).sum());
        let is_whole = *state == State::Finished;
        let files = parts.iter().filter(|_| is_whole).map(|part| self.store.table().join(&part.name)).collect();
        let rows = self.manifest.tally.rows + self.done.iter().map(|unit| unit.record.tally.rows).sum::<u64>();
        let placing = *state != State::Running;
        Written { files, bytes, pairs, rows, placing }
    }

    fn write(&mut self, pairs: Pairs) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.record.unit != pairs.unit) {
            self.end_unit()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let file = self.format.create(OutputFormat::Parquet, &self.store.scratch(&unit_name(pairs.unit)))?;
                let record = UnitRecord { unit: pairs.unit, end: pairs.unit, tally: Tally::default(), bytes: None };
                none.insert(OpenUnit { record, file })
            }
        };
        for batch in pairs.batches {
            let batch = self.format.shape(batch)?;
            open.file.write(&batch)?;
            if !self.format.output.is_parquet() {
                *open.record.bytes.get_or_insert(0) += self.format.measure(&[batch])?;
            }
        }
        open.record.end.row = pairs.row + pairs.rows;
        open.record.tally.merge(&pairs.tally);
        failpoint::point("pairs");
        if open.record.end.row >= pairs.unit.row + self.manifest.job.unit_rows {
            self.end_unit()?;
        }
        Ok(())
    }

    /// Finishes the open unit.
    fn end_unit(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let record = serde_json::to_string(&open.record).map_err(|e| Error::Internal(e.to_string()))?;
        open.file.note(UNIT_KEY, record);
        failpoint::point("unit");
        let (pairs, bytes) = open.file.end()?;
        self.begin()?;
        let path = self.store.keep_unit(&unit_name(open.record.unit))?;
        self.add(Unit { record: open.record, path, pairs, bytes });
        failpoint::point("unit-done");
        self.end_part_if_large()
    }

    fn end_part_if_large(&mut self) -> Result<()> {
        if self.done_bytes >= self.manifest.job.file_bytes { self.end_part() } else { Ok(()) }
    }

    fn add(&mut self, unit: Unit) {
        self.done_bytes += unit.record.bytes.unwrap_or(unit.bytes);
        self.done.push(unit);
    }

    /// Saves the first manifest: from here on the job can be resumed.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if !self.saved {
            if self.manifest.replaces && self.manifest.retried.is_none() {
                self.store.clear_other_shards()?;
            }
            let before = self.store.manifest();
            self.save()?;
            // Another shard may have begun in the meantime: of two shards that differ, the later one detects it and
            // undoes its manifest.
            if let Err(error) = check_agreement(&*self.store, &self.manifest) {
                match before {
                    Some(before) => self.store.save(&before)?,
                    None => self.store.remove_manifest()?,
                }
                return Err(error);
            }
            self.saved = true;
        }
        Ok(())
    }

    pub(crate) fn save(&self) -> Result<()> {
        self.store.save(&self.manifest)
    }

    /// Joins the finished units into a part.
    pub(crate) fn end_part(&mut self) -> Result<()> {
        let name = self.manifest.next_part(self.format.output);
        let (pairs, bytes) = match self.done.as_slice() {
            // The unit as it is; its own name is removed once the manifest lists the part.
            [unit] if self.format.output.is_parquet() => {
                self.store.stage_unit(&unit.path, &name)?;
                (unit.pairs, unit.bytes)
            }
            units => {
                let mut part = self.format.create(self.format.output, &self.store.scratch(&name))?;
                for Unit { path, .. } in units {
                    for batch in read(path, &self.format.schema, JOIN_ROWS)? {
                        part.write(&batch.map_err(|e| Error::dest(path, format!("cannot read: {e}")))?)?;
                    }
                }
                failpoint::point("part");
                let written = part.end()?;
                self.store.stage(&name)?;
                written
            }
        };
        failpoint::point("part-done");
        for unit in &self.done {
            self.manifest.tally.merge(&unit.record.tally);
            self.manifest.done = unit.record.end;
        }
        self.manifest.parts.push(Part { name, pairs, bytes });
        self.begin()?;
        self.save()?;
        failpoint::point("part-saved");
        self.done_bytes = 0;
        self.done.drain(..).try_for_each(|unit| remove(&unit.path))
    }
}

/// File name of a unit; names sort in the source's order.
fn unit_name(RowPosition { file, row }: RowPosition) -> String {
    format!("unit-{file:08}-{row:012}.parquet")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::write(path, &e)),
        _ => Ok(()),
    }
}

/// Reads what an earlier run left, like [`WriterThread::open`], but without changing anything.
pub(crate) fn left(store: &dyn JobStore, manifest: &Manifest) -> Result<Left> {
    Ok(Left::after(manifest, &units(store, manifest)?.0))
}

/// A unit's file that is of no use, and what is wrong with it if it is the first that is broken.
type Gone = (PathBuf, Option<String>);

/// Finds the finished units that no part has yet, and the files of others.
fn units(store: &dyn JobStore, manifest: &Manifest) -> Result<(Vec<Unit>, Vec<Gone>)> {
    let (mut units, mut gone) = (Vec::new(), Vec::new());
    let mut broken = false;
    let mut next = next_unit(manifest, manifest.done);
    for path in store.units()? {
        let reason = match read_unit(&path) {
            Ok(unit) if unit.record.unit < manifest.done => None,
            // Units are contiguous, so everything after a broken one is repeated too.
            Ok(_) if broken => None,
            Ok(unit) if ends_early(&unit.record, manifest) => {
                Some(format!("{}: it ends before its unit does", path.display()))
            }
            Ok(unit) if next != Some(unit.record.unit) => {
                Some(format!("{}: the unit before it is missing", path.display()))
            }
            Ok(unit) => {
                next = next_unit(manifest, unit.record.end);
                units.push(unit);
                continue;
            }
            Err(error) => Some(error.to_string()),
        };
        broken |= reason.is_some();
        gone.push((path, reason));
    }
    Ok((units, gone))
}

/// First unit of the shard at or after a position; `None` behind the last one.
fn next_unit(manifest: &Manifest, from: RowPosition) -> Option<RowPosition> {
    (from.file..manifest.files.len()).find_map(|file| {
        let (row, _) = manifest.units().ranges(file, from, manifest.files[file].rows).next()?;
        Some(RowPosition { file, row })
    })
}

/// Whether a unit's file lacks rows at its end: it reaches neither the next unit nor the end of the source file.
fn ends_early(record: &UnitRecord, manifest: &Manifest) -> bool {
    let UnitRecord { unit, end, .. } = record;
    let whole = unit.row + manifest.job.unit_rows;
    let last = manifest.files.get(unit.file).map_or(0, |file| file.rows);
    end.file != unit.file || end.row < whole.min(last)
}

fn read_unit(path: &Path) -> Result<Unit> {
    let broken = |e: &dyn std::fmt::Display| Error::dest(path, format!("not a unit of this job: {e}"));
    let file = File::open(path).map_err(|e| broken(&e))?;
    let bytes = file.metadata().map_err(|e| broken(&e))?.len();
    let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| broken(&e))?;
    let meta = footer.metadata().file_metadata();
    let notes = meta.key_value_metadata().into_iter().flatten();
    let record = notes.filter(|note| note.key == UNIT_KEY).find_map(|note| note.value.as_deref());
    let record = serde_json::from_str(record.unwrap_or_default()).map_err(|e| broken(&e))?;
    let pairs = u64::try_from(meta.num_rows()).unwrap_or(0);
    Ok(Unit { record, path: path.to_owned(), pairs, bytes })
}
