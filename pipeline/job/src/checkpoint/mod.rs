//! Bookkeeping beside a table, with which a stopped job resumes.

pub(crate) mod admission;
pub(crate) mod apart;
pub(crate) mod contract;
pub(crate) mod job_folder;
pub(crate) mod manifest;
pub(crate) mod manifests;
pub(crate) mod register;
