//! Moves deferred columns and predicates up the plan; see [`deferred`](super::deferred).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinSide, JoinType, Result};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use super::deferred::{Deferred, Pending, Predicate, column, columns, moved, named, placeholder, unique};
use super::fence::Fence;
use super::keys;
use super::predicate::{all_of, lazy};
use super::pulled::Pulled;
use crate::cost::{self, Cost};

/// Minimum cost at which an expression is evaluated above a join, where rows may repeat: models and fetches cache their
/// results.
const REMEMBERED: Cost = Cost::EMBED;

fn with_children(
    node: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if node.children().iter().zip(&children).all(|(old, new)| Arc::ptr_eq(old, new)) {
        return Ok(Arc::clone(node));
    }
    Arc::clone(node).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

pub(super) fn pull(node: &Arc<dyn ExecutionPlan>) -> Result<Pulled> {
    if let Some(pulled) = keys::sort(node, pull)?.filter(|pulled| pulled.plan.schema() == node.schema()) {
        return Ok(pulled);
    }
    let mut inputs = node.children().into_iter().map(pull).collect::<Result<Vec<_>>>()?;
    let pulled = match inputs.as_slice() {
        [input] => {
            if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
                project(node, projection, input)?
            } else if let Some(filter) = node.downcast_ref::<FilterExec>() {
                self::filter(filter, input)?
            } else if let Some(sort) = node.downcast_ref::<SortExec>() {
                let keys = sort.expr().iter().flat_map(|key| columns(&key.expr)).collect();
                if sort.fetch().is_some() { limit(node, keys, input)? } else { None }
            } else if node.downcast_ref::<GlobalLimitExec>().is_some()
                || node.downcast_ref::<LocalLimitExec>().is_some()
            {
                limit(node, HashSet::new(), input)?
            } else {
                None
            }
        }
        [left, right] => {
            if let Some(join) = node.downcast_ref::<HashJoinExec>() {
                hash_join(join, left, right)?
            } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
                Some(nested_loop_join(join, left, right)?)
            } else {
                None
            }
        }
        _ => None,
    };
    match pulled {
        // A rewrite that changed the schema would fail the whole query, so the plan is kept as it was.
        Some(pulled) if pulled.plan.schema() == node.schema() => Ok(pulled),
        _ => Ok(Pulled::complete(with_children(node, inputs.drain(..).map(|input| input.plan).collect())?)),
    }
}

fn project(node: &Arc<dyn ExecutionPlan>, projection: &ProjectionExec, input: &Pulled) -> Result<Option<Pulled>> {
    let calls = own_cost(node)? > Cost::FREE;
    if !calls && input.late.is_none() {
        return Ok(None);
    }
    let below = if calls { Fence::over(Arc::clone(&input.plan)) } else { Arc::clone(&input.plan) };
    let plan = with_children(node, vec![below])?;

    // Volatile expressions and the columns that they need are computed here.
    let mut stays = HashSet::new();
    let mut movable = vec![];
    for ProjectionExpr { expr, .. } in projection.expr() {
        movable.push(cost::is_movable(expr)?);
        if movable.last() == Some(&false) {
            stays.extend(columns(expr));
        }
    }
    let below = input.deferred().settle(stays)?;
    let mut out = Outputs::new(&below, node.schema());
    let input_schema = input.plan.schema();
    for (slot, (ProjectionExpr { expr, alias }, movable)) in projection.expr().iter().zip(&movable).enumerate() {
        let late =
            *movable && (cost::of(expr)? > Cost::FREE || columns(expr).iter().any(|column| below.is_pending(*column)));
        let field = expr.return_field(&input_schema)?;
        match expr.downcast_ref::<Column>().map(Column::index) {
            // A deferred column stays deferred under its new index and name; a second occurrence is a copy.
            Some(from) if late && !out.to.contains_key(&from) => {
                out.to.insert(from, slot);
                out.renamed.insert(from, alias.clone());
                out.hold(&field)?;
            }
            _ if late => {
                out.added.push((slot, alias.clone(), Arc::clone(expr)));
                out.hold(&field)?;
            }
            from => {
                if let Some(from) = from {
                    out.to.entry(from).or_insert(slot);
                }
                out.exprs.push(ProjectionExpr { expr: named(expr, &below.plan.schema())?, alias: alias.clone() });
            }
        }
    }
    Ok(Some(Pulled { plan, late: out.build()? }))
}

/// Columns of a projection over a plan with deferred columns.
struct Outputs<'a> {
    below: &'a Deferred,
    schema: SchemaRef,
    exprs: Vec<ProjectionExpr>,
    /// Output index of each input column.
    to: HashMap<usize, usize>,
    /// New names of deferred input columns.
    renamed: HashMap<usize, String>,
    /// Output columns deferred here: index, name, and expression over the input.
    added: Vec<(usize, String, Arc<dyn PhysicalExpr>)>,
}

