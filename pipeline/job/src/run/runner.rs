//! Contracts of runners and of sinks for pairs.

use std::sync::Arc;
use std::time::Duration;

use capfilt_tables::error::Result;
use tokio::sync::{mpsc, watch};

use crate::options::Stop;
use crate::output::split_writer::{End, Pairs};
use crate::run::apply::Work;
use crate::run::prefetch::Loaded;

/// Runs the recipe on rows, here or elsewhere.
pub(crate) trait Runner {
    /// Makes the pairs of `chunks` and passes them to `sink` in the same order. Ends early, after a unit or at once, if
    /// it is asked to stop, if the sink is closed, or on the first error.
    async fn run(
        &self,
        work: &Arc<Work>,
        chunks: mpsc::Receiver<Result<Loaded>>,
        stop: &watch::Receiver<Stop>,
        sink: &mut impl PairSink,
    ) -> Result<End>;
}

/// Takes pairs in row order.
pub(crate) trait PairSink {
    /// Returns false if the sink is closed.
    async fn take(&mut self, pairs: Pairs) -> Result<bool>;

    /// Notes a time in which nothing was in flight for lack of rows.
    fn idle(&mut self, _time: Duration) {}
}
