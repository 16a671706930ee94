//! JSON lines as BLIP's authors published their datasets, `{"url": .., "caption": ..}`: the text is called `caption`,
//! and the source's other columns and the pair's results follow. There are no images.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

/// The columns of the lines.
pub(crate) fn as_lines(pairs: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let wanted = pairs.schema_ref().fields().iter().zip(pairs.columns()).filter(|(field, _)| field.name() != "image");
    let caption = |field: &Field| match field.name().as_str() {
        "text" => field.clone().with_name("caption"),
        _ => field.clone(),
    };
    let (fields, columns): (Vec<Field>, _) = wanted.map(|(field, column)| (caption(field), Arc::clone(column))).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
