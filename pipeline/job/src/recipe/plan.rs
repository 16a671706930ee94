//! Recipes: a single SELECT over `web` that returns the pair table.

use std::sync::Arc;

use capfilt_tables::error::{Error, Result, message};
use capfilt_tables::schema::{type_name, with_nulls};
use capfilt_tables::source::files::Source;
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, cast, lit, when};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;

use crate::job_file::JobFile;
use crate::options::ImageIs;
use crate::recipe::params::Params;
use crate::recipe::provenance::{Provenance, decoding};
use crate::verdicts::Verdicts;

/// The default recipe: keeps each of an image's two texts if the filter matches it with the image.
pub const CAPFILT_SQL: &str = include_str!("../../../../sql/capfilt.sql");

/// The table under the view `web`.
const ROWS: &str = "web_rows";
/// Its columns beside the source's: the row's provenance, and the loaded image if the source only names it.
const PROVENANCE: &str = "web_rows.provenance";
const LOADED: &str = "web_rows.image";

/// A column of the pair table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairColumn {
    /// Column name.
    pub name: &'static str,
    kind: Kind,
    required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Score,
    Verdict,
    Image,
    Provenance,
}

impl PairColumn {
    /// The pair table's own columns, in order; the source's other columns precede them.
    pub const ALL: [Self; 9] = [
        Self::new("image_sha256", Kind::Text, true),
        Self::new("source", Kind::Text, true),
        Self::new("text", Kind::Text, true),
        Self::new("itm_score", Kind::Score, true),
        Self::new("itc_score", Kind::Score, false),
        Self::new("kept", Kind::Verdict, true),
        Self::new("error", Kind::Text, true),
        Self::new("provenance", Kind::Provenance, true),
        Self::new("image", Kind::Image, true),
    ];

    const fn new(name: &'static str, kind: Kind, required: bool) -> Self {
        Self { name, kind, required }
    }

    fn named(name: &str) -> Option<&'static Self> {
        const { &Self::ALL }.iter().find(|column| column.name == name)
    }
}

impl Kind {
    fn accepts(self, found: &DataType) -> bool {
        match self {
            _ if matches!(found, DataType::Null) => self != Self::Verdict,
            Self::Text => value_type(found).is_string(),
            Self::Score => found.is_numeric(),
            Self::Verdict => *found == DataType::Boolean,
            Self::Image => value_type(found).is_binary(),
            Self::Provenance => *found == Provenance::data_type(),
        }
    }

    /// Type in the pair table, and what a recipe's column must be, in words.
    fn wanted(self) -> (DataType, &'static str) {
        match self {
            Self::Text => (DataType::Utf8, "text"),
            Self::Score => (DataType::Float32, "a number"),
            Self::Verdict => (DataType::Boolean, "Boolean"),
            Self::Image => (DataType::BinaryView, "bytes"),
            Self::Provenance => (Provenance::data_type(), "as web has it"),
        }
    }
}

/// SQL text with its parameter values.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// File name, or other origin, for messages.
    pub name: String,
    /// A single SELECT.
    pub sql: String,
    /// Values of its parameters.
    pub params: Params,
    /// The rule by which the recipe keeps pairs; the default if the rule is not known.
    pub verdicts: Verdicts,
}

/// A recipe planned over a source.
pub(crate) struct Planned {
    name: String,
    state: SessionState,
    /// Optimised plan over an empty table, which each run replaces by the rows.
    plan: LogicalPlan,
    /// The source's columns, the loaded image if any, and the provenance.
    rows: SchemaRef,
    /// The recipe's calls of the captioner.
    pub(crate) decoding: Option<String>,
}

impl Recipe {
    /// The SQL, preceded by its parameter values as comments.
    pub fn annotated(&self) -> String {
        format!("{}{}\n", self.params.comments(&self.sql), self.sql.trim_end())
    }

