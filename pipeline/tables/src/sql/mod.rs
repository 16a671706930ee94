//! Tables by their names in SQL, and what SQL reads and writes beside DataFusion's own formats.

pub(crate) mod copy;
pub mod enable;
pub(crate) mod external;
pub(crate) mod hive;
pub mod named;
pub mod open;
pub mod rows_format;
pub mod spilling_session;
