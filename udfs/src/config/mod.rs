//! `SET capfilt.x = ..`: settings of a session, and the live handles that its functions share.

mod itc_gate;
mod keys;
mod options;
mod provenance;
pub mod settings;

pub use itc_gate::ItcGate;
pub(crate) use keys::Key;
pub use options::CapfiltOptions;
pub use provenance::Provenance;
pub use settings::bytes;