impl<'a> Outputs<'a> {
    fn new(below: &'a Deferred, schema: SchemaRef) -> Self {
        let (to, renamed) = (HashMap::new(), HashMap::new());
        Self { below, schema, exprs: vec![], to, renamed, added: vec![] }
    }

    /// Adds a placeholder. Its name is unique, since other rules look up columns by name.
    fn hold(&mut self, field: &Field) -> Result<()> {
        let alias = unique("later");
        self.exprs.push(ProjectionExpr { expr: placeholder(field)?, alias });
        Ok(())
    }

    /// Keeps an input column, as an extra column if it is not an output.
    fn keep(&mut self, from: usize) -> Result<()> {
        if self.to.contains_key(&from) {
            return Ok(());
        }
        let schema = self.below.plan.schema();
        self.to.insert(from, self.exprs.len());
        if self.below.is_pending(from) {
            return self.hold(schema.field(from));
        }
        self.exprs.push(ProjectionExpr { expr: column(&schema, from), alias: unique("extra") });
        Ok(())
    }

    /// `None` if nothing is deferred.
    fn build(mut self) -> Result<Option<Deferred>> {
        let below = self.below;
        let added = std::mem::take(&mut self.added);
        for from in added.iter().flat_map(|(_, _, expr)| columns(expr)) {
            self.keep(from)?;
        }
        for from in below.predicates.iter().flat_map(|predicate| columns(&predicate.expr)) {
            self.keep(from)?;
        }
        // Last to first: a deferred column depends only on earlier ones.
        for pending in below.pending.iter().rev() {
            if self.to.contains_key(&pending.slot) {
                for from in columns(&pending.expr) {
                    self.keep(from)?;
                }
            }
        }
        let mut input = Arc::clone(&below.plan);
        for ProjectionExpr { expr, .. } in &self.exprs {
            if cost::of(expr)? > Cost::FREE {
                input = Fence::over(input);
            }
        }
        let plan: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new(self.exprs, input)?);
        let schema = plan.schema();
        let mut pending = vec![];
        for Pending { slot, name, expr } in &below.pending {
            if let Some(to) = self.to.get(slot) {
                let name = self.renamed.get(slot).unwrap_or(name).clone();
                pending.push(Pending { slot: *to, name, expr: moved(expr, &self.to, &schema)? });
            }
        }
        for (slot, name, expr) in added {
            pending.push(Pending { slot, name, expr: moved(&expr, &self.to, &schema)? });
        }
        let mut predicates = vec![];
        for Predicate { expr, of } in &below.predicates {
            predicates.push(Predicate { expr: moved(expr, &self.to, &schema)?, of: Arc::clone(of) });
        }
        let deferred = Deferred { plan, schema: self.schema, pending, predicates };
        Ok(Some(deferred).filter(|deferred| !deferred.is_none()))
    }
}

fn filter(filter: &FilterExec, input: &Pulled) -> Result<Option<Pulled>> {
    if filter.projection().is_some() || filter.fetch().is_some() {
        return Ok(None);
    }
    let mut open = input.deferred();
    let of = Arc::new(filter.clone());
    let (mut cheap, mut costly) = (vec![], vec![]);
    for term in split_conjunction(filter.predicate()) {
        match open.cost(term)? {
            Cost::FREE => cheap.push(Arc::clone(term)),
            cost => costly.push((cost, Predicate { expr: Arc::clone(term), of: Arc::clone(&of) })),
        }
    }
    if costly.is_empty() && input.late.is_none() {
        return Ok(None);
    }
    if let Some(expr) = all_of(cheap) {
        open = open.apply(&Predicate { expr, of })?;
    }
    let mut late = open.clone();
    for (cost, predicate) in costly {
        open.predicates.push(predicate.clone());
        if cost >= REMEMBERED && cost::is_movable(&predicate.expr)? {
            late.predicates.push(predicate);
        } else {
            late = late.apply(&predicate)?;
        }
    }
    let plan = open.close()?;
    Ok(Some(Pulled { plan, late: Some(late).filter(|late| !late.is_none()) }))
}

/// Defers columns above an operator that drops rows by `keys` or by row number.
fn limit(node: &Arc<dyn ExecutionPlan>, keys: HashSet<usize>, input: &Pulled) -> Result<Option<Pulled>> {
    let Some(late) = input.late.clone() else { return Ok(None) };
    let mut late = late.apply_predicates()?.settle(keys)?;
    if late.is_none() {
        return Ok(None);
    }
    late.plan = with_children(node, vec![late.plan])?;
    Pulled::reduced(late).map(Some)
}

