//! Object stores: addresses, connections, and reads that resume after interruptions.

#[cfg(feature = "cloud")]
pub(crate) mod aws;
#[cfg(feature = "cloud")]
pub(crate) mod connect;
pub mod location;
pub(crate) mod object;
pub(crate) mod problem;
pub(crate) mod read_ahead;
pub mod remote;
pub(crate) mod retrying;
pub mod url;
