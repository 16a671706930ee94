//! Tests across crates: SQL logic tests, parity with the reference, the engine under load, the command end to end. They
//! form a single binary, since each binary links DataFusion.

mod architecture;
mod checkpoints;
mod common;
mod convert;
mod device;
mod docs;
mod e2e;
mod engine;
mod golden;
#[path = "../pipeline/hub/tests/hub/mod.rs"]
mod hub_server;
mod library;
mod slt;
