//! Memory-bounded session for queries over a whole table.

use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::error::Result;

/// Memory limit of sorts and aggregations, bytes; the rest spills to disk.
const MEMORY: usize = 1 << 30;
/// Maximum number of threads, which share the memory.
const MOST_THREADS: usize = 8;

/// Creates a session whose queries spill to `spill`.
pub fn bounded(spill: DiskManagerMode) -> Result<SessionContext> {
    let disk = DiskManagerBuilder::default().with_mode(spill).with_max_temp_directory_size(u64::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(MEMORY)))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let ctx = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(threads), runtime);
    capfilt_udfs::sound_scans(&ctx);
    Ok(ctx)
}
