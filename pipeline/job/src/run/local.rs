//! Runs the recipe in this process.

use std::sync::Arc;
use std::time::Instant;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::split::RowPosition;
use datafusion::common::runtime::SpawnedTask;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::sync::{mpsc, watch};

use crate::options::{Stop, asked};
use crate::output::split_writer::End;
use crate::run::apply::Work;
use crate::run::prefetch::Loaded;
use crate::run::runner::{PairSink, Runner};

/// Runs up to `workers` chunks at a time as tasks of the current runtime.
pub(crate) struct LocalRunner {
    pub(crate) workers: usize,
}

impl Runner for LocalRunner {
    async fn run(
        &self,
        work: &Arc<Work>,
        mut chunks: mpsc::Receiver<Result<Loaded>>,
        stop: &watch::Receiver<Stop>,
        sink: &mut impl PairSink,
    ) -> Result<End> {
        let mut under_way = FuturesOrdered::new();
        let mut last: Option<RowPosition> = None;
        let mut end = None;
        let mut stop_now = std::pin::pin!(asked(stop, Stop::Now));
        let mut stop_at_unit = std::pin::pin!(asked(stop, Stop::AtUnit));
        loop {
            if let Some(end) = end
                && under_way.is_empty()
            {
                return Ok(end);
            }
            let (idle, began) = (under_way.is_empty(), Instant::now());
            tokio::select! {
                biased;
                () = &mut stop_now => return Err(Error::Interrupted),
                // No unit is in progress, and the first may come late if its file must be read from its beginning.
                () = &mut stop_at_unit, if end.is_none() && last.is_none() => end = Some(End::AtUnit),
                Some(done) = under_way.next() => {
                    let pairs = match done {
                        Ok(pairs) => pairs,
                        Err(e) => Err(Error::Internal(format!("a task ended: {e}"))),
                    };
                    if !sink.take(pairs?).await? {
                        return Ok(End::Broken);
                    }
                }
                chunk = chunks.recv(), if end.is_none() && under_way.len() < self.workers => match chunk.transpose()? {
                    Some(next) if *stop.borrow() != Stop::No && last != Some(next.chunk.unit) => end = Some(End::AtUnit),
                    Some(next) => {
                        if idle {
                            sink.idle(began.elapsed());
                        }
                        last = Some(next.chunk.unit);
                        under_way.push_back(SpawnedTask::spawn(Arc::clone(work).on(next)).join());
                    }
                    None => end = Some(End::Whole),
                },
            }
        }
    }
}
