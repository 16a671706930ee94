//! WebDataset: tar files in which consecutive members with the same name up to the first dot form a sample. Supported
//! as a source of jobs, as a format of the pair table, and as `STORED AS WEBDATASET` in SQL.

mod census;
mod format;
mod member;
mod read;
mod sparse;
mod write;

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

pub(crate) use census::Passed;
pub(crate) use member::compressed;
pub(crate) use read::{Counted, Reader, count, samples, schema};
pub(crate) use write::{Names, Shard};

/// Lets SQL read and write WebDataset: `CREATE EXTERNAL TABLE .. STORED AS WEBDATASET`, `COPY .. TO 'x.tar'`.
pub fn register_webdataset(ctx: &SessionContext) -> Result<(), DataFusionError> {
    let state = ctx.state_ref();
    let mut state = state.write();
    for name in format::NAMES {
        state.register_file_format(Arc::new(format::WebDatasetFactory::new(name)), true)?;
        state.table_factories_mut().insert(name.to_ascii_uppercase(), Arc::new(format::WebDatasetTables));
    }
    Ok(())
}
