//! Contract of row filters.

use capfilt_tables::error::Result;
use capfilt_tables::source::chunk::Chunk;

/// Picks out rows that need no model, before their images are loaded.
pub(crate) trait RowFilter: Send {
    /// Returns the chunk without rows that have pairs already (`Chunk::previous`), or with a reason (`Chunk::problems`)
    /// for rows that get none. Chunks come in the order of the source; the call may block.
    fn apply(&mut self, chunk: Chunk) -> Result<Chunk>;
}
