//! A table of pairs or of questions, read by SQL over Parquet.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::StreamExt as _;
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};
use crate::settings::TableSettings;

/// Name of the files as a table in queries.
const PAIRS: &str = "pairs";

/// Bytes at the end of a file that identify it.
const FOOTER: u64 = 64 << 10;

/// Rows per record batch.
const BATCH: usize = 64;

/// One row: an image with a text or a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Encoded image.
    pub image: Arc<[u8]>,
    /// Text of the image, or question about it.
    pub text: Arc<str>,
    /// The question's distinct answers; empty for a pair.
    pub answers: Arc<[Answer]>,
    /// Expected number of occurrences per epoch.
    pub weight: f64,
}

/// A distinct answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Text of the answer.
    pub text: Arc<str>,
    /// Weight in the loss: the share of the question's answers that are this one, times the row's weight.
    pub weight: f32,
}

/// Content of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Columns image and text; weight is how often an epoch has the row.
    Pairs,
    /// Columns image, question, and answers or answer; weight is that of the row's answers in the loss.
    Questions,
}

/// A table of image-text pairs, or of questions about images.
#[derive(Debug)]
pub struct Table {
    content: Content,
    path: PathBuf,
    /// Version of a Delta table, fixed while it is open.
    version: Option<u64>,
    sql: String,
    /// Weight in a mixture of tables; 0 means the table's `size`.
    pub weight: f64,
    /// Rows with an image and a text, or with an image, a question and an answer.
    pub pairs: u64,
    /// Sum of the rows' weights.
    pub size: f64,
    /// Runs of one image: consecutive rows with the same image count once.
    pub images: u64,
    /// Rows without an image or text, or without a question or answer, which are skipped.
    pub unusable: u64,
}

impl Table {
    /// Opens Parquet files or a Delta table of pairs, and reads the query's rows once to count them.
    ///
    /// # Errors
    /// Files that cannot be read, a query that fails or lacks a column, and a table without usable rows.
    pub fn open(settings: &TableSettings) -> Result<Self> {
        Self::open_as(Content::Pairs, settings)
    }

    /// Opens a table of questions, which has the column `answers`, a list of strings, or `answer`, a string, beside `image`
    /// and `question`; otherwise as [`Self::open`].
    pub fn open_questions(settings: &TableSettings) -> Result<Self> {
        Self::open_as(Content::Questions, settings)
    }

    fn open_as(content: Content, settings: &TableSettings) -> Result<Self> {
        let path = settings.path.clone();
        if !settings.weight.is_finite() || settings.weight < 0.0 {
            return Err(Error::file(path, format!("weight {}: 0 or more", settings.weight)));
        }
        let runtime = runtime()?;
        let found =
            capfilt_tables::delta_source(&path, settings.version.as_deref()).map_err(|e| Error::file(&path, e))?;
        let mut table = Self {
            content,
            version: found.and_then(|found| found.version),
            sql: String::new(),
            weight: settings.weight,
            path,
            pairs: 0,
            size: 0.0,
            images: 0,
            unusable: 0,
        };
        table.sql = runtime.block_on(async { table.select(&table.context().await?, &settings.query).await })?;
        table.count()?;
        if table.pairs == 0 || table.size <= 0.0 {
            let reason = format!("there is no row to train on: {} without {}", table.unusable, table.lacking());
            return Err(Error::file(&table.path, reason));
        }
        Ok(table)
    }

