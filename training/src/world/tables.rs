//! Sets of a world as Parquet files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BinaryBuilder, BooleanBuilder, ListBuilder, RecordBatch, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;

use super::{Split, World};
use crate::error::{Error, Result};

/// Texts per row group.
const GROUP: usize = 1000;

impl std::str::FromStr for Split {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Human, Self::Web, Self::Validation, Self::Test, Self::Things];
        let found = all.into_iter().find(|split| split.name() == name);
        found.ok_or_else(|| Error::Option(format!("set '{name}': use human, web, validation, test or things")))
    }
}

/// Writes the first `pictures` pictures of a set, with one row per text and the texts of a picture adjacent; returns
/// the number of texts.
///
/// Columns: `key` (of the picture), `image` (a PNG file), `text`; the web set also has `kind` (kind of the text),
/// `wrong` (the attribute that a near miss gets wrong), `text_is_true` and `truth` (a true caption that names every
/// thing with its shape, colour and pattern). The file is written atomically.
pub fn write(world: &World, split: Split, pictures: u64, path: &Path) -> Result<usize> {
    write_rows(&mut Rows::new(split), world, pictures, path)
}

/// Writes questions about the first `pictures` pictures of the human, validation or test set, one row each, atomically;
/// returns their number.
///
/// Columns: `key` and `image` of the picture, `question`, `answers` (ten strings), `kind` (what is asked for), `truth` (the
/// true answer in its usual word).
pub fn write_questions(world: &World, split: Split, pictures: u64, path: &Path) -> Result<usize> {
    if matches!(split, Split::Web | Split::Things) {
        return Err(Error::Option(format!(
            "set '{}': there are questions of human, validation and test",
            split.name()
        )));
    }
    write_rows(&mut QuestionRows::new(split), world, pictures, path)
}

/// Rows of a table that are not written yet.
trait Builder {
    fn schema(&self) -> Arc<Schema>;
    /// Adds the rows of a picture and returns their number.
    fn add(&mut self, world: &World, i: u64) -> image::ImageResult<usize>;
    fn len(&self) -> usize;
    /// The rows so far, which are no longer held.
    fn take(&mut self) -> Result<RecordBatch, ArrowError>;
}

fn write_rows(rows: &mut dyn Builder, world: &World, pictures: u64, path: &Path) -> Result<usize> {
    let part = path.with_extension("parquet.part");
    let file = File::create(&part).map_err(|e| Error::file(&part, e))?;
    let options = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
    let failed = |e: &dyn std::fmt::Display| Error::file(&part, e);
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(options)).map_err(|e| failed(&e))?;
    let mut texts = 0;
    for i in 0..pictures {
        texts += rows.add(world, i).map_err(|e| failed(&e))?;
        if rows.len() >= GROUP || i + 1 == pictures {
            let batch = rows.take().map_err(|e| failed(&e))?;
            writer.write(&batch).and_then(|()| writer.flush()).map_err(|e| failed(&e))?;
        }
    }
    writer.close().map_err(|e| failed(&e))?;
    std::fs::rename(&part, path).map_err(|e| Error::file(path, e))?;
    Ok(texts)
}

struct Rows {
    split: Split,
    schema: Arc<Schema>,
    len: usize,
    key: StringBuilder,
    image: BinaryBuilder,
    text: StringBuilder,
    kind: StringBuilder,
    wrong: StringBuilder,
    is_true: BooleanBuilder,
    truth: StringBuilder,
}

impl Rows {
    fn new(split: Split) -> Self {
        let mut fields = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("image", DataType::Binary, false),
            Field::new("text", DataType::Utf8, false),
        ];
        if matches!(split, Split::Web) {
            fields.push(Field::new("kind", DataType::Utf8, false));
            fields.push(Field::new("wrong", DataType::Utf8, true));
            fields.push(Field::new("text_is_true", DataType::Boolean, false));
            fields.push(Field::new("truth", DataType::Utf8, false));
        }
        Self {
            split,
            schema: Arc::new(Schema::new(fields)),
            len: 0,
            key: Default::default(),
            image: Default::default(),
            text: Default::default(),
            kind: Default::default(),
            wrong: Default::default(),
            is_true: Default::default(),
            truth: Default::default(),
        }
    }
}

impl Builder for Rows {
    fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn add(&mut self, world: &World, i: u64) -> image::ImageResult<usize> {
        let mut push = |key: &str, image: &[u8], text: &str| {
            self.key.append_value(key);
            self.image.append_value(image);
            self.text.append_value(text);
            self.len += 1;
        };
        match self.split {
            Split::Web => {
                let row = world.web(i)?;
                push(&row.key, &row.image_png, &row.text);
                self.kind.append_value(snake(&row.kind));
                self.wrong.append_option(row.wrong.as_ref().map(snake));
                self.is_true.append_value(row.is_true);
                self.truth.append_value(&row.truth);
                Ok(1)
            }
            split => {
                let row = world.captioned(split, i)?;
                row.captions.iter().for_each(|caption| push(&row.key, &row.image_png, caption));
                Ok(row.captions.len())
            }
        }
    }

    fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.len = 0;
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(self.key.finish()), Arc::new(self.image.finish()), Arc::new(self.text.finish())];
        if matches!(self.split, Split::Web) {
            columns.push(Arc::new(self.kind.finish()));
            columns.push(Arc::new(self.wrong.finish()));
            columns.push(Arc::new(self.is_true.finish()));
            columns.push(Arc::new(self.truth.finish()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

struct QuestionRows {
    split: Split,
    len: usize,
    key: StringBuilder,
    image: BinaryBuilder,
    question: StringBuilder,
    answers: ListBuilder<StringBuilder>,
    kind: StringBuilder,
    truth: StringBuilder,
}

impl QuestionRows {
    fn new(split: Split) -> Self {
        Self {
            split,
            len: 0,
            key: Default::default(),
            image: Default::default(),
            question: Default::default(),
            answers: Default::default(),
            kind: Default::default(),
            truth: Default::default(),
        }
    }
}

impl Builder for QuestionRows {
    fn schema(&self) -> Arc<Schema> {
        let text = |name| Field::new(name, DataType::Utf8, false);
        let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
        Arc::new(Schema::new(vec![
            text("key"),
            Field::new("image", DataType::Binary, false),
            text("question"),
            Field::new("answers", DataType::List(item), false),
            text("kind"),
            text("truth"),
        ]))
    }

    fn len(&self) -> usize {
        self.len
    }

    fn add(&mut self, world: &World, i: u64) -> image::ImageResult<usize> {
        let picture = world.captioned(self.split, i)?;
        let questions = world.questions(self.split, i);
        for question in &questions {
            self.key.append_value(&picture.key);
            self.image.append_value(&picture.image_png);
            self.question.append_value(&question.text);
            self.answers.append_value(question.answers.iter().map(|answer| Some(*answer)));
            self.kind.append_value(snake(&question.kind));
            self.truth.append_value(question.truth);
        }
        self.len += questions.len();
        Ok(questions.len())
    }

    fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.len = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.key.finish()),
            Arc::new(self.image.finish()),
            Arc::new(self.question.finish()),
            Arc::new(self.answers.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.truth.finish()),
        ];
        RecordBatch::try_new(self.schema(), columns)
    }
}

/// Name of a kind, as serde writes it.
fn snake(kind: &impl serde::Serialize) -> String {
    serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(Into::into)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn tables_hold_what_the_world_gives() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(4, Default::default());
        for (name, columns, texts) in [("web", 7, 1020), ("human", 3, 5100), ("things", 3, 1020)] {
            let path = dir.path().join(name);
            assert_eq!(write(&world, name.parse().unwrap(), 1020, &path).unwrap(), texts);
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), texts);
            let first = &batches[0];
            assert_eq!(first.num_columns(), columns);
            let (image, text) = match name {
                "web" => world.web(3).map(|row| (row.image_png, row.text)).unwrap(),
                "human" => world.human(0).map(|row| (row.image_png, row.captions[3].clone())).unwrap(),
                _ => world.captioned(Split::Things, 3).map(|row| (row.image_png, row.captions[0].clone())).unwrap(),
            };
            assert_eq!(first.column(1).as_binary::<i32>().value(3), image);
            assert_eq!(first.column(2).as_string::<i32>().value(3), text);
        }
        let path = dir.path().join("questions");
        let written = write_questions(&world, Split::Human, 300, &path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), written);
        assert!((4 * 300..=5 * 300).contains(&written), "{written}");
        let (first, asked) = (&batches[0], world.questions(Split::Human, 0));
        assert_eq!(first.column(1).as_binary::<i32>().value(1), world.human(0).unwrap().image_png);
        assert_eq!(first.column(2).as_string::<i32>().value(1), asked[1].text);
        let answers = first.column(3).as_list::<i32>().value(1);
        let answers: Vec<&str> = answers.as_string::<i32>().iter().flatten().collect();
        assert_eq!(answers, asked[1].answers);
        assert_eq!(first.column(5).as_string::<i32>().value(1), asked[1].truth);
        let refused = write_questions(&world, Split::Web, 1, &path).unwrap_err().to_string();
        assert!(refused.contains("human, validation and test"), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "no .part is left");
        assert!("train".parse::<Split>().unwrap_err().to_string().contains("human, web"));
        let missing = dir.path().join("none/web.parquet");
        assert!(write(&world, Split::Web, 1, &missing).unwrap_err().to_string().contains("none"));
    }
}
