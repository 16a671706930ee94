//! The table function `capfilt_stats()`: work counters of the session's engine, one row per model.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, plan_err};
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan};

use crate::config::CapfiltOptions;
use crate::engine::{Engine, ModelStats};

/// Name of the function.
pub(crate) const NAME: &str = "capfilt_stats";

/// Description of the function.
pub(crate) const DESCRIPTION: &str = "What the session's engine has done since it started, a row for each model it \
    used. Counters are read when the query runs.";

enum Values {
    Text(fn(&ModelStats) -> String),
    Count(fn(&ModelStats) -> u64),
    Seconds(fn(&ModelStats) -> f64),
}

struct Column(&'static str, Values, &'static str);

static COLUMNS: &[Column] = &[
    Column("model", Values::Text(|s| s.checkpoint.display().to_string()), "Folder of the checkpoint"),
    Column("device", Values::Text(|s| s.device.clone()), "Where it runs"),
    Column("precision", Values::Text(|s| s.precision.to_string()), "fp32, fp16 or int8"),
    Column("images_encoded", Values::Count(|s| s.images_encoded), "Images that went through the vision encoder"),
    Column("captions", Values::Count(|s| s.captions), "Captions and answers generated"),
    Column("tokens_decoded", Values::Count(|s| s.tokens_decoded), "Tokens of these"),
    Column("texts_scored", Values::Count(|s| s.texts_scored), "Texts matched with an image, and answers scored"),
    Column("texts_encoded", Values::Count(|s| s.texts_encoded), "Texts embedded"),
    Column("memo_hits", Values::Count(|s| s.memo_hits), "Results that were remembered and not computed again"),
    Column(
        "decode_seconds",
        Values::Seconds(|s| s.decode_seconds),
        "Decoding and resizing images, summed over threads",
    ),
    Column("encode_seconds", Values::Seconds(|s| s.encode_seconds), "In the vision encoder"),
    Column("generate_seconds", Values::Seconds(|s| s.generate_seconds), "Generating captions and answers"),
    Column("score_seconds", Values::Seconds(|s| s.score_seconds), "Matching and embedding texts, scoring answers"),
    Column("wait_seconds", Values::Seconds(|s| s.wait_seconds), "Calls waiting for their turn, summed over calls"),
    Column("weight_bytes", Values::Count(|s| s.weight_bytes), "Memory that the weights hold now"),
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |Column(name, values, _): &Column| Field::new(*name, values.data_type(), false);
    Arc::new(Schema::new(COLUMNS.iter().map(field).collect::<Vec<_>>()))
});

impl Values {
    fn data_type(&self) -> DataType {
        match self {
            Self::Text(_) => DataType::Utf8,
            Self::Count(_) => DataType::UInt64,
            Self::Seconds(_) => DataType::Float64,
        }
    }

    fn array(&self, rows: &[ModelStats]) -> ArrayRef {
        match self {
            Self::Text(of) => Arc::new(rows.iter().map(|r| Some(of(r))).collect::<StringArray>()),
            Self::Count(of) => Arc::new(rows.iter().map(of).collect::<UInt64Array>()),
            Self::Seconds(of) => Arc::new(rows.iter().map(of).collect::<Float64Array>()),
        }
    }
}

/// Name, type and meaning of each column.
pub(crate) fn columns() -> impl Iterator<Item = (&'static str, DataType, &'static str)> {
    COLUMNS.iter().map(|Column(name, values, meaning)| (*name, values.data_type(), *meaning))
}

/// The table function.
#[derive(Debug)]
pub(crate) struct Stats;

impl TableFunctionImpl for Stats {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        if !args.exprs().is_empty() {
            return plan_err!("{NAME} takes no arguments");
        }
        let options = args.session().config_options().extensions.get::<CapfiltOptions>();
        Ok(Arc::new(StatsTable { engine: options.map_or_else(Engine::shared, CapfiltOptions::engine) }))
    }
}

#[derive(Debug, Clone)]
struct StatsTable {
    engine: Arc<Engine>,
}

impl TableProvider for StatsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    // Hand-written expansion of `#[async_trait]`: one method does not justify the dependency.
    fn scan<'a, 'b, 'c, 'd, 'e>(
        &'a self,
        _: &'b dyn Session,
        projection: Option<&'c Vec<usize>>,
        _: &'d [Expr],
        limit: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<dyn ExecutionPlan>>> + Send + 'e>>
    where
        'a: 'e,
        'b: 'e,
        'c: 'e,
        'd: 'e,
        Self: 'e,
    {
        Box::pin(async move {
            let partitions: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(self.clone())];
            let exec = StreamingTableExec::try_new(Arc::clone(&SCHEMA), partitions, projection, [], false, limit)?;
            Ok(Arc::new(exec) as Arc<dyn ExecutionPlan>)
        })
    }
}

impl PartitionStream for StatsTable {
    fn schema(&self) -> &SchemaRef {
        &SCHEMA
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.engine.stats();
        let columns = COLUMNS.iter().map(|Column(_, values, _)| values.array(&rows)).collect();
        let stream = RecordBatch::try_new(Arc::clone(&SCHEMA), columns)
            .map_err(DataFusionError::from)
            .and_then(|batch| MemoryStream::try_new(vec![batch], Arc::clone(&SCHEMA), None));
        match stream {
            Ok(stream) => Box::pin(stream),
            // Schema and columns come from one table, so they match.
            Err(e) => {
                log::error!("{NAME}: {e}");
                Box::pin(EmptyRecordBatchStream::new(Arc::clone(&SCHEMA)))
            }
        }
    }
}
