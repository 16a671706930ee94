//! `octet_length`, `bit_length` and `length` of binary values; DataFusion's versions only accept strings.
//!
//! PostgreSQL, DuckDB and Spark accept binary values, and tables of images are filtered by size. Remove this once
//! DataFusion includes apache/datafusion#24765, which came after 55.2.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::length::length;
use datafusion::arrow::compute::kernels::numeric::mul;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::types::logical_binary;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    Coercion, ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, TypeSignatureClass,
};

/// DataFusion functions that are replaced; `length` is an alias of the last.
pub(crate) const NAMES: [&str; 3] = ["octet_length", BITS, "character_length"];
const BITS: &str = "bit_length";

/// A DataFusion function of strings, extended to count the bytes or bits of binary values.
#[derive(Debug)]
pub(crate) struct ByteLength {
    strings: Arc<ScalarUDF>,
    signature: Signature,
}

impl ByteLength {
    /// Wraps DataFusion's function, which handles strings and all other types. `None` if it is already wrapped.
    pub(crate) fn over(strings: Arc<ScalarUDF>) -> Option<ScalarUDF> {
        if strings.inner().is::<Self>() {
            return None;
        }
        let inner = strings.signature();
        let signature = TypeSignature::OneOf(vec![
            // Accepts everything; the rest is for SHOW FUNCTIONS.
            TypeSignature::UserDefined,
            TypeSignature::Nullary,
            inner.type_signature.clone(),
            // Not the class of all binary types, which includes NULL: NULL must stay unchanged.
            TypeSignature::Coercible(vec![Coercion::new_exact(TypeSignatureClass::Native(logical_binary()))]),
        ]);
        let signature = Signature::new(signature, inner.volatility);
        Some(Self { strings, signature }.into())
    }

    /// Type of the count if `given` is binary.
    fn counts(&self, given: &DataType) -> Option<DataType> {
        match given {
            // A value of 256 MiB has more bits than an Int32 can hold.
            DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) if self.name() != BITS => {
                Some(DataType::Int32)
            }
            DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) | DataType::LargeBinary => {
                Some(DataType::Int64)
            }
            DataType::Dictionary(_, values) => self.counts(values),
            _ => None,
        }
    }
}

impl ScalarUDFImpl for ByteLength {
    fn name(&self) -> &str {
        self.strings.name()
    }

    fn aliases(&self) -> &[String] {
        self.strings.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Accepts what DataFusion's function refuses, so that only [`Self::return_field_from_args`] reports the reason.
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        if let [one] = given
            && self.counts(one).is_some()
        {
            return Ok(given.to_vec());
        }
        let field = |t: &DataType| Arc::new(Field::new("", t.clone(), true));
        let fields: Vec<FieldRef> = given.iter().map(field).collect();
        let coerced = fields_with_udf(&fields, self.strings.as_ref());
        Ok(coerced.map_or(given.to_vec(), |fields| fields.iter().map(|f| f.data_type().clone()).collect()))
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("{}: return_field_from_args is the one to call", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if let [field] = args.arg_fields
            && let Some(count) = self.counts(field.data_type())
        {
            return Ok(Arc::new(Field::new(self.name(), count, field.is_nullable())));
        }
        fields_with_udf(args.arg_fields, self.strings.as_ref())?;
        self.strings.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else { return self.strings.invoke_with_args(args) };
        let Some(count) = self.counts(&value.data_type()) else { return self.strings.invoke_with_args(args) };
        let (array, constant) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(scalar) => (scalar.to_array()?, true),
        };
        let mut counts: ArrayRef = cast(&length(&array)?, &count)?;
        if self.name() == BITS {
            counts = mul(&counts, &Int64Array::new_scalar(8))?;
        }
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&counts, 0)?)
        } else {
            ColumnarValue::Array(counts)
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.strings.documentation()
    }
}

impl PartialEq for ByteLength {
    fn eq(&self, other: &Self) -> bool {
        self.strings == other.strings
    }
}

impl Eq for ByteLength {}

impl Hash for ByteLength {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.strings.hash(state);
    }
}
