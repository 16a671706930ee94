//! Compute-bound queries end when they are cancelled.

use std::thread::sleep;
use std::time::{Duration, Instant};

use datafusion::prelude::{SessionConfig, SessionContext};

const ENDLESS: [&str; 6] = [
    "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000) b WHERE (a.value * b.value) % 7 = 3",
    // No pair satisfies the condition, so the join outputs nothing.
    "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000) b WHERE a.value * b.value = -1",
    "SELECT max(md5(CAST(a.value * b.value AS VARCHAR))) FROM generate_series(1, 3000000) a, generate_series(1, 3000) b",
    "SELECT count(*) FROM generate_series(1, 100000) a JOIN generate_series(1, 100000) b ON a.value % 2 = b.value % 2 AND a.value * b.value < 0",
    "SELECT count(*) FROM (SELECT unnest(range(1000)) + value AS x FROM generate_series(1, 1000000)) WHERE x < 0",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n > 0) SELECT count(*) FROM r",
];

fn session() -> SessionContext {
    crate::session(SessionConfig::new().with_target_partitions(4)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_computes_ends_with_its_client() {
    let (ctx, other) = (session(), session());
    for sql in ENDLESS {
        let frame = ctx.sql(sql).await.unwrap();
        let query = tokio::spawn(frame.collect());
        // This thread is not one of the runtime's, which may all be blocked.
        sleep(Duration::from_millis(300));
        crate::client(&other).unwrap().cancel_running();
        sleep(Duration::from_millis(100));
        assert!(!query.is_finished(), "{sql}");
        crate::client(&ctx).unwrap().cancel_running();
        let cancelled = Instant::now();
        while !query.is_finished() {
            assert!(cancelled.elapsed() < Duration::from_secs(5), "{sql}");
            sleep(Duration::from_millis(5));
        }
        let error = query.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("cancelled"), "{sql}: {error}");
    }
    assert_eq!(ctx.sql("SELECT 1").await.unwrap().count().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_query_ends() {
    let ctx = session();
    for sql in ENDLESS {
        let frame = ctx.sql(sql).await.unwrap();
        let query = tokio::spawn(frame.collect());
        sleep(Duration::from_millis(200));
        query.abort();
        let aborted = Instant::now();
        while !query.is_finished() {
            assert!(aborted.elapsed() < Duration::from_secs(5), "{sql}");
            sleep(Duration::from_millis(5));
        }
    }
}
