//! The crate against a loopback server that answers as the hub does.

mod datasets;
mod faults;
mod hub;
mod models;
mod python;
mod refusals;