    /// Text that identifies the recipe: `annotated` without the paths of further models, which their digests identify
    /// better.
    pub(crate) fn identity(&self) -> String {
        let model = |line: &str| ["-- $captioner_", "-- $filter_"].iter().any(|start| line.starts_with(start));
        self.annotated().lines().filter(|line| !model(line)).fold(String::new(), |text, line| text + line + "\n")
    }

    /// The rule by which the recipe keeps pairs, with the value of its `$min_itm`.
    pub(crate) fn verdicts(&self) -> Verdicts {
        Verdicts { min_itm: self.params.number_asked(&self.sql, "min_itm"), ..self.verdicts.clone() }
    }

    fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::Recipe { name: self.name.clone(), reason: reason.into() }
    }

    /// Plans the recipe over `source`; the options name its image and text columns. Registers the view `web` in `ctx`,
    /// the job's own session.
    pub(crate) async fn plan(&self, ctx: &SessionContext, source: &Source, options: &JobFile) -> Result<Planned> {
        let failed = |e: DataFusionError| self.wrong(message(&e));
        let mut of = source.schema.as_ref().clone();
        // A row that repeats another has no image.
        if options.dedupe.is_some() && options.image_is == ImageIs::Bytes {
            of = with_nulls(&of, &options.image_column);
        }
        let mut fields: Vec<Field> = of.fields().iter().map(|f| f.as_ref().clone()).collect();
        if options.image_is != ImageIs::Bytes {
            fields.push(Field::new(LOADED, DataType::BinaryView, true));
        }
        fields.push(Field::new(PROVENANCE, Provenance::data_type(), false));
        let schema = Arc::new(Schema::new(fields));
        let empty = Arc::new(MemTable::try_new(Arc::clone(&schema), vec![vec![]])?);
        let rows = LogicalPlanBuilder::scan(ROWS, provider_as_source(empty), None)?;
        let view = rows.project(web(&of, options)?)?.build()?;
        ctx.register_table("web", Arc::new(ViewTable::new(view, None)))?;

        let mut statements = DFParser::parse_sql(&self.sql).map_err(failed)?;
        let is_query =
            |of: &Statement| matches!(of, Statement::Statement(of) if matches!(**of, ast::Statement::Query(_)));
        let statement = statements.pop_front().filter(|statement| statements.is_empty() && is_query(statement));
        let mut statement = statement.ok_or_else(|| self.wrong("a recipe is one SELECT over the table web"))?;
        self.params.bind(&mut statement)?;
        let decoding = decoding(&statement);
        let state = ctx.state();
        let tables = state.resolve_table_references(&statement).map_err(failed)?;
        if let Some(other) = tables.iter().find(|table| table.table() != "web") {
            return Err(self.uses(&format!("the table {other}, and may use none but web")));
        }
        let plan = state.statement_to_plan(statement).await.map_err(failed)?;
        self.check_row_wise(&plan)?;
        let plan = self.pairs(plan)?;
        let plan = state.optimize(&plan).map_err(failed)?;
        Ok(Planned { name: self.name.clone(), state, plan, rows: schema, decoding })
    }

    /// Errors if the plan is not row-wise. A recipe runs on a few rows at a time, so anything that looks across rows,
    /// such as an aggregate, would silently return wrong results.
    fn check_row_wise(&self, plan: &LogicalPlan) -> Result<()> {
        let mut found = None;
        plan.apply_with_subqueries(|node| {
            found = match node {
                LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::EmptyRelation(_) => None,
                LogicalPlan::TableScan(scan) if scan.table_name.table() == ROWS => None,
                LogicalPlan::Aggregate(_) => Some("an aggregate or GROUP BY".to_owned()),
                LogicalPlan::Window(_) => Some("a window function".to_owned()),
                LogicalPlan::Sort(_) => Some("ORDER BY".to_owned()),
                LogicalPlan::Limit(_) => Some("LIMIT".to_owned()),
                LogicalPlan::Distinct(_) => Some("DISTINCT".to_owned()),
                LogicalPlan::Union(_) => {
                    Some("UNION (use unnest, which keeps the texts of an image together)".to_owned())
                }
                LogicalPlan::Join(_) => Some("a join".to_owned()),
                LogicalPlan::Subquery(_) => Some("a sub-query in an expression".to_owned()),
                other => Some(other.display().to_string()),
            };
            Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        found.map_or(Ok(()), |what| Err(self.uses(&what)))
    }

    /// Error for a recipe that looks beyond a single row.
    fn uses(&self, what: &str) -> Error {
        self.wrong(format!(
            "it uses {what}; a recipe sees a few rows of web at a time, so do that over the finished pair table, with capfilt sql \
             --table pairs=DEST"
        ))
    }

    /// Projects the plan to the pair table's columns, in their order and types.
    fn pairs(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let mut exprs: Vec<Expr> =
            schema.iter().filter(|(_, field)| PairColumn::named(field.name()).is_none()).map(Expr::from).collect();
        for pair in PairColumn::ALL {
            let Some((qualifier, field)) = schema.iter().find(|(_, field)| field.name() == pair.name) else {
                if pair.required {
                    let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                    let returned = names.join(", ");
                    let hint =
                        if pair.kind == Kind::Provenance { " (web has it; SELECT * takes it along)" } else { "" };
                    return Err(self.wrong(format!("it returns no column {}{hint}, only {returned}", pair.name)));
                }
                continue;
            };
            let (data_type, wanted) = pair.kind.wanted();
            if !pair.kind.accepts(field.data_type()) {
                let (name, found) = (pair.name, field.data_type());
                return Err(self.wrong(format!("its column {name} is {found}, and must be {wanted}")));
            }
            let mut expr = cast(Expr::from((qualifier, field)), data_type);
            if pair.kind == Kind::Verdict {
                // An unknown verdict drops the pair.
                expr = when(expr, lit(true)).otherwise(lit(false))?;
            }
            exprs.push(expr.alias(pair.name));
        }
        Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
    }
}

impl Planned {
    /// Schema of the pairs.
    pub(crate) fn schema(&self) -> Schema {
        self.plan.schema().as_arrow().clone()
    }

    /// Runs the recipe on `rows` of the source and on `more` columns, the loaded images if any and the provenance. Pairs keep the row order: there is a single partition, and no operator
    /// reorders.
    pub(crate) async fn run(&self, rows: &RecordBatch, more: Vec<ArrayRef>) -> Result<Vec<RecordBatch>> {
        let count = rows.num_rows();
        let columns = rows.columns().iter().cloned().chain(more).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.rows), columns).map_err(|e| Error::Internal(e.to_string()))?;
        let table = Arc::new(MemTable::try_new(Arc::clone(&self.rows), vec![vec![rows]])?);
        let source = provider_as_source(table);
        let plan = self.plan.clone().transform_down(|node| {
            Ok(match node {
                LogicalPlan::TableScan(scan) if scan.table_name.table() == ROWS => {
                    Transformed::yes(LogicalPlan::TableScan(TableScan { source: Arc::clone(&source), ..scan }))
                }
                other => Transformed::no(other),
            })
        })?;
        let physical = self.state.query_planner().create_physical_plan(&plan.data, &self.state).await?;
        let pairs = collect(physical, self.state.task_ctx()).await?;
        let webs: usize = pairs
            .iter()
            .map(|batch| crate::tally::counts::texts(batch, "source").filter(|s| *s == Some("web")).count())
            .sum();
        if webs != count {
            let reason = format!(
                "it returned {webs} rows with source = 'web' for {count} rows of web: a recipe returns one for each, and \
                 drops none (it sets kept = false)"
            );
            return Err(Error::Recipe { name: self.name.clone(), reason });
        }
        Ok(pairs)
    }
}

