//! `fetch_url(url)`.
//!
//! FETCH is an SQL keyword: after a comma in a SELECT list the parser takes it for the end of the list, so `fetch` is
//! only an alias.

use std::sync::{Arc, LazyLock};

use capfilt_udfs::cost::{self, Cost};
use capfilt_udfs::engine::blocking;
use capfilt_udfs::image::binary_view;
use datafusion::arrow::array::{ArrayRef, AsArray as _, Int32Array, StringArray, StructArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::client::{Fetched, wait};
use crate::options::FetchOptions;

pub(crate) const SYNTAX: &str = "fetch_url(url)";
pub(crate) const RETURNS: &str = "Struct(bytes, status, error, sha256, url)";
pub(crate) const DESCRIPTION: &str = "What a web server answers to a GET of a URL (http or https). `bytes` is the whole body where the \
    status is 200, else NULL; `status` the status of the last answer; `error` why there are no bytes, NULL where all is well; `sha256` \
    of the bytes, in hex; `url` where redirects led to. A NULL URL gives NULL. Within a query a URL is fetched once, as long as fetch.memo_bytes holds what came. Private, \
    loopback and link-local addresses are refused, also after a redirect and when a name leads there; so is an answer whose \
    X-Robots-Tag says noai or noimageai. SET fetch.* has deadlines, sizes, tries and how many are fetched at a time. `fetch` is another name of it, \
    for where SQL does not take that word for its own (it does after a comma).";
pub(crate) const EXAMPLE: &str =
    "SELECT url, caption(f['bytes']), f['error'] FROM (SELECT url, fetch_url(url) AS f FROM web)";

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let bytes = Field::new("bytes", DataType::BinaryView, true);
    vec![bytes, Field::new("status", DataType::Int32, true), text("error"), text("sha256"), text("url")].into()
});

/// The function, with the settings at planning time.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fetch {
    options: FetchOptions,
    signature: Signature,
    aliases: Vec<String>,
    documentation: Documentation,
}

impl Fetch {
    pub(crate) fn new(options: FetchOptions) -> Self {
        let documentation = Documentation::builder(capfilt_udfs::docs::SECTION, DESCRIPTION, SYNTAX)
            .with_sql_example(EXAMPLE)
            .with_argument("url", "A string")
            .build();
        // Volatile: the response may differ tomorrow, and EXPLAIN must send no request. `return_type` reports wrong
        // arguments, because DataFusion buries the reason when coercion fails. SHOW FUNCTIONS lists the exact
        // signature.
        let listed = TypeSignature::Exact(vec![DataType::Utf8]);
        let open = vec![TypeSignature::UserDefined, TypeSignature::Nullary, listed];
        let signature = Signature::one_of(open, Volatility::Volatile);
        cost::declare::<Self>(Cost::NETWORK);
        Self { options, signature, aliases: vec!["fetch".to_owned()], documentation }
    }
}

impl ScalarUDFImpl for Fetch {
    fn name(&self) -> &str {
        "fetch_url"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        Ok(given.to_vec())
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        let [url] = given else { return plan_err!("{SYNTAX} takes one URL, not {} arguments", given.len()) };
        let plain = if let DataType::Dictionary(_, value) = url { value } else { url };
        if plain.is_string() || plain.is_null() {
            return Ok(DataType::Struct(FIELDS.clone()));
        }
        plan_err!("fetch_url: a URL must be a string, not {plain}")
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [url] = args.args.as_slice() else { return plan_err!("{SYNTAX} takes one URL") };
        let constant = matches!(url, ColumnarValue::Scalar(_));
        let urls = cast(&url.to_array(if constant { 1 } else { args.number_rows })?, &DataType::Utf8View)?;
        let urls = urls.as_string_view();
        let query = capfilt_udfs::current_query();
        let fetcher = self.options.fetcher().map_err(|e| exec_datafusion_err!("fetch: {e}"))?;
        let begun = fetcher.begin(urls.iter().flatten().map(str::to_owned), query.as_ref());
        let begun = begun.map_err(|e| exec_datafusion_err!("fetch: {e}"))?;
        let cancelled = || query.as_ref().is_some_and(|query| query.is_cancelled());
        let fetched = blocking(|| wait(begun, cancelled)).map_err(|e| exec_datafusion_err!("fetch: {e}"))?;
        let mut rest = fetched.into_iter();
        let rows: Vec<_> = urls.iter().map(|url| url.and_then(|_| rest.next())).collect();
        let array: ArrayRef = Arc::new(table(&rows)?);
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        Some(Self::new(config.extensions.get::<FetchOptions>()?.clone()).into())
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

fn table(rows: &[Option<Arc<Fetched>>]) -> Result<StructArray> {
    let of = |part: fn(&Fetched) -> Option<&String>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.as_deref().and_then(part)).collect::<StringArray>())
    };
    let status = |row: &Option<Arc<Fetched>>| row.as_ref().and_then(|f| f.status).map(i32::from);
    let columns: Vec<ArrayRef> = vec![
        binary_view(rows.iter().map(|row| row.as_ref().and_then(|f| f.bytes.clone())))
            .map_err(|e| exec_datafusion_err!("fetch: {e}"))?,
        Arc::new(rows.iter().map(status).collect::<Int32Array>()),
        of(|f| f.error.as_ref()),
        of(|f| f.sha256.as_ref()),
        of(|f| f.url.as_ref()),
    ];
    let there: NullBuffer = rows.iter().map(Option::is_some).collect::<Vec<bool>>().into();
    Ok(StructArray::try_new(FIELDS.clone(), columns, Some(there))?)
}
