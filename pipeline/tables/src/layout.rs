//! Folders that mark a table, and roles of files by their names.

use std::path::Path;

/// Folder of a Delta table's log.
pub(crate) const DELTA_LOG: &str = "_delta_log";

/// Whether the folder is a Delta table.
pub fn is_delta(path: &Path) -> bool {
    path.join(DELTA_LOG).is_dir()
}

/// Value in the name of a folder `column=value` that stands for NULL, as Hive, Spark and DuckDB write it.
pub(crate) const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Role of a file in a folder that is a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A file of rows.
    Table,
    /// An image, which is a row if the folder has no table.
    Image,
    /// A text, which may belong to an image.
    Text,
}
