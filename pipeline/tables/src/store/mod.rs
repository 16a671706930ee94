//! Object stores: addresses, connections, and reads that resume after interruptions.

pub(crate) mod address;
pub(crate) mod contract;
pub mod location;
pub mod object;
pub(crate) mod problem;
pub(crate) mod providers;
pub(crate) mod read_ahead;
pub(crate) mod retrying;
pub mod revision;
pub mod url;
