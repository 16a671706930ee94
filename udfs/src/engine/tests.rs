//! Tests of the engine over a fake model: sharing, bounds and failures.

mod bounds;
mod devices;
mod failures;
mod fake;
mod sharing;
