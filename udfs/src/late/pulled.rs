//! A plan before and after its costly columns are computed.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;

use super::deferred::Deferred;

/// A plan in two forms with the same rows.
pub(super) struct Pulled {
    /// The best complete plan.
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// A plan that leaves costly columns to operators above.
    pub(super) late: Option<Deferred>,
}

impl Pulled {
    pub(super) fn complete(plan: Arc<dyn ExecutionPlan>) -> Self {
        Self { plan, late: None }
    }

    /// Completes `late` at once for the complete form, since the operator below it drops rows.
    pub(super) fn reduced(late: Deferred) -> Result<Self> {
        let plan = late.clone().close()?;
        Ok(Self { plan, late: Some(late).filter(|late| !late.is_none()) })
    }

    pub(super) fn deferred(&self) -> Deferred {
        self.late.clone().unwrap_or_else(|| Deferred::none(&self.plan))
    }
}