/// Projection of `web`: the source's columns, with the image's bytes as `image` and the text as `text`.
fn web(schema: &Schema, options: &JobFile) -> Result<Vec<Expr>> {
    let find = |name: &str, what: &str, option: &str| {
        schema.field_with_name(name).map_err(|_| {
            let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let names = names.join(", ");
            Error::Column(format!(
                "the source has no {what} column {name:?}: name it with {option} NAME; its columns are {names}"
            ))
        })
    };
    let wrong = |reason: String| Err(Error::Column(reason));
    let loaded = options.image_is != ImageIs::Bytes;
    let what = match options.image_is {
        ImageIs::Bytes => "image",
        ImageIs::Url => "URL",
        ImageIs::Path => "path",
    };
    let image = find(&options.image_column, what, "--image-column")?;
    let text = find(&options.text_column, "text", "--text-column")?;
    let (bytes, path) = if loaded {
        if !value_type(image.data_type()).is_string() {
            let (name, found) = (image.name(), type_name(image.data_type()));
            return wrong(format!("column {name} is {found}, and a URL or path must be Utf8"));
        }
        (Expr::Column(Column::new_unqualified(LOADED)), None)
    } else {
        image_bytes(image)?
    };
    if !value_type(text.data_type()).is_string() {
        let (name, found) = (text.name(), type_name(text.data_type()));
        return wrong(format!("column {name} is {found}, and a text must be Utf8: name another with --text-column"));
    }
    let renames = options.renames()?;
    for (old, _) in &renames {
        if schema.field_with_name(old).is_err() {
            return wrong(format!("--rename {old}=..: the source has no column {old}"));
        }
        if (*old == options.image_column && !loaded) || *old == options.text_column {
            return wrong(format!("--rename {old}=..: the image and text columns get their names from the pair table"));
        }
    }
    let mut exprs = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for field in schema.fields() {
        let name = field.name().as_str();
        let column = Expr::Column(Column::new_unqualified(name));
        if name == options.image_column && !loaded {
            exprs.push(bytes.clone().alias("image"));
        } else if name == options.text_column {
            exprs.push(cast(column, DataType::Utf8View).alias("text"));
        } else {
            let new = renames.iter().find(|(old, _)| old == name).map_or(name, |(_, new)| new);
            if PairColumn::named(new).is_some() {
                let hint = format!("--rename {name}={name}_before");
                return wrong(format!("the source has a column {new}, a name of the pair table's: give {hint}"));
            }
            if names.contains(&new) {
                return wrong(format!("the source would have two columns {new}: give --rename another name"));
            }
            names.push(new);
            exprs.push(column.alias(new));
        }
    }
    if loaded {
        exprs.push(bytes.alias("image"));
    }
    // A struct column is split; its path is kept, as it may be the only key of the rows.
    if let Some(path) = path.filter(|_| !names.contains(&"image_path")) {
        exprs.push(path.alias("image_path"));
    }
    exprs.push(Expr::Column(Column::new_unqualified(PROVENANCE)).alias("provenance"));
    Ok(exprs)
}

