//! Query scopes: link a function call to its query, so that dropping the query stops the engine's work for it.
//!
//! DataFusion passes a function neither its query nor that query's cancellation: a task blocked in a function cannot be
//! aborted, nor can one that iterates over the pairs of a join. [`QueryScopeRule`] therefore puts a [`QueryScopeExec`]
//! over the plan's root, over each operator that calls this crate's functions, and over each that can multiply rows.
//! While such an operator is polled, the thread's current token is its query's, where a call finds it. When the root's
//! last stream is dropped or the session's client cancels its running work, the token is cancelled: waiting calls end
//! within one slice, and operators at their next batch.
//!
//! The same scope counts the work that the engine does for its operator, as metrics for EXPLAIN ANALYZE.

mod current;
mod point;
#[cfg(test)]
mod tests;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::metrics::{Count, Metric, MetricValue, MetricsSet, Time};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::{Stream, StreamExt};

use crate::config::CapfiltOptions;
use crate::engine::{CancelToken, Client, Meter};
use crate::functions::section::is_ours;
use current::{CURRENT, alive};

pub use current::current_query;
pub(crate) use current::{check_cancelled, current_scope};

/// One execution of a plan. Its streams hold it; dropping the last one cancels the token.
#[derive(Debug)]
struct Execution(CancelToken);

impl Drop for Execution {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// State shared by the scopes of one plan. Executing the plan again creates a new token.
#[derive(Debug)]
struct Query {
    running: Mutex<Weak<Execution>>,
    /// The session's client, which can cancel the query.
    client: Option<Client>,
}

impl Query {
    /// The running execution, else a new one.
    fn begin(&self) -> Arc<Execution> {
        let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        running.upgrade().unwrap_or_else(|| {
            let execution = Arc::new(Execution(CancelToken::new()));
            if let Some(client) = &self.client {
                client.cancel_with_others(&execution.0);
            }
            *running = Arc::downgrade(&execution);
            execution
        })
    }
}

/// Inserts the scopes. Runs last, so that no other rule sees them.
#[derive(Debug)]
pub(crate) struct QueryScopeRule;

impl PhysicalOptimizerRule for QueryScopeRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let client = config.extensions.get::<CapfiltOptions>().map(|options| options.client().clone());
        let query = Arc::new(Query { running: Mutex::default(), client });
        let mut found = false;
        let plan = plan.transform_up(|node| {
            use datafusion::common::tree_node::Transformed;
            // A join, or another operator with several inputs.
            let makes_rows = node.children().len() > 1 || node.downcast_ref::<UnnestExec>().is_some();
            let calls = calls(&node)?;
            if node.downcast_ref::<QueryScopeExec>().is_some() || !makes_rows && calls.is_empty() {
                return Ok(Transformed::no(node));
            }
            found = true;
            let node = point::in_condition(node)?;
            Ok(Transformed::yes(QueryScopeExec::wrap(node, &query, calls, false)))
        })?;
        Ok(if found { QueryScopeExec::wrap(plan.data, &query, vec![], true) } else { plan.data })
    }

    fn name(&self) -> &str {
        "capfilt_query_scope"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Calls of this crate's functions in an operator's own expressions.
fn calls(node: &Arc<dyn ExecutionPlan>) -> Result<Vec<String>> {
    let mut found = vec![];
    node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        expr.apply(|e| {
            if e.downcast_ref::<ScalarFunctionExpr>().is_some_and(|f| is_ours(f.fun())) {
                let call = e.to_string();
                if !found.contains(&call) {
                    found.push(call);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(found)
}

/// Passes its input through with the query's token set; see the module.
#[derive(Debug, Clone)]
struct QueryScopeExec {
    input: Arc<dyn ExecutionPlan>,
    query: Arc<Query>,
    /// Calls that the input evaluates.
    calls: Vec<String>,
    /// Work that these calls gave the engine, over all executions.
    meter: Meter,
    /// Whether this is the plan's root, whose streams define the query's lifetime.
    root: bool,
}

impl QueryScopeExec {
    fn wrap(
        input: Arc<dyn ExecutionPlan>,
        query: &Arc<Query>,
        calls: Vec<String>,
        root: bool,
    ) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, query: Arc::clone(query), calls, meter: Meter::default(), root })
    }
}

impl DisplayAs for QueryScopeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueryScopeExec")?;
        if self.calls.is_empty() { Ok(()) } else { write!(f, ": calls=[{}]", self.calls.join(", ")) }
    }
}

impl ExecutionPlan for QueryScopeExec {
    fn name(&self) -> &str {
        "QueryScopeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Self::wrap(input, &self.query, self.calls.clone(), self.root)),
            _ => datafusion::common::internal_err!("QueryScopeExec has one child"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    /// Metrics that are not zero, of the calls.
    fn metrics(&self) -> Option<MetricsSet> {
        if self.calls.is_empty() {
            return None;
        }
        let mut metrics = MetricsSet::new();
        for (name, n) in self.meter.counts().into_iter().filter(|(_, n)| *n > 0) {
            let count = Count::new();
            count.add(usize::try_from(n).unwrap_or(usize::MAX));
            metrics.push(Arc::new(Metric::new(MetricValue::Count { name: name.into(), count }, None)));
        }
        for (name, spent) in self.meter.times().into_iter().filter(|(_, spent)| !spent.is_zero()) {
            let time = Time::new();
            time.add_duration(spent);
            metrics.push(Arc::new(Metric::new(MetricValue::Time { name: name.into(), time }, None)));
        }
        Some(metrics)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        // Must precede the creation of the input's streams, so that they belong to the same execution.
        let execution = self.query.begin();
        let token = execution.0.clone();
        if !self.root {
            let inner = self.input.execute(partition, context)?;
            let scope = (token, self.meter.clone());
            return Ok(Box::pin(QueryScopeStream { inner, scope, _execution: None }));
        }
        // A separate task drives the input: a caller that polled it would itself block in a function's call and could
        // drop nothing.
        let mut task = RecordBatchReceiverStream::builder(self.schema(), 1);
        let (batches, input) = (task.tx(), Arc::clone(&self.input));
        task.spawn(async move {
            let mut stream = input.execute(partition, context)?;
            while let Some(batch) = stream.next().await {
                if batches.send(batch).await.is_err() {
                    // The receiver was dropped.
                    break;
                }
            }
            Ok(())
        });
        let scope = (token, self.meter.clone());
        Ok(Box::pin(QueryScopeStream { inner: task.build(), scope, _execution: Some(execution) }))
    }
}

struct QueryScopeStream {
    // Dropped first: operators below see the cancelled token only if the root is gone.
    _execution: Option<Arc<Execution>>,
    scope: (CancelToken, Meter),
    inner: SendableRecordBatchStream,
}

impl Stream for QueryScopeStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        /// Restores the thread's previous scope, even if the poll panics.
        struct Restore(Option<(CancelToken, Meter)>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        if let Err(cancelled) = alive(&self.scope.0) {
            return Poll::Ready(Some(Err(cancelled)));
        }
        let _restore = Restore(CURRENT.replace(Some(self.scope.clone())));
        self.inner.poll_next_unpin(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl RecordBatchStream for QueryScopeStream {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}