fn lazy_join_filter(filter: Option<&JoinFilter>) -> Result<Option<JoinFilter>> {
    let lazily = |filter: &JoinFilter| {
        let expr = lazy(filter.expression())?;
        Ok(JoinFilter::new(expr, filter.column_indices().to_vec(), Arc::clone(filter.schema())))
    };
    filter.map(lazily).transpose()
}

fn nested_loop_join(join: &NestedLoopJoinExec, left: &Pulled, right: &Pulled) -> Result<Pulled> {
    let (left, right) = (Arc::clone(&left.plan), Arc::clone(&right.plan));
    let join = NestedLoopJoinExecBuilder::new(left, right, *join.join_type())
        .with_filter(lazy_join_filter(join.filter())?)
        .with_projection_ref(join.projection().clone())
        .build()?;
    Ok(Pulled::complete(Arc::new(join)))
}

/// One side of a join, with the columns that the join does not need still deferred.
fn side(input: &Pulled, passes: bool, needed: HashSet<usize>) -> Result<Deferred> {
    let complete = Deferred::none(&input.plan);
    let Some(late) = input.late.clone().filter(|_| passes) else { return Ok(complete) };
    // An uncached expression would be computed once per joined row.
    let mut settled = needed;
    for pending in &late.pending {
        if late.cost(&pending.expr)? < REMEMBERED {
            settled.insert(pending.slot);
        }
    }
    let late = late.settle(settled)?;
    Ok(if late.is_none() { complete } else { late })
}

fn hash_join(join: &HashJoinExec, left: &Pulled, right: &Pulled) -> Result<Option<Pulled>> {
    let filter = lazy_join_filter(join.filter())?;
    // A side that the join pads with NULL has output rows that differ from its own.
    let (left_passes, right_passes) = match join.join_type() {
        JoinType::Inner => (true, true),
        JoinType::LeftSemi | JoinType::LeftAnti => (true, false),
        JoinType::RightSemi | JoinType::RightAnti => (false, true),
        _ => (false, false),
    };
    let keys = |side: JoinSide| -> HashSet<usize> {
        let on = join.on().iter().flat_map(|(l, r)| columns(if side == JoinSide::Left { l } else { r }));
        let filter = join.filter().into_iter().flat_map(|f| f.column_indices());
        on.chain(filter.filter(|c| c.side == side).map(|c| c.index)).collect()
    };
    // The planner creates joins without a projection; a later rule adds it.
    let whole = !join.contains_projection();
    let l = side(left, whole && left_passes, keys(JoinSide::Left))?;
    let r = side(right, whole && right_passes, keys(JoinSide::Right))?;
    let builder = join.builder().reset_state().with_filter(filter);
    if l.is_none() && r.is_none() {
        let children = vec![Arc::clone(&left.plan), Arc::clone(&right.plan)];
        let join = builder.recompute_properties().with_new_children(children)?.build_exec()?;
        return Ok(Some(Pulled::complete(join)));
    }

    // Output order: first the join's own columns of both sides, then the extra ones.
    let wide = |side: &Deferred| side.plan.schema().fields().len();
    let (l_out, r_out) = match join.join_type() {
        JoinType::Inner => (true, true),
        _ => (left_passes, right_passes),
    };
    let (l_width, l_wide) = if l_out { (l.schema.fields().len(), wide(&l)) } else { (0, 0) };
    let (r_width, r_wide) = if r_out { (r.schema.fields().len(), wide(&r)) } else { (0, 0) };
    let order: Vec<usize> = (0..l_width)
        .chain(l_wide..l_wide + r_width)
        .chain(l_width..l_wide)
        .chain(l_wide + r_width..l_wide + r_wide)
        .collect();
    let place: HashMap<usize, usize> = order.iter().enumerate().map(|(to, from)| (*from, to)).collect();
    let plan = builder
        .with_new_children(vec![Arc::clone(&l.plan), Arc::clone(&r.plan)])?
        .with_projection(Some(order))
        .build_exec()?;
    let schema = plan.schema();
    let mut late = Deferred { plan, schema: join.schema(), pending: vec![], predicates: vec![] };
    for (side, offset, wide) in [(l, 0, l_wide), (r, l_wide, r_wide)] {
        let to: HashMap<usize, usize> = (0..wide).map(|slot| (slot, place[&(slot + offset)])).collect();
        for Pending { slot, name, expr } in side.pending {
            late.pending.push(Pending { slot: to[&slot], name, expr: moved(&expr, &to, &schema)? });
        }
        for Predicate { expr, of } in side.predicates {
            late.predicates.push(Predicate { expr: moved(&expr, &to, &schema)?, of });
        }
    }
    Pulled::reduced(late).map(Some)
}

/// Cost per row of an operator's own expressions.
pub(super) fn own_cost(node: &Arc<dyn ExecutionPlan>) -> Result<Cost> {
    let mut cost = Cost::FREE;
    node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        cost = cost.plus(cost::of(expr)?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(cost)
}
