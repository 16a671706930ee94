//! Queries with and without the rules: equal rows, and as few calls as possible.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{ArrayRef, AsArray as _, Int64Array};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::physical_plan::displayable;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

use crate::cost::{self, Cost};

/// A function of an integer that counts its rows. Each `KIND` is a type with its own cost.
#[derive(Debug)]
struct Counted<const KIND: usize> {
    signature: Signature,
    rows: Arc<AtomicU64>,
}

const NAMES: [&str; 4] = ["look", "score", "write", "ask"];
const COSTS: [Cost; 4] = [Cost::DECODE, Cost::MATCH, Cost::CAPTION, Cost::NETWORK];

impl<const KIND: usize> Counted<KIND> {
    fn udf(rows: &Arc<AtomicU64>) -> ScalarUDF {
        cost::declare::<Self>(COSTS[KIND]);
        // Volatile, like fetch_url.
        let volatility = if NAMES[KIND] == "ask" { Volatility::Volatile } else { Volatility::Stable };
        Self { signature: Signature::exact(vec![DataType::Int64], volatility), rows: Arc::clone(rows) }.into()
    }
}

impl<const KIND: usize> PartialEq for Counted<KIND> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<const KIND: usize> Eq for Counted<KIND> {}

impl<const KIND: usize> Hash for Counted<KIND> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KIND.hash(state);
    }
}

impl<const KIND: usize> ScalarUDFImpl for Counted<KIND> {
    fn name(&self) -> &str {
        NAMES[KIND]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let array = args.args[0].to_array(args.number_rows)?;
        self.rows.fetch_add(args.number_rows as u64, Ordering::Relaxed);
        // `write` has a value for NULL, which exposes any rule that assumes a strict function.
        let value = |x: Option<i64>| match x {
            None => (NAMES[KIND] == "write").then_some(5),
            Some(x) => Some((x * 7 + KIND as i64) % 10),
        };
        Ok(ColumnarValue::Array(Arc::new(array.as_primitive::<Int64Type>().iter().map(value).collect::<Int64Array>())))
    }
}

/// A session, and the row counter of each function.
struct Session {
    ctx: SessionContext,
    rows: [Arc<AtomicU64>; 4],
}

impl Session {
    async fn new(rules: bool, partitions: usize, pushdown: bool, folder: &str) -> Self {
        let mut config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(8);
        config.options_mut().execution.parquet.pushdown_filters = pushdown;
        let mut ctx = SessionContext::new_with_config(config);
        if rules {
            ctx = SessionContext::new_with_state(super::install(ctx.state()).build());
        }
        let rows: [Arc<AtomicU64>; 4] = Default::default();
        ctx.register_udf(Counted::<0>::udf(&rows[0]));
        ctx.register_udf(Counted::<1>::udf(&rows[1]));
        ctx.register_udf(Counted::<2>::udf(&rows[2]));
        ctx.register_udf(Counted::<3>::udf(&rows[3]));
        let session = Self { ctx, rows };
        let file = format!("{folder}/t.parquet");
        if !std::path::Path::new(&file).exists() {
            session
                .rows(&format!(
                    "COPY (SELECT value AS id, CASE WHEN value % 11 <> 10 THEN value END AS x, value % 7 AS k,
                       CASE WHEN value % 5 <> 0 THEN 'row ' || value END AS s,
                       CASE WHEN value % 4 <> 1 THEN value % 3 = 0 END AS b FROM generate_series(0, 39)) TO '{file}'"
                ))
                .await;
        }
        session.ctx.register_parquet("t", &file, ParquetReadOptions::default()).await.unwrap();
        session
            .rows("CREATE TABLE j (id BIGINT, n VARCHAR) AS VALUES (3, 'x'), (5, 'y'), (50, 'z'), (NULL, 'n')")
            .await;
        session.rows("CREATE VIEW v AS SELECT id, write(x) AS w FROM t").await;
        session
    }

    async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let frame = self.ctx.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let batches = frame.collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let mut rows = vec![];
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let cell = |column: &ArrayRef| array_value_to_string(column, row).unwrap();
                rows.push(batch.columns().iter().map(cell).collect());
            }
        }
        rows
    }

    async fn counted(&self, sql: &str) -> (Vec<Vec<String>>, [u64; 4]) {
        for rows in &self.rows {
            rows.store(0, Ordering::Relaxed);
        }
        let rows = self.rows(sql).await;
        (rows, self.rows.each_ref().map(|rows| rows.load(Ordering::Relaxed)))
    }

    async fn number(&self, sql: &str) -> u64 {
        self.rows(sql).await[0][0].parse().unwrap()
    }

    async fn plan(&self, sql: &str) -> String {
        let plan = self.ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        displayable(plan.as_ref()).indent(false).to_string()
    }
}

