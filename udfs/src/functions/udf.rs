//! Shared parts of the SQL functions: planning-time checks of arguments, settings, documentation.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};

use super::call::Call;
use super::options_arg::{CallOptions, OptionField};
use super::plan::Plan;
use super::section::SECTION;
use super::{image_arg, options_arg, text_arg};
use crate::config::CapfiltOptions;
use crate::cost::{self, Cost};

/// A SQL function: its signature and documentation as data, and its computation.
pub(crate) trait SqlFunction: Debug + Send + Sync + 'static {
    const NAME: &'static str;
    const DESCRIPTION: &'static str;
    /// Description of the result, for the documentation.
    const RETURNS: &'static str;
    const ARGS: &'static [Arg];
    const EXAMPLE: &'static str;
    const RELATED: &'static [&'static str];
    /// Cost per row, for the planner.
    const COST: Cost;

    /// Checks planning-time facts beyond types, and returns the result type. Loads no model.
    fn return_type(plan: &Plan<'_>) -> Result<DataType>;

    /// Computes `call.rows` rows.
    fn invoke(call: &Call<'_>) -> Result<ColumnarValue>;
}

/// An argument. Options come last and are optional.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    Image,
    /// A text, with a name to distinguish it from another.
    Text(&'static str),
    /// A number of captions.
    Count,
    /// A perceptual hash, with a name to distinguish it from another.
    Hash(&'static str),
    Options(&'static [OptionField]),
}

impl Arg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Count => "n",
            Self::Text(name) | Self::Hash(name) => name,
            Self::Options(_) => "options",
        }
    }

    pub(crate) fn description(self) -> String {
        match self {
            Self::Image => {
                "Encoded bytes (Binary, LargeBinary, BinaryView, FixedSizeBinary), or a struct with them in a field \
                            `bytes`, as Hugging Face datasets have it"
                    .into()
            }
            Self::Text(_) => "A string".into(),
            Self::Count => format!("How many captions, from 1 to {MAX_COUNT}"),
            Self::Hash(_) => "64 bits, as image_phash returns them".into(),
            Self::Options(fields) => {
                let names: Vec<&str> = fields.iter().map(|f| f.name()).collect();
                format!("A struct of {}; a field that is missing or NULL is not given", names.join(", "))
            }
        }
    }

    /// Returns a plan error unless the argument accepts this type.
    fn check_type(self, function: &str, given: &DataType) -> Result<()> {
        match self {
            Self::Image => image_arg::check_type(function, given),
            Self::Text(name) => text_arg::check_type(function, name, given),
            Self::Options(fields) => options_arg::check_type(function, fields, given),
            Self::Count | Self::Hash(_) if given.is_integer() || *given == DataType::Null => Ok(()),
            Self::Count | Self::Hash(_) => {
                plan_err!("{function}: argument {} must be a whole number, not {given}", self.name())
            }
        }
    }

    /// One of the accepted types, for the information schema.
    fn example(self) -> DataType {
        match self {
            Self::Image => DataType::Binary,
            Self::Text(_) => DataType::Utf8,
            Self::Count | Self::Hash(_) => DataType::Int64,
            Self::Options(fields) => {
                let field = |option: &OptionField| Field::new(option.name(), option.kind().example(), true);
                DataType::Struct(fields.iter().map(field).collect())
            }
        }
    }
}

/// Maximum number of captions of one image per call.
pub(crate) const MAX_COUNT: i64 = 64;

/// A [`SqlFunction`] under the settings it is planned with.
pub(crate) struct Udf<F> {
    session: Arc<CapfiltOptions>,
    signature: Signature,
    documentation: Arc<Documentation>,
    function: PhantomData<F>,
}

impl<F: SqlFunction> Udf<F> {
    pub(crate) fn new(session: Arc<CapfiltOptions>) -> Self {
        cost::declare::<Self>(F::COST);
        Self {
            session,
            // Stable: results depend only on the arguments and the settings, which are fixed for a query.
            signature: Signature::new(signature(examples::<F>()), Volatility::Stable),
            documentation: Arc::new(documentation::<F>()),
            function: PhantomData,
        }
    }
}

/// A signature that accepts everything, so that the function itself can report errors: when DataFusion's coercion
/// fails, its message buries the reason between two misleading ones. SHOW FUNCTIONS and `information_schema.parameters`
/// list the examples, a row each; a purely user-defined signature has none there (apache/datafusion#23437).
pub(crate) fn signature(examples: Vec<Vec<DataType>>) -> TypeSignature {
    // Without Nullary, a call without arguments would not reach the function.
    let open = [TypeSignature::UserDefined, TypeSignature::Nullary];
    TypeSignature::OneOf(open.into_iter().chain(examples.into_iter().map(TypeSignature::Exact)).collect())
}

