//! Files of a lakehouse table at a version.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};

use crate::error::Result;
use crate::file::{self, DataFile};
use crate::format::contract::Inspection;
use crate::format::inspect::Inspected;
use crate::format::register::PARQUET;
use crate::lake::contract::TableFormat;
use crate::lake::location::Lake;
use crate::limits::MOST_IMAGE_BYTES;
use crate::source::files::{Source, SourceFile};
use crate::source::known::OpenOptions;
use crate::store::url::whereabouts;
use crate::{pair_table, schema};

impl Lake {
    /// Reason why a pair table must not be read yet; see [`pair_table::unfinished`]. In stores the bookkeeping is not
    /// checked: the files that the log names are complete.
    pub(crate) fn unfinished(&self) -> Result<Option<String>> {
        if let Self::Disk(path) = self { pair_table::unfinished(path) } else { Ok(None) }
    }

    /// Folder that names are relative to.
    pub(crate) fn root(&self) -> Result<PathBuf> {
        match self {
            Self::Disk(path) => std::fs::canonicalize(path).map_err(|e| self.error(e)),
            Self::Store(location) => Ok(location.root()),
        }
    }

    /// Files of these names below `root`; `None` for missing ones.
    pub(crate) fn places(&self, root: &Path, names: &[&str]) -> Result<Vec<Option<DataFile>>> {
        match self {
            Self::Disk(_) => {
                let place = |name: &&str| Some(root.join(name)).filter(|path| path.is_file()).map(DataFile::Local);
                Ok(names.iter().map(place).collect())
            }
            Self::Store(location) => {
                let objects = location.objects(names)?;
                Ok(objects.into_iter().map(|object| object.map(DataFile::Remote)).collect())
            }
        }
    }
}

impl Source {
    /// Opens a lakehouse table at a version or time, or at its latest version.
    pub(crate) fn of_lake(
        table: &dyn TableFormat,
        lake: &Lake,
        given: &Path,
        reading: OpenOptions<'_>,
    ) -> Result<Self> {
        if let Some(reason) = lake.unfinished()? {
            return Err(lake.error(reason));
        }
        let found = table.snapshot(lake, reading.version)?;
        let root = lake.root()?;
        let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
        let there = names.iter().zip(lake.places(&root, &names)?).map(|(name, place)| {
            let gone = || format!("version {} has the file {name}, which is gone: give a later version", found.version);
            place.ok_or_else(|| lake.error(gone()))
        });
        let places = there.collect::<Result<Vec<_>>>()?;
        let inspection = Inspection::until(reading.halt);
        let looks = file::each(&places, |place| inspection.look(PARQUET, &root, place))?;
        let files = found.files.into_iter().zip(places).zip(looks).map(|((file, place), looked)| {
            let Inspected { mut record, written, seen } = looked;
            // The log's deleted rows and partition values are part of the fingerprint.
            if !file.deleted.is_empty() || !file.partitions.is_empty() {
                let description = format!("{:?} {:?}", file.deleted, file.partitions);
                record.stamp = format!("{}-{}", record.stamp, hex::encode(&Sha256::digest(description)[..8]));
            }
            SourceFile {
                place,
                record,
                seen,
                memo: None,
                read: Arc::clone(&written),
                written,
                partitions: file.partitions,
                deleted: file.deleted,
            }
        });
        let files = files.collect();
        let (version, schema) = (Some(found.version), Arc::new(schema::nullable(&schema::as_views(&found.schema))));
        let (given, written, most_image_bytes) =
            (whereabouts(given), found.schema, reading.limit.unwrap_or(MOST_IMAGE_BYTES));
        let (format, numbers, texts) = (PARQUET, OnceLock::new(), Vec::new());
        Ok(Self { given, root, format, files, numbers, version, schema, written, texts, most_image_bytes })
    }
}
