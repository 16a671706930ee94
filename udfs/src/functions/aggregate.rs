//! Shared parts of the SQL aggregates: planning-time checks of arguments, skipping of rows with a NULL, documentation.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Signature, Volatility};

use super::page::Page;
use super::section::SECTION;
use super::{text_arg, udf};
use crate::metrics::MetricError;

/// A SQL aggregate: its signature and documentation as data, and its computation. Returns a Float64, NULL if no row
/// counts.
pub(crate) trait SqlAggregate: Debug + Send + Sync + 'static {
    const NAME: &'static str;
    const ALIAS: Option<&'static str> = None;
    const DESCRIPTION: &'static str;
    const ARGS: &'static [AggregateArg];
    /// How many of the last arguments may be left out.
    const OPTIONAL: usize = 0;
    const EXAMPLE: &'static str;
    const RELATED: &'static [&'static str];

    /// Accumulator over the rows.
    type Stats: Debug + Default + Send + Sync;

    /// Column types of the state passed between partitions.
    fn state_types() -> Vec<DataType>;
    /// Adds rows; there is a column for each argument given, of the type of [`AggregateArg::data_type`].
    fn add(stats: &mut Self::Stats, columns: &[ArrayRef]) -> Result<()>;
    fn state(stats: &Self::Stats) -> Vec<ScalarValue>;
    /// Merges states, one per row.
    fn merge(stats: &mut Self::Stats, states: &[ArrayRef]) -> Result<()>;
    fn score(stats: &Self::Stats) -> Option<f64>;

    /// Heap size in bytes.
    fn heap_size(_: &Self::Stats) -> usize {
        0
    }
}

/// An argument of an aggregate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AggregateArg {
    Candidate,
    References,
    /// A whole number.
    Number(&'static str, &'static str),
    /// A number.
    Float(&'static str, &'static str),
}

/// The arguments of the caption metrics.
pub(crate) const CAPTION_ARGS: &[AggregateArg] = &[AggregateArg::Candidate, AggregateArg::References];

impl AggregateArg {
    fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::References => "refs",
            Self::Number(name, _) | Self::Float(name, _) => name,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Candidate => "The caption to score; its tokens are what stands between blanks",
            Self::References => "A list of reference captions, or a single one",
            Self::Number(_, description) | Self::Float(_, description) => description,
        }
    }

    /// Type that the argument is cast to.
    fn data_type(self) -> DataType {
        match self {
            Self::Candidate => DataType::Utf8,
            Self::References => DataType::new_list(DataType::Utf8, true),
            Self::Number(..) => DataType::Int64,
            Self::Float(..) => DataType::Float64,
        }
    }

    /// Returns a plan error unless the argument can be cast from this type.
    fn check_type(self, function: &str, given: &DataType) -> Result<()> {
        let wanted = match self {
            Self::Candidate => "a string",
            Self::References => "a list of strings, or a string",
            Self::Number(..) => "a whole number",
            Self::Float(..) => "a number",
        };
        let fits = match self {
            Self::Candidate => is_text(given),
            Self::References => is_text(given) || text_arg::is_list(given),
            Self::Number(..) => given.is_integer(),
            Self::Float(..) => given.is_numeric(),
        };
        if *given == DataType::Null || fits && can_cast_types(given, &self.data_type()) {
            return Ok(());
        }
        plan_err!("{function}: argument {} must be {wanted}, not {given}", self.name())
    }
}

fn is_text(given: &DataType) -> bool {
    text_arg::check_type("", "", given).is_ok()
}

/// Calls `add` with each row's candidate and references, skipping NULL references.
pub(crate) fn each_caption(
    columns: &[ArrayRef],
    mut add: impl FnMut(&str, &[&str]) -> std::result::Result<(), MetricError>,
) -> Result<()> {
    let (candidates, references) = (columns[0].as_string::<i32>(), columns[1].as_list::<i32>());
    for (row, candidate) in candidates.iter().enumerate() {
        let Some(candidate) = candidate else { continue };
        if references.is_null(row) {
            continue;
        }
        let references = references.value(row);
        let references: Vec<&str> = references.as_string::<i32>().iter().flatten().collect();
        add(candidate, &references).map_err(refused)?;
    }
    Ok(())
}

