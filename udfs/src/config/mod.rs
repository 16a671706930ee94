//! `SET capfilt.x = ..`: settings of a session, and the live handles that its functions share.

mod options;
mod provenance;
pub(crate) mod settings;

pub use options::CapfiltOptions;
pub use provenance::Provenance;
pub use settings::bytes;
