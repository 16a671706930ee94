//! WebDataset: tar files in which consecutive members with the same name up to the first dot form a sample. Supported
//! as a source of jobs, as a format of the pair table, and as `STORED AS WEBDATASET` in SQL.

pub(crate) mod census;
pub(crate) mod member;
pub(crate) mod read;
pub(crate) mod source;
pub(crate) mod sparse;
pub mod write;
