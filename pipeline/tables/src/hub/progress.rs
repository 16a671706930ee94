//! Progress of a download or a conversion.

/// Receives a file, its bytes that are done, and all of its bytes (0 if unknown).
pub type OnBytes<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);
