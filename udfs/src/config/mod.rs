//! `SET capfilt.x = ..`: settings of a session, and the live handles that its functions share.

mod keys;
mod options;
mod provenance;
pub mod settings;

pub(crate) use keys::Key;
pub use options::CapfiltOptions;
pub use provenance::Provenance;
pub use settings::bytes;
