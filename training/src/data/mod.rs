//! From tables of pairs or questions to batches: read by SQL, mix, shuffle within a bounded buffer, decode and augment in threads.

mod augment;
mod loader;
mod sampler;
mod table;

pub use augment::{Augment, speaks_of_sides};
pub use loader::{Loader, LoaderOptions, RawAnswer, RawBatch};
pub use sampler::{Buffer, Epoch, Pair, Position, Sampler};
pub(crate) use table::hash;
pub use table::{Answer, Row, Rows, Table};

#[cfg(test)]
mod tests;
