//! Tables that a job or SQL reads: stores, file formats, and the logs of lakehouse tables; and their names in SQL.
//!
//! The crate knows nothing of jobs, recipes or destinations. A pair table is a table like others, whose folder also
//! says whether it is complete ([`unfinished`]).

pub mod adapt;
pub mod error;
pub mod failpoint;
pub mod file;
pub mod file_record;
pub mod format;
pub mod halt;
pub mod hub;
pub mod image_names;
pub mod image_root;
pub mod lake;
pub mod layout;
pub mod limits;
pub mod pair_table;
pub mod schema;
pub mod source;
pub mod split;
pub mod sql;
pub mod store;

pub use error::{Error, NOT_UTF8, Result, message};
pub use pair_table::unfinished;
pub use source::files::Source;
pub use sql::enable::enable_named_tables;
pub use sql::named::{bad_text, literal, named_table};
pub use sql::open::{delta_source, register_pairs};
pub use sql::rows_format::register_formats;