    /// What the unusable rows lack.
    pub fn lacking(&self) -> &'static str {
        self.content.lacking()
    }

    /// Path of the table's files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of a Delta table; `None` for plain files.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Unnormalised share of the table in a mixture.
    pub fn share(&self) -> f64 {
        if self.weight > 0.0 { self.weight } else { self.size }
    }

    async fn context(&self) -> Result<SessionContext> {
        // One partition keeps the rows in the order of the files.
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH);
        let ctx = SessionContext::new_with_config(config);
        capfilt_udfs::sound_scans(&ctx);
        let Some(path) = self.path.to_str() else {
            return Err(Error::file(&self.path, "its name is not UTF-8"));
        };
        // A resolved Delta table may be in an object store, where `exists` does not apply.
        if self.version.is_none() && !self.path.exists() {
            let in_store = path.contains("://");
            return Err(Error::file(
                &self.path,
                if in_store {
                    "it is not a Delta table, and only those are read from a store: download it"
                } else {
                    "there is no such file or folder"
                },
            ));
        }
        let is_folder = self.version.is_none() && self.path.is_dir();
        let files = if is_folder { self.files()? } else { vec![] };
        // Nested folders may be pair tables too.
        let folders: BTreeSet<&Path> =
            files.iter().filter_map(|file| file.parent()).chain([self.path.as_path()]).collect();
        for folder in folders {
            if let Some(reason) = capfilt_tables::unfinished(folder).map_err(|e| Error::file(folder, e))? {
                return Err(Error::file(folder, reason));
            }
        }
        if let Some(version) = self.version {
            let known = capfilt_tables::register_pairs(&ctx, PAIRS, &self.path, Some(&version.to_string())).await;
            return known.map(|()| ctx).map_err(|e| Error::file(&self.path, e));
        }
        if is_folder {
            // Exactly the files that the digest covers, not a job's bookkeeping.
            let names = files.iter().map(|file| {
                let name = file.to_str().map(|_| capfilt_tables::literal(file));
                name.ok_or_else(|| Error::file(file, "its name is not UTF-8"))
            });
            let names = names.collect::<Result<Vec<String>>>()?;
            if names.is_empty() {
                return Err(Error::file(&self.path, "there is no .parquet file in it"));
            }
            let rows = ctx.read_parquet(names, ParquetReadOptions::default()).await.map_err(|e| self.failed(e))?;
            ctx.register_table(PAIRS, rows.into_view()).map_err(|e| self.failed(e))?;
            return Ok(ctx);
        }
        let options = ParquetReadOptions { file_extension: extension(&self.path), ..ParquetReadOptions::default() };
        ctx.register_parquet(PAIRS, capfilt_tables::literal(&self.path), options).await.map_err(|e| self.failed(e))?;
        Ok(ctx)
    }

    fn failed(&self, error: datafusion::error::DataFusionError) -> Error {
        Error::file(&self.path, error.strip_backtrace())
    }

    /// Builds the SELECT of image, text or question, weight, and a question's answers.
    async fn select(&self, ctx: &SessionContext, query: &str) -> Result<String> {
        let query = match query.trim().trim_end_matches(';') {
            "" => {
                let schema = ctx.table(PAIRS).await.map_err(|e| self.failed(e))?.schema().clone();
                let kept = schema.has_column_with_unqualified_name("kept");
                format!("SELECT * FROM {PAIRS}{}", if kept { " WHERE kept" } else { "" })
            }
            query => query.into(),
        };
        let frame = ctx.sql(&query).await.map_err(|e| self.failed(e))?;
        let field = |name: &str| frame.schema().field_with_unqualified_name(name).ok();
        let (text, lacking, example) = match self.content {
            Content::Pairs => ("text", "image or text", "caption AS text"),
            Content::Questions => ("question", "image, question, or answers or answer", "q AS question, a AS answer"),
        };
        let answers = match (self.content, field("answers"), field("answer")) {
            (Content::Pairs, ..) => Some(""),
            (_, Some(_), _) => Some(", answers"),
            (_, None, Some(_)) => Some(", make_array(arrow_cast(answer, 'Utf8View')) AS answers"),
            (_, None, None) => None,
        };
        let (Some(image), Some(_), Some(answers)) = (field("image"), field(text), answers) else {
            let names: Vec<&str> = frame.schema().fields().iter().map(|f| f.name().as_str()).collect();
            return Err(Error::file(
                &self.path,
                format!(
                    "there is no column {lacking}, but {}: give a query such as SELECT jpg AS image, {example} FROM pairs",
                    names.join(", ")
                ),
            ));
        };
        if let Some(answers) = field("answers").filter(|field| self.content == Content::Questions && !is_texts(field)) {
            let reason =
                format!("answers is {}, not a list of strings: give a query that makes it one", answers.data_type());
            return Err(Error::file(&self.path, reason));
        }
        let image = if matches!(image.data_type(), DataType::Struct(_)) { "image['bytes']" } else { "image" };
        let weight = if field("weight").is_some() { "coalesce(CAST(weight AS DOUBLE), 1.0)" } else { "1.0" };
        Ok(format!(
            "SELECT arrow_cast({image}, 'BinaryView') AS image, arrow_cast({text}, 'Utf8View') AS text, {weight} AS weight{answers} \
             FROM ({query}) AS q"
        ))
    }

    /// Reads all rows once, exactly as a run will.
    fn count(&mut self) -> Result<()> {
        let mut rows = self.rows()?;
        let mut last: Option<Arc<[u8]>> = None;
        for row in rows.by_ref() {
            let Row { image, weight, .. } = row?;
            self.pairs += 1;
            self.size += weight;
            self.images += u64::from(last.is_none_or(|last| !Arc::ptr_eq(&last, &image)));
            last = Some(image);
        }
        self.unusable = rows.passed;
        Ok(())
    }

    /// The usable rows, in file order from the start. Consecutive rows of one image share its bytes.
    pub fn rows(&self) -> Result<Rows> {
        let runtime = runtime()?;
        let stream = runtime.block_on(async {
            let ctx = self.context().await?;
            let frame = ctx.sql(&self.sql).await.map_err(|e| self.failed(e))?;
            frame.execute_stream().await.map_err(|e| self.failed(e))
        })?;
        let content = self.content;
        Ok(Rows {
            content,
            path: self.path.clone(),
            stream,
            runtime,
            batch: None,
            answers: None,
            at: 0,
            last: Arc::new([]),
            passed: 0,
        })
    }

    /// Fingerprint with which a resumed run checks that its rows are unchanged: names, sizes and last bytes (Parquet's
    /// footer) of the files, or the version of a Delta table.
    pub fn stamp(&self) -> Result<String> {
        if let Some(version) = self.version {
            return Ok(format!("version {version}"));
        }
        let mut hasher = Sha256::new();
        for path in self.files()? {
            let failed = |e| Error::file(&path, e);
            let mut file = File::open(&path).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            file.seek(SeekFrom::Start(bytes.saturating_sub(FOOTER))).map_err(failed)?;
            let mut footer = vec![];
            file.read_to_end(&mut footer).map_err(failed)?;
            hasher.update(format!("{}\n{bytes}\n", path.strip_prefix(&self.path).unwrap_or(&path).display()));
            hasher.update(footer);
        }
        Ok(hex::encode(hasher.finalize()))
    }

    /// The table's files, sorted by name.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = vec![];
        collect(&self.path, &mut files)?;
        files.sort();
        Ok(files)
    }

    /// SHA-256 of the files' contents in the order of their names, for the model card.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        if let Some(version) = self.version {
            let found = capfilt_tables::Source::open_at(&self.path, Some(&version.to_string()));
            let read = found.and_then(|found| found.contents(&mut |block| hasher.update(block)));
            read.map_err(|e| Error::file(&self.path, e))?;
            return Ok(hex::encode(hasher.finalize()));
        }
        for path in self.files()? {
            hash(&path, &mut hasher)?;
        }
        Ok(hex::encode(hasher.finalize()))
    }
}