/// Queries, and the rows of `look`, `score`, `write` and `ask` that they take: a number, a query for it, or empty if it
/// depends on DataFusion itself.
const QUERIES: &[(&str, [&str; 4])] = &[
    // ORDER BY with LIMIT.
    ("SELECT id, write(x) FROM t ORDER BY id LIMIT 2", ["0", "0", "2", "0"]),
    ("SELECT id, write(x) FROM t ORDER BY id DESC LIMIT 2 OFFSET 3", ["0", "0", "2", "0"]),
    ("SELECT write(x) IS NULL, look(x) AS l FROM t ORDER BY id LIMIT 3", ["3", "0", "3", "0"]),
    ("SELECT id, write(x) AS w FROM t ORDER BY score(x), id LIMIT 5", ["0", "40", "5", "0"]),
    ("SELECT id FROM t ORDER BY ask(x) DESC, id", ["0", "0", "0", "40"]),
    (
        "SELECT w FROM v WHERE score(id) > 1 ORDER BY look(id), score(id), id LIMIT 4",
        ["SELECT count(*) FROM t WHERE score(id) > 1", "", "4", "0"],
    ),
    ("SELECT score(x) AS s, id, write(x) AS w FROM t ORDER BY s DESC, id LIMIT 5", ["0", "40", "5", "0"]),
    ("SELECT id, write(x) AS w, score(x) FROM t ORDER BY w, id LIMIT 5", ["0", "5", "40", "0"]),
    ("SELECT id, s || write(x) AS w FROM t WHERE look(x) IS NOT NULL ORDER BY s, id LIMIT 3", ["40", "0", "3", "0"]),
    (
        "SELECT id, w FROM (SELECT id, random() AS r, write(x) AS w FROM t) WHERE r >= 0 ORDER BY id LIMIT 2",
        ["0", "0", "2", "0"],
    ),
    ("SELECT w + 1 AS a, w + 2 AS b, id FROM v ORDER BY id LIMIT 3", ["0", "0", "3", "0"]),
    ("SELECT w, w AS again, id FROM v ORDER BY id LIMIT 3", ["0", "0", "3", "0"]),
    ("SELECT a + 1, a * 2, a FROM (SELECT id, ask(x) AS a FROM t) ORDER BY id LIMIT 3", ["0", "0", "0", "3"]),
    (
        "SELECT id FROM (SELECT id, ask(x) AS a FROM t ORDER BY id LIMIT 4) WHERE a >= 0 ORDER BY id",
        ["0", "0", "0", "4"],
    ),
    ("SELECT DISTINCT ON (k) id, s, write(x) AS w FROM t ORDER BY k, id", ["0", "0", "7", "0"]),
    ("SELECT DISTINCT ON (k) write(x + id), score(x) FROM t ORDER BY k, id DESC LIMIT 2", ["0", "2", "2", "0"]),
    ("SELECT max(w) FROM (SELECT w FROM v ORDER BY id LIMIT 4)", ["0", "0", "4", "0"]),
    // AND, in either order, of any kind of predicate.
    ("SELECT id FROM t WHERE id >= 30 AND score(x) > 4", ["0", "10", "0", "0"]),
    ("SELECT id FROM t WHERE score(x) > 4 AND id >= 30", ["0", "10", "0", "0"]),
    ("SELECT id FROM t WHERE b AND score(x) > 4", ["0", "SELECT count(*) FROM t WHERE b", "0", "0"]),
    (
        "SELECT id FROM t WHERE score(x) > 4 AND s LIKE '%1%'",
        ["0", "SELECT count(*) FROM t WHERE s LIKE '%1%'", "0", "0"],
    ),
    ("SELECT id FROM t WHERE score(x) > 4 AND s IS NULL", ["0", "8", "0", "0"]),
    ("SELECT id FROM t WHERE score(x) > 4 AND id IN (1, 2, 30, 31)", ["0", "4", "0", "0"]),
    ("SELECT id FROM t WHERE score(x) > 4 AND id * 2 + 1 < 9", ["0", "4", "0", "0"]),
    ("SELECT id FROM t WHERE score(x) > 4 AND s ~ '3$'", ["0", "SELECT count(*) FROM t WHERE s ~ '3$'", "0", "0"]),
    (
        "SELECT id FROM t WHERE write(x) > 3 AND score(x) > 4 AND look(x) > 2 AND id < 20",
        [
            "20",
            "SELECT count(*) FROM t WHERE id < 20 AND look(x) > 2",
            "SELECT count(*) FROM t WHERE id < 20 AND look(x) > 2 AND score(x) > 4",
            "0",
        ],
    ),
    // The planner computes the common expression below the whole filter.
    (
        "SELECT id FROM t WHERE id < 5 AND score(x) + 1 > 2 AND score(x) + 1 < 8",
        ["0", "SELECT 5 + count(*) FROM t WHERE id < 5 AND score(x) > 1", "0", "0"],
    ),
    ("SELECT id FROM t WHERE ask(x) >= 0 AND id < 3", ["0", "0", "0", "3"]),
    ("SELECT id FROM t WHERE score(x) > (SELECT avg(id) / 10 FROM t) AND id < 7", ["0", "7", "0", "0"]),
    (
        "SELECT w FROM v WHERE w > 3 AND id < 7",
        ["0", "0", "SELECT 7 + count(*) FROM t WHERE id < 7 AND write(x) > 3", "0"],
    ),
    // OR.
    ("SELECT id FROM t WHERE id < 30 OR score(x) > 4", ["0", "10", "0", "0"]),
    ("SELECT id FROM t WHERE score(x) > 4 OR b", ["0", "SELECT count(*) FROM t WHERE b IS NOT TRUE", "0", "0"]),
    ("SELECT id FROM t WHERE (score(x) > 4 AND id < 10) OR (write(x) > 4 AND id >= 30)", ["0", "10", "10", "0"]),
    ("SELECT id FROM t WHERE NOT (b OR score(x) > 4)", ["0", "SELECT count(*) FROM t WHERE NOT b", "0", "0"]),
    // Joins.
    ("SELECT v.w, j.n FROM v JOIN j ON v.id = j.id", ["0", "0", "2", "0"]),
    ("SELECT j.n, v.* FROM j JOIN v ON v.id = j.id AND j.n <> 'x'", ["0", "0", "1", "0"]),
    ("SELECT w FROM v JOIN j USING (id) ORDER BY n LIMIT 1", ["0", "0", "1", "0"]),
    ("SELECT a.w, b.w FROM v a JOIN v b ON a.id = b.id JOIN j ON j.id = a.id", ["0", "0", "4", "0"]),
    ("SELECT t.id FROM t JOIN j ON t.id = j.id WHERE score(t.x) > 2", ["0", "2", "0", "0"]),
    (
        "SELECT t.id, write(x) FROM t JOIN j ON t.id = j.id WHERE score(t.x) > 7 AND write(x) >= 0",
        ["0", "2", "SELECT 2 * count(*) FROM t WHERE id IN (3, 5) AND score(x) > 7", "0"],
    ),
    ("SELECT w FROM v WHERE id IN (SELECT id FROM j)", ["0", "0", "2", "0"]),
    ("SELECT w FROM v WHERE NOT EXISTS (SELECT 1 FROM j WHERE j.id = v.id)", ["0", "0", "38", "0"]),
    ("SELECT t.id FROM t JOIN j ON t.id <= j.id AND score(t.x + j.id) > 4 AND t.id < 2", ["0", "6", "0", "0"]),
    // Sides padded with NULL, join keys and cheap uncached functions stay below.
    ("SELECT v.w, j.n FROM j LEFT JOIN v ON v.id = j.id", ["0", "0", "", "0"]),
    ("SELECT v.w, j.n FROM v LEFT JOIN j ON v.id = j.id", ["0", "0", "40", "0"]),
    ("SELECT v.w, j.n FROM v FULL JOIN j ON v.id = j.id", ["0", "0", "40", "0"]),
    ("SELECT v.id, j.n FROM v JOIN j ON v.w = j.id", ["0", "0", "40", "0"]),
    ("SELECT l, n FROM (SELECT id, look(x) AS l FROM t) JOIN j USING (id)", ["", "0", "0", "0"]),
    // Queries with nothing to save.
    ("SELECT w FROM v", ["0", "0", "40", "0"]),
    ("SELECT k, max(write(x)) FROM t WHERE id < 10 GROUP BY k", ["0", "0", "10", "0"]),
    ("SELECT DISTINCT w FROM v", ["0", "0", "40", "0"]),
    ("SELECT id, w FROM v UNION ALL SELECT id, 0 FROM j ORDER BY id NULLS LAST, w LIMIT 50", ["0", "0", "40", "0"]),
    ("SELECT id, w, sum(id) OVER (ORDER BY id) FROM v ORDER BY id LIMIT 50", ["0", "0", "40", "0"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_calls_and_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let mut wrong = vec![];
    for (partitions, pushdown) in [(1, false), (3, false), (2, true)] {
        let plain = Session::new(false, partitions, pushdown, folder).await;
        let late = Session::new(true, partitions, pushdown, folder).await;
        for (sql, expected) in QUERIES {
            let (mut rows, calls) = late.counted(sql).await;
            let mut same = plain.rows(sql).await;
            if !sql.contains("ORDER BY") {
                rows.sort();
                same.sort();
            }
            let mut numbers = [0; 4];
            for (at, (number, of)) in numbers.iter_mut().zip(expected).enumerate() {
                *number = match of.parse() {
                    Ok(number) => number,
                    Err(_) if of.is_empty() => calls[at],
                    Err(_) => plain.number(of).await,
                };
            }
            if rows != same || calls != numbers {
                let plan = late.plan(sql).await;
                wrong.push(format!(
                    "{sql} ({partitions} partitions, pushdown {pushdown}):\n {rows:?}\n {same:?}\n calls {calls:?}, not {numbers:?}\n{plan}"
                ));
            }
            let (as_planned, without) = (late.ctx.sql(sql).await.unwrap(), plain.ctx.sql(sql).await.unwrap());
            assert_eq!(as_planned.schema(), without.schema(), "{sql}");
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn the_plan_reads_as_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::new(true, 1, false, folder.path().to_str().unwrap()).await;
    let plan = session.plan("SELECT id, write(x) AS w FROM t WHERE score(x) > 4 AND k = 2 ORDER BY s LIMIT 2").await;
    let line =
        |part: &str| plan.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {plan}"));
    let order = ["write(", "SortExec: TopK(fetch=2)", "score(", "k@"].map(line);
    assert!(order.is_sorted() && order[0] < order[1] && order[2] < order[3], "{plan}");
    assert!(!plan.contains("Fence"), "{plan}");
}

#[test]
fn a_cost_is_of_a_type_and_not_of_a_name() {
    let counted = Counted::<1>::udf(&Arc::default());
    assert_eq!(cost::of_function(&counted), Cost::MATCH);
    assert_eq!(cost::of_function(&datafusion::functions::math::random()), Cost::FREE);
    for function in crate::functions() {
        let free = matches!(function.name(), "hamming" | "vqa_accuracy");
        assert_eq!(cost::of_function(&function) == Cost::FREE, free, "{}", function.name());
    }
    assert_ne!(counted.inner().as_ref().type_id(), Counted::<2>::udf(&Arc::default()).inner().as_ref().type_id());
}
