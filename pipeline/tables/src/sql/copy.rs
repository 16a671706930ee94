//! Checks of where SQL may write, and folder names for PARTITIONED BY.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, Result, plan_err};
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use crate::lake::location::Lake;
use crate::lake::register;
use crate::sql::hive;
use crate::sql::named::file_url;
use crate::store::url::{is_url, shown};

/// Analyzer rule that checks and rewrites each COPY before it runs, and refuses changes of Delta tables.
#[derive(Debug)]
pub(crate) struct CheckedCopy;

impl AnalyzerRule for CheckedCopy {
    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = plan.transform_down(|node| match node {
            LogicalPlan::Copy(copy) => Ok(Transformed::yes(LogicalPlan::Copy(checked(copy, config)?))),
            LogicalPlan::Dml(write) => {
                register::check_write(&write)?;
                Ok(Transformed::no(LogicalPlan::Dml(write)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "capfilt_checked_copy"
    }
}

fn checked(copy: CopyTo, config: &ConfigOptions) -> Result<CopyTo> {
    let Some(path) = on_disk(&copy.output_url) else {
        return plan_err!(
            "COPY .. TO '{}': SQL writes to disks, and not to stores: give a path, and upload what is written there \
             (aws s3 cp, gcloud storage cp, azcopy)",
            shown(&copy.output_url)
        );
    };
    if let Some((table, lake)) = lake_above(&path) {
        return plan_err!(
            "COPY .. TO '{}': {} is a {table} table, and a file that its log does not name is not part of it: give another \
             path, or write the table with capfilt run --table-format delta",
            copy.output_url,
            lake.display()
        );
    }
    // The target is a plain name, even if it contains characters of a pattern.
    let is_folder = copy.output_url.ends_with('/') || path.is_dir();
    let output_url = if is_url(&copy.output_url) { None } else { file_url(&path, is_folder) };
    let copy = CopyTo { output_url: output_url.unwrap_or(copy.output_url), ..copy };
    if copy.partition_by.is_empty() {
        return Ok(copy);
    }
    let kept = copy.options.get("execution.keep_partition_by_columns").map(|value| value.trim() == "true");
    if kept.unwrap_or(config.execution.keep_partition_by_columns) {
        return plan_err!(
            "COPY .. PARTITIONED BY: a column that the folders tell is none of the files, which no reader would know what to do \
             with: leave execution.keep_partition_by_columns at false, or select the column twice, AS another name"
        );
    }
    // DataFusion's writer treats NULL as an empty text, or as 0.
    let input = Arc::unwrap_or_clone(copy.input);
    let columns = input.schema().iter().map(|(relation, field)| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        Ok(match copy.partition_by.contains(field.name()) {
            true => hive::folder_name(column)?.alias_qualified(relation.cloned(), field.name()),
            false => column,
        })
    });
    let columns = columns.collect::<Result<Vec<Expr>>>()?;
    let input = Arc::new(LogicalPlanBuilder::from(input).project(columns)?.build()?);
    Ok(CopyTo { input, ..copy })
}

/// Local path that a COPY writes to; `None` if it is in a store.
fn on_disk(to: &str) -> Option<PathBuf> {
    if !is_url(to) {
        return Some(PathBuf::from(to));
    }
    url::Url::parse(to).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
}

/// Lakehouse table that a path is or lies in: the name of its format, and its folder.
pub(crate) fn lake_above(path: &Path) -> Option<(&'static str, PathBuf)> {
    let whole = std::path::absolute(path).ok()?;
    whole.ancestors().find_map(|folder| {
        let table = register::of(&Lake::Disk(folder.to_owned())).ok()??;
        Some((table.name(), folder.to_owned()))
    })
}