/// Argument types without options, and with them.
fn examples<F: SqlFunction>() -> Vec<Vec<DataType>> {
    let of = |args: &[Arg]| args.iter().map(|arg| arg.example()).collect();
    match F::ARGS {
        [required @ .., Arg::Options(_)] => vec![of(required), of(F::ARGS)],
        all => vec![of(all)],
    }
}

/// Whether the information schema is asking: it passes examples under these names.
fn is_listing(args: &ReturnFieldArgs<'_>) -> bool {
    let named = args.arg_fields.iter().enumerate().all(|(i, field)| *field.name() == format!("arg_{i}"));
    named && args.scalar_arguments.iter().all(Option::is_none)
}

/// `name(a, b [, options])`.
pub(crate) fn syntax<F: SqlFunction>() -> String {
    let mut text = format!("{}(", F::NAME);
    for (i, arg) in F::ARGS.iter().enumerate() {
        match (i, arg) {
            (_, Arg::Options(_)) => text.push_str(" [, options]"),
            (0, arg) => text.push_str(arg.name()),
            (_, arg) => text.extend([", ", arg.name()]),
        }
    }
    text + ")"
}

fn documentation<F: SqlFunction>() -> Documentation {
    let mut doc = Documentation::builder(SECTION, F::DESCRIPTION, syntax::<F>()).with_sql_example(F::EXAMPLE);
    for arg in F::ARGS {
        doc = doc.with_argument(arg.name(), arg.description());
    }
    for related in F::RELATED {
        doc = doc.with_related_udf(*related);
    }
    doc.build()
}

fn check_count<F: SqlFunction>(given: usize) -> Result<()> {
    let required = F::ARGS.iter().filter(|a| !matches!(a, Arg::Options(_))).count();
    if given < required || given > F::ARGS.len() {
        return plan_err!("{} takes {}, but was called with {given} arguments", F::NAME, syntax::<F>());
    }
    Ok(())
}

impl<F: SqlFunction> ScalarUDFImpl for Udf<F> {
    fn name(&self) -> &str {
        F::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("{}: return_field_from_args is the one to call", F::NAME)
    }

    /// Accepts all types (see [`signature`]); [`Self::return_field_from_args`] reports errors.
    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        check_count::<F>(args.arg_fields.len())?;
        let mut options = Some(CallOptions::default());
        let mut may_name_model = false;
        let listed = is_listing(&args);
        for (i, (arg, field)) in F::ARGS.iter().zip(args.arg_fields).enumerate() {
            arg.check_type(F::NAME, field.data_type())?;
            if let Arg::Options(fields) = arg {
                options = match args.scalar_arguments.get(i).copied().flatten() {
                    Some(scalar) => Some(CallOptions::of_scalar(F::NAME, fields, scalar)?),
                    None => None,
                };
                may_name_model = options_arg::has_model(field.data_type());
            }
        }
        let (function, session, scalars) = (F::NAME, self.session.as_ref(), args.scalar_arguments);
        let data_type = F::return_type(&Plan { function, session, options, may_name_model, listed, scalars })?;
        Ok(Arc::new(Field::new(F::NAME, data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { args.number_rows.min(1) } else { args.number_rows };
        let return_type = args.return_field.data_type();
        if constant && rows == 0 {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(return_type)?));
        }
        let call = Call { function: F::NAME, session: &self.session, args: &args.args, rows, return_type };
        match F::invoke(&call)? {
            ColumnarValue::Array(array) if constant => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
            result => Ok(result),
        }
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let session = Arc::new(config.extensions.get::<CapfiltOptions>()?.clone());
        let (signature, documentation) = (self.signature.clone(), Arc::clone(&self.documentation));
        Some(Self { session, signature, documentation, function: PhantomData }.into())
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

impl<F: SqlFunction> PartialEq for Udf<F> {
    fn eq(&self, other: &Self) -> bool {
        self.session == other.session
    }
}

impl<F: SqlFunction> Eq for Udf<F> {}

impl<F: SqlFunction> Hash for Udf<F> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        F::NAME.hash(state);
        self.session.hash(state);
    }
}

impl<F: SqlFunction> Debug for Udf<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple(F::NAME).field(&self.session).finish()
    }
}
