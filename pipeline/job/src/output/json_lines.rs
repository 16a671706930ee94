//! JSON lines as BLIP's authors published their datasets, `{"url": .., "caption": ..}`: the text is called `caption`,
//! and the source's other columns and the pair's results follow. There are no images.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::record_batch::RecordBatch;

/// A JSON lines writer.
pub(crate) struct Lines<W: Write>(LineDelimitedWriter<W>);

impl<W: Write> Lines<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self(LineDelimitedWriter::new(writer))
    }

    pub(crate) fn write(&mut self, pairs: &RecordBatch) -> io::Result<()> {
        let schema = pairs.schema();
        let wanted: Vec<usize> = (0..pairs.num_columns()).filter(|i| schema.field(*i).name() != "image").collect();
        let caption = |i: &usize| -> Field {
            let field = schema.field(*i).clone();
            if field.name() == "text" { field.with_name("caption") } else { field }
        };
        let renamed = Schema::new(wanted.iter().map(caption).collect::<Vec<Field>>());
        let columns = wanted.iter().map(|i| Arc::clone(pairs.column(*i))).collect();
        let lines = RecordBatch::try_new(Arc::new(renamed), columns).and_then(|pairs| self.0.write(&pairs));
        lines.map_err(io::Error::other)
    }

    pub(crate) fn end(mut self) -> io::Result<W> {
        self.0.finish().map_err(io::Error::other)?;
        Ok(self.0.into_inner())
    }
}

impl Lines<BufWriter<File>> {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }

    /// Closes and syncs the file. Returns its size in bytes.
    pub(crate) fn end_file(self) -> io::Result<u64> {
        let file = self.end()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }
}