/// Converts a metric's error to an error of the query.
pub(crate) fn refused(error: MetricError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Adapter from [`SqlAggregate`] to DataFusion.
pub(crate) struct Udaf<F> {
    signature: Signature,
    aliases: Vec<String>,
    documentation: Documentation,
    function: PhantomData<F>,
}

impl<F: SqlAggregate> Udaf<F> {
    pub(crate) fn create() -> AggregateUDF {
        let mut documentation =
            Documentation::builder(SECTION, F::DESCRIPTION, syntax::<F>()).with_sql_example(F::EXAMPLE);
        for arg in F::ARGS {
            documentation = documentation.with_argument(arg.name(), arg.description());
        }
        for related in F::RELATED {
            documentation = documentation.with_related_udf(*related);
        }
        AggregateUDF::from(Self {
            signature: Signature::new(udf::signature(examples::<F>()), Volatility::Immutable),
            aliases: F::ALIAS.into_iter().map(Into::into).collect(),
            documentation: documentation.build(),
            function: PhantomData,
        })
    }

    fn named(error: DataFusionError) -> DataFusionError {
        error.context(F::NAME)
    }
}

/// Argument types after casts, without and with the optional ones, and for caption metrics also a single reference.
fn examples<F: SqlAggregate>() -> Vec<Vec<DataType>> {
    let types: Vec<DataType> = F::ARGS.iter().map(|arg| arg.data_type()).collect();
    let mut examples: Vec<_> = (required::<F>()..=types.len()).map(|given| types[..given].to_vec()).collect();
    if let [first, AggregateArg::References] = F::ARGS {
        examples.push(vec![first.data_type(), DataType::Utf8]);
    }
    examples
}

fn required<F: SqlAggregate>() -> usize {
    F::ARGS.len() - F::OPTIONAL
}

fn syntax<F: SqlAggregate>() -> String {
    let names: Vec<&str> = F::ARGS.iter().map(|arg| arg.name()).collect();
    let (required, optional) = names.split_at(required::<F>());
    let optional: String = optional.iter().map(|name| format!(" [, {name}]")).collect();
    format!("{}({}{optional})", F::NAME, required.join(", "))
}

/// Page of the documentation.
pub(crate) fn page<F: SqlAggregate>() -> Page {
    Page {
        name: F::NAME,
        syntax: syntax::<F>(),
        returns: "Float64",
        description: F::DESCRIPTION,
        arguments: F::ARGS.iter().map(|a| (a.name(), a.description().into())).collect(),
        options: &[],
        example: F::EXAMPLE,
        related: F::RELATED,
    }
}

impl<F: SqlAggregate> AggregateUDFImpl for Udaf<F> {
    fn name(&self) -> &str {
        F::NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Accepts all types (see [`udf::signature`]): [`Self::return_type`] reports errors, [`Rows::update_batch`] casts.
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        Ok(given.to_vec())
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        if !(required::<F>()..=F::ARGS.len()).contains(&given.len()) {
            return plan_err!("{} takes {}, but was called with {} arguments", F::NAME, syntax::<F>(), given.len());
        }
        F::ARGS.iter().zip(given).try_for_each(|(arg, given)| arg.check_type(F::NAME, given))?;
        Ok(DataType::Float64)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{} knows no DISTINCT: take the distinct rows in a sub-query", F::NAME);
        }
        Ok(Box::new(Rows::<F>(F::Stats::default())))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |(i, data_type)| Arc::new(Field::new(format!("{}[{i}]", args.name), data_type, false));
        Ok(F::state_types().into_iter().enumerate().map(field).collect())
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

impl<F: SqlAggregate> PartialEq for Udaf<F> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<F: SqlAggregate> Eq for Udaf<F> {}

impl<F: SqlAggregate> Hash for Udaf<F> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        F::NAME.hash(state);
    }
}

impl<F: SqlAggregate> Debug for Udaf<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(F::NAME)
    }
}

#[derive(Debug)]
struct Rows<F: SqlAggregate>(F::Stats);

impl<F: SqlAggregate> Accumulator for Rows<F> {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let strict = CastOptions { safe: false, ..Default::default() };
        let cast = |(arg, column): (&AggregateArg, &ArrayRef)| cast_with_options(column, &arg.data_type(), &strict);
        let columns: Vec<ArrayRef> = F::ARGS.iter().zip(columns).map(cast).collect::<Result<_, _>>()?;
        F::add(&mut self.0, &columns).map_err(Udaf::<F>::named)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        F::merge(&mut self.0, states).map_err(Udaf::<F>::named)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(F::state(&self.0))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(F::score(&self.0)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + F::heap_size(&self.0)
    }
}
