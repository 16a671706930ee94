//! The engine over a fake model: what is shared, what is bounded, and what happens when something fails.

mod bounds;
mod failures;
mod fake;
mod sharing;