impl Content {
    /// What an unusable row lacks.
    fn lacking(self) -> &'static str {
        match self {
            Self::Pairs => "an image or text",
            Self::Questions => "an image, question or answer",
        }
    }
}

/// Type of a list of answers.
fn texts() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)))
}

/// Whether a field is a list of strings.
fn is_texts(field: &Field) -> bool {
    match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            matches!(item.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        }
        _ => false,
    }
}

/// The distinct answers among `given`, in the order of their first occurrence, each with its share of them times `weight`.
/// NULL and blank answers do not count.
fn distinct(given: &StringViewArray, weight: f64) -> Arc<[Answer]> {
    let given: Vec<&str> = given.iter().flatten().filter(|answer| !answer.trim().is_empty()).collect();
    let mut counts: Vec<(&str, usize)> = vec![];
    for answer in &given {
        match counts.iter_mut().find(|(text, _)| text == answer) {
            Some((_, count)) => *count += 1,
            None => counts.push((answer, 1)),
        }
    }
    let share = |count: usize| (weight * count as f64 / given.len() as f64) as f32;
    counts.into_iter().map(|(text, count)| Answer { text: text.into(), weight: share(count) }).collect()
}

/// Adds a file's contents to a digest.
pub(crate) fn hash(path: &Path, hasher: &mut Sha256) -> Result<()> {
    let mut file = File::open(path).map_err(|e| Error::file(path, e))?;
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).map_err(|e| Error::file(path, e))? {
            0 => return Ok(()),
            n => hasher.update(&block[..n]),
        }
    }
}

