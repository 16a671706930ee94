//! The image loaders, one for each [`ImageIs`].

use std::path::Path;
use std::sync::Arc;

use capfilt_tables::error::Result;
use datafusion::prelude::SessionContext;

use crate::images::files::Files;
use crate::images::inline::Inline;
use crate::images::loader::ImageLoader;
use crate::job_file::JobFile;
use crate::options::ImageIs;

/// Opens the loader of the images of the job's source; paths start at `root`.
pub(crate) async fn image_loader(ctx: &SessionContext, job: &JobFile, root: &Path) -> Result<Arc<dyn ImageLoader>> {
    let column = &job.image_column;
    Ok(match job.image_is {
        ImageIs::Bytes => Arc::new(Inline { column: column.clone() }),
        ImageIs::Path => Arc::new(Files::open(ctx, column, root).await?),
        #[cfg(feature = "fetch")]
        ImageIs::Url => Arc::new(crate::images::web::Web::new(ctx, column)?),
        #[cfg(not(feature = "fetch"))]
        ImageIs::Url => {
            let reason = "this capfilt is built without the feature fetch, which --image-is url needs";
            return Err(capfilt_tables::error::Error::Option(reason.to_owned()));
        }
    })
}
