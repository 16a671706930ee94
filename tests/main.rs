//! What crosses crates: SQL logic tests, parity with the reference, the engine under load, the command from end to end. One
//! binary, since each links DataFusion.

mod checkpoints;
mod common;
mod convert;
mod docs;
mod e2e;
mod engine;
mod golden;
mod slt;