/// Bytes of an image column, and the paths if it is Hugging Face's struct {bytes, path}.
fn image_bytes(field: &Field) -> Result<(Expr, Option<Expr>)> {
    let column = Expr::Column(Column::new_unqualified(field.name()));
    let part = |name: &str| datafusion::functions::core::expr_fn::get_field(column.clone(), name);
    // FixedSizeBinary casts to a view only by way of Binary.
    let view = |expr: Expr| cast(cast(expr, DataType::Binary), DataType::BinaryView);
    match field.data_type() {
        DataType::BinaryView => Ok((column, None)),
        found if value_type(found).is_binary() => Ok((view(column), None)),
        DataType::Struct(parts) if parts.find("bytes").is_some_and(|(_, f)| value_type(f.data_type()).is_binary()) => {
            let path = parts.find("path").filter(|(_, f)| value_type(f.data_type()).is_string()).map(|_| part("path"));
            Ok((view(part("bytes")), path))
        }
        found => Err(Error::Column(format!(
            "column {} is {}, and an image must be bytes (Binary) or a struct {{bytes, path}}: name another with --image-column",
            field.name(),
            type_name(found)
        ))),
    }
}

/// Type of the values, which a dictionary may encode.
fn value_type(of: &DataType) -> &DataType {
    if let DataType::Dictionary(_, value) = of { value } else { of }
}
