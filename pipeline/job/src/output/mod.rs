//! Files of a pair table, and how they are published.

pub(crate) mod commit;
pub(crate) mod json_lines;
pub(crate) mod pair_files;
pub(crate) mod publish;
pub(crate) mod split_writer;
