//! Sound Parquet scans: results match the files' contents whatever their footers say.
//!
//! Parquet's minimum and maximum of a float column ignore NaN. From them, DataFusion 55 takes a column whose minimum
//! equals its maximum for a constant, so that NaN becomes 0.5 (<https://github.com/apache/datafusion/issues/15812>),
//! skips files, row groups and pages in which a filter could match NaN, which its order puts above all numbers, and
//! answers `max(x)`. [`SoundScans`] removes these statistics of floats and keeps those of other columns. Its [`reader`]
//! also makes Parquet check that texts are UTF-8.

mod reader;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use reader::SoundReaders;

/// Makes the session's Parquet scans sound, as [`crate::register`] does for sessions with the functions: NaN is neither
/// lost nor replaced by another number, and invalid UTF-8 in a text column is an error.
pub fn sound_scans(ctx: &SessionContext) {
    let state = ctx.state_ref();
    let mut state = state.write();
    if state.physical_optimizers().iter().any(|rule| rule.name() == NAME) {
        return;
    }
    // First, because the other rules use the statistics.
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(SoundScans)];
    rules.extend(state.physical_optimizers().iter().map(Arc::clone));
    *state = SessionStateBuilder::new_from_existing(state.clone()).with_physical_optimizer_rules(rules).build();
}

const NAME: &str = "capfilt_sound_scans";

/// Rewrites the Parquet scans of a plan; see the module.
#[derive(Debug)]
struct SoundScans;

impl PhysicalOptimizerRule for SoundScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_down(|node| {
            // deltalake-core's scan of a table with deletion vectors requires the source that it was planned with. It
            // pushes no row filter into it, so only the statistics need to change.
            if node.name() == "DeltaScanExec" {
                let both = Arc::clone(&node).map_children(|child| sound(child, true));
                let changed = both.or_else(|_| node.map_children(|child| sound(child, false)))?;
                return Ok(Transformed::new(changed.data, changed.transformed, TreeNodeRecursion::Jump));
            }
            one(node, true)
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        NAME
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn sound(plan: Arc<dyn ExecutionPlan>, readers: bool) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    plan.transform_down(|node| one(node, readers))
}

/// Rewrites an operator that is a Parquet scan, with its readers if `readers`.
fn one(node: Arc<dyn ExecutionPlan>, readers: bool) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(exec) = node.downcast_ref::<DataSourceExec>() else { return Ok(Transformed::no(node)) };
    let Some(config) = exec.data_source().downcast_ref::<FileScanConfig>() else { return Ok(Transformed::no(node)) };
    let Some(source) = config.file_source().downcast_ref::<ParquetSource>() else { return Ok(Transformed::no(node)) };
    let mut builder = without_floats(config);
    if readers {
        builder = builder.with_source(sound_source(source, config));
    }
    let exec = exec.clone().with_data_source(Arc::new(builder.build()));
    Ok(Transformed::yes(Arc::new(exec)))
}

fn sound_source(source: &ParquetSource, config: &FileScanConfig) -> Arc<dyn FileSource> {
    let source = source.clone();
    Arc::new(match source.parquet_file_reader_factory().map(Arc::clone) {
        Some(inner) => {
            let readers = SoundReaders::new(inner, Arc::clone(config.file_schema()));
            source.with_parquet_file_reader_factory(Arc::new(readers))
        }
        // A hand-made scan without the reader factory of DataFusion's own tables: disable skipping.
        None => {
            let mut options = source.table_parquet_options().clone();
            options.global.pruning = false;
            options.global.enable_page_index = false;
            source.with_table_parquet_options(options)
        }
    })
}

/// Removes minima and maxima of floats from the statistics of each file, each group of files, and the whole scan.
fn without_floats(config: &FileScanConfig) -> FileScanConfigBuilder {
    let builder = FileScanConfigBuilder::from(config.clone());
    let schema = config.file_schema();
    if !schema.fields().iter().any(|field| has_floats(field.data_type())) {
        return builder;
    }
    let groups = config.file_groups.iter().map(|group| {
        let summary = group.file_statistics(None).cloned();
        let files = group.iter().cloned().map(|mut file| {
            if let Some(statistics) = file.statistics.take() {
                file.statistics = Some(Arc::new(forget(Arc::unwrap_or_clone(statistics), schema)));
            }
            file
        });
        let group = FileGroup::new(files.collect());
        match summary {
            Some(summary) => group.with_statistics(Arc::new(forget(summary, schema))),
            None => group,
        }
    });
    let groups = groups.collect();
    // The source's filter, if any, makes these inexact again when they are read.
    let all = forget(config.statistics(), schema);
    builder.with_file_groups(groups).with_statistics(all)
}

/// Removes statistics that ignore NaN. The file's columns come first, partition columns from its path follow.
fn forget(mut statistics: Statistics, schema: &Schema) -> Statistics {
    for (column, field) in statistics.column_statistics.iter_mut().zip(schema.fields()) {
        if has_floats(field.data_type()) {
            column.min_value = Precision::Absent;
            column.max_value = Precision::Absent;
            column.sum_value = Precision::Absent;
        }
    }
    statistics
}

fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_floats(values),
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        other => other.is_floating(),
    }
}

#[cfg(test)]
mod tests;