/// DataFusion requires the extension of the file's name.
fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.into());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|e| Error::file(path, e))? {
        let entry = entry.map_err(|e| Error::file(path, e))?;
        if entry.file_name().to_string_lossy().starts_with(['.', '_']) {
            // Bookkeeping, such as that of a job beside its table.
            continue;
        }
        let path = entry.path();
        if path.is_dir() || path.extension().is_some_and(|e| e == "parquet") {
            collect(&path, files)?;
        }
    }
    Ok(())
}

fn runtime() -> Result<Runtime> {
    let built = Builder::new_current_thread().enable_all().thread_stack_size(8 << 20).build();
    built.map_err(|e| Error::Option(format!("cannot start a runtime: {e}")))
}

/// Iterator over a table's rows.
pub struct Rows {
    content: Content,
    path: PathBuf,
    stream: SendableRecordBatchStream,
    runtime: Runtime,
    batch: Option<RecordBatch>,
    /// The batch's answers, a list of strings for each row; `None` for pairs.
    answers: Option<ArrayRef>,
    at: usize,
    last: Arc<[u8]>,
    /// Unusable rows so far.
    passed: u64,
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        loop {
            if self.batch.as_ref().is_none_or(|batch| self.at >= batch.num_rows()) {
                let batch = match self.runtime.block_on(self.stream.next())? {
                    Ok(batch) => batch,
                    Err(e) => return Some(Err(Error::file(&self.path, e.strip_backtrace()))),
                };
                if self.content == Content::Questions {
                    match cast(batch.column(3), &texts()) {
                        Ok(answers) => self.answers = Some(answers),
                        Err(e) => return Some(Err(Error::file(&self.path, e))),
                    }
                }
                (self.batch, self.at) = (Some(batch), 0);
                continue;
            }
            let batch = self.batch.as_ref()?;
            let (images, texts) = (batch.column(0).as_binary_view(), batch.column(1).as_string_view());
            let weights = batch.column(2).as_primitive::<Float64Type>();
            let at = self.at;
            self.at += 1;
            let null = images.is_null(at) || texts.is_null(at);
            if null || images.value(at).is_empty() || texts.value(at).trim().is_empty() {
                self.passed += 1;
                continue;
            }
            let (image, text, mut weight) = (images.value(at), texts.value(at), weights.value(at));
            if !weight.is_finite() || weight < 0.0 {
                return Some(Err(Error::file(&self.path, format!("a weight is {weight}: 0 or more"))));
            }
            let mut answers: Arc<[Answer]> = [].into();
            if let Some(lists) = &self.answers {
                if lists.is_valid(at) {
                    answers = distinct(lists.as_list::<i32>().value(at).as_string_view(), weight);
                }
                if answers.is_empty() {
                    self.passed += 1;
                    continue;
                }
                weight = 1.0;
            }
            if *self.last != *image {
                self.last = image.into();
            }
            return Some(Ok(Row { image: Arc::clone(&self.last), text: text.into(), answers, weight }));
        }
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rows of {}", self.path.display())
    }
}
