//! Statements, one at a time.

use anyhow::{Result, anyhow};
use capfilt_job::Params;
use capfilt_tables::error::NOT_UTF8;
use capfilt_tables::sql::named::bad_text;
use datafusion::common::TableReference;
use datafusion::logical_expr::{CreateMemoryTable, CreateView, DdlStatement, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};

use crate::args::command::Format;
use crate::session::readable;
use crate::sql::print::{Out, print};
use crate::sql::script;

/// What statements run in: a session, the values of their parameters, and the format of their results.
#[derive(Clone)]
pub(crate) struct Sql {
    pub(crate) ctx: SessionContext,
    pub(crate) params: Params,
    pub(crate) format: Format,
}

impl Sql {
    /// Parses the statements of a text.
    pub(crate) fn parse(&self, text: &str) -> Result<Vec<Statement>> {
        let name = self.ctx.copied_config().options().sql_parser.dialect.to_string();
        let dialect: Box<dyn Dialect> = dialect_from_str(name).unwrap_or_else(|| Box::new(GenericDialect {}));
        let statements = DFParser::parse_sql_with_dialect(script::unmarked(text), dialect.as_ref());
        Ok(statements.map_err(|e| readable(&e))?.into())
    }

    /// Runs one statement and prints its result. Returns the number of rows.
    pub(crate) async fn execute(&self, mut statement: Statement, out: Out<'_>) -> Result<usize> {
        self.params.bind(&mut statement).map_err(|e| anyhow!(e))?;
        let plan = self.ctx.state().statement_to_plan(statement).await.map_err(|e| readable(&e))?;
        let plan = creating(&self.ctx, plan);
        let rows = async { self.ctx.execute_logical_plan(plan.clone()).await?.execute_stream().await };
        let printed = match rows.await {
            Ok(rows) => print(self.format, rows, out).await,
            Err(e) => Err(readable(&e)),
        };
        printed.map_err(|e| match e.to_string() {
            text if text.contains(NOT_UTF8) => bad_text(&plan).map_or(e, |place| anyhow!("{place} ({text})")),
            _ => e,
        })
    }
}

/// CREATE TABLE and CREATE VIEW of a name that no table has: DataFusion would take a file or folder of that name for the
/// table, and refuse the statement or, with IF NOT EXISTS, skip it.
fn creating(ctx: &SessionContext, plan: LogicalPlan) -> LogicalPlan {
    let is_new = |name: &TableReference| matches!(ctx.table_exist(name.clone()), Ok(false));
    match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) if is_new(&table.name) => {
            let table = CreateMemoryTable { if_not_exists: false, or_replace: true, ..table };
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table))
        }
        LogicalPlan::Ddl(DdlStatement::CreateView(view)) if is_new(&view.name) => {
            LogicalPlan::Ddl(DdlStatement::CreateView(CreateView { or_replace: true, ..view }))
        }
        other => other,
    }
}
