//! Images that are not in the rows.

pub(crate) mod original;
