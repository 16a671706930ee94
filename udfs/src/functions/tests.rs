//! The functions in a session, as far as they need no model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BinaryArray, BinaryViewArray, RecordBatch, StringArray};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::{CapfiltOptions, functions, register_with, session};

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A session with a table `t` of the images in a fixture folder, and a NULL.
fn pictures(folder: &str) -> Result<SessionContext> {
    let ctx = session(SessionConfig::new())?;
    let files = fixtures(folder);
    let names = files.iter().map(|f| f.file_name().and_then(|n| n.to_str())).chain([None]);
    let bytes: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    let bytes = bytes.iter().map(|b| Some(b.as_slice())).chain([None]);
    let columns: [(&str, ArrayRef); 2] =
        [("name", Arc::new(names.collect::<StringArray>())), ("image", Arc::new(bytes.collect::<BinaryViewArray>()))];
    ctx.register_batch("t", RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true)))?)?;
    Ok(ctx)
}

async fn table(ctx: &SessionContext, sql: &str) -> Result<String> {
    let batches = ctx.sql(sql).await?.collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

async fn error(ctx: &SessionContext, sql: &str) -> String {
    match table(ctx, sql).await {
        Err(e) => e.to_string(),
        Ok(rows) => panic!("{sql} gave\n{rows}"),
    }
}

/// Plans a query completely without running it.
async fn planned(ctx: &SessionContext, sql: &str) -> Result<()> {
    ctx.sql(sql).await?.create_physical_plan().await.map(drop)
}

/// A checkpoint with only the files that planning reads; it cannot be loaded.
fn checkpoint(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    dir
}

#[tokio::test]
async fn settings_are_set_and_shown() -> Result<()> {
    let ctx = session(SessionConfig::new())?;
    for sql in ["SET capfilt.top_p = 0.85", "SET capfilt.precision = int8", "SET capfilt.memo_limit = '32MB'"] {
        table(&ctx, sql).await?;
    }
    for (name, value) in [("top_p", "0.85"), ("precision", "int8"), ("memo_limit", "32MB"), ("device", "auto")] {
        let shown = table(&ctx, &format!("SHOW capfilt.{name}")).await?;
        assert!(shown.contains(&format!("| capfilt.{name}")) && shown.contains(value), "{shown}");
    }
    let all = table(&ctx, "SHOW ALL").await?;
    assert!(all.contains("capfilt.captioner") && all.contains("capfilt.prompt"), "{all}");
    let listed =
        "SELECT count(*) FROM information_schema.df_settings WHERE name LIKE 'capfilt.%' AND description <> ''";
    assert!(table(&ctx, listed).await?.contains("34"));
    assert!(error(&ctx, "SET capfilt.topp = 1").await.contains("Did you mean top_p?"));
    assert!(error(&ctx, "SET capfilt.temperature = -1").await.contains("capfilt.temperature must be a number above 0"));
    Ok(())
}

#[tokio::test]
async fn batches_are_small_unless_asked_otherwise() {
    let size = |config: SessionConfig| session(config).unwrap().copied_config().batch_size();
    assert_eq!(size(SessionConfig::new()), crate::BATCH_SIZE);
    assert_eq!(size(SessionConfig::new().with_batch_size(1000)), 1000);
}

#[tokio::test]
async fn good_pictures_are_told_from_bad_ones() -> Result<()> {
    let ctx = pictures("images")?;
    let bad = table(
        &ctx,
        "SELECT name, image_error(image) FROM t WHERE image_error(image) IS NOT NULL AND image IS NOT NULL",
    )
    .await?;
    assert!(!bad.contains('.'), "{bad}");
    let sizes = "SELECT count(*) = count(image_info(image)['width'] + image_info(image)['height']) AS all_there \
                 FROM t WHERE image IS NOT NULL";
    assert!(table(&ctx, sizes).await?.contains("true"));
    assert!(table(&ctx, "SELECT image_error(image) FROM t WHERE image IS NULL").await?.contains("no image"));
    assert!(table(&ctx, "SELECT image_info(image) IS NULL AS x FROM t WHERE image IS NULL").await?.contains("true"));

    let ctx = pictures("bad")?;
    let unseen = table(&ctx, "SELECT name FROM t WHERE image_error(image) IS NULL").await?;
    assert!(!unseen.contains('.'), "{unseen}");
    // The reason is data under either setting.
    table(&ctx, "SET capfilt.on_error = 'fail'").await?;
    table(&ctx, "SELECT image_error(image) FROM t").await?;
    let message = error(&ctx, "SELECT image_info(named_struct('bytes', image, 'path', name)) FROM t").await;
    for word in ["image_info: row", "sha256 ", ", path ", "SET capfilt.on_error = 'null'", "image_error(image)"] {
        assert!(message.contains(word), "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn limits_are_the_sessions() -> Result<()> {
    let ctx = pictures("images")?;
    table(&ctx, "SET capfilt.max_image_bytes = '10B'").await?;
    let good = table(&ctx, "SELECT count(*) AS n FROM t WHERE image_error(image) IS NULL").await?;
    assert!(good.contains("| 0 "), "{good}");
    table(&ctx, "SET capfilt.max_image_bytes = ''").await?;
    let good = table(&ctx, "SELECT count(*) AS n FROM t WHERE image_error(image) IS NULL").await?;
    assert!(good.contains(&format!("| {} ", fixtures("images").len())), "{good}");
    Ok(())
}

#[tokio::test]
async fn constants_structs_and_empty_batches() -> Result<()> {
    let ctx = pictures("bad")?;
    for (sql, expected) in [
        ("SELECT image_error(NULL) AS e", "no image"),
        ("SELECT video_error(NULL) AS e", "no video"),
        ("SELECT video_info(arrow_cast(NULL, 'LargeBinary')) IS NULL AS e", "true"),
        ("SELECT count(frames(image, 2)) AS n FROM t WHERE false", "| 0 "),
        ("SELECT image_error(X'00') IS NOT NULL AS e", "true"),
        ("SELECT image_error(arrow_cast(X'00', 'BinaryView')) IS NOT NULL AS e", "true"),
        (
            "SELECT image_error(named_struct('bytes', NULL, 'path', 'a.jpg')) AS e",
            "no bytes: only a path (a.jpg), which is not read here",
        ),
        ("SELECT image_error(named_struct('bytes', arrow_cast(NULL, 'Binary'))) AS e", "no bytes"),
        ("SELECT DISTINCT image_error(NULL) AS e FROM t", "no image"),
        ("SELECT count(image_error(image)) AS n FROM t WHERE false", "| 0 "),
        ("SELECT image_info(arrow_cast(NULL, 'LargeBinary')) IS NULL AS e", "true"),
        (
            "SELECT image_error(arrow_cast(image, 'Dictionary(Int32, Binary)')) AS e FROM t WHERE image IS NULL",
            "no image",
        ),
    ] {
        let rows = table(&ctx, sql).await?;
        assert!(rows.contains(expected), "{sql}\n{rows}");
    }
    Ok(())
}

#[tokio::test]
async fn plans_are_refused_with_reasons() -> Result<()> {
    let ctx = pictures("images")?;
    let dir = checkpoint("{}");
    for (sql, expected) in [
        ("SELECT caption(image) FROM t", "caption needs a captioner: SET capfilt.captioner = '/path/to/checkpoint'"),
        ("SELECT itm_score(image, name) FROM t", "itm_score needs a filter: SET capfilt.filter"),
        ("SELECT embed_text(name) FROM t", "embed_text needs a filter"),
        ("SELECT vqa(image, name) FROM t", "vqa needs an answerer: SET capfilt.answerer = '/path/to/checkpoint'"),
        ("SELECT vqa_score(image, name, name) FROM t", "vqa_score needs an answerer"),
        ("SELECT vqa(image, 5) FROM t", "vqa: argument question must be a string"),
        ("SELECT vqa_score(image, name, 5) FROM t", "vqa_score: argument answer must be a string"),
        ("SELECT vqa(image, name, named_struct('answers', 'red')) FROM t", "option answers must be a list of strings"),
        ("SELECT vqa(image, name, named_struct('k', 'x')) FROM t", "option k must be a whole number"),
        ("SELECT caption(name) FROM t", "caption: argument image must be the encoded bytes"),
        ("SELECT itm_score(image, 5) FROM t", "itm_score: argument text must be a string"),
        ("SELECT caption() FROM t", "caption takes caption(image [, options]), but was called with 0 arguments"),
        ("SELECT captions(image) FROM t", "captions takes captions(image, n [, options])"),
        ("SELECT captions(image, 'x') FROM t", "captions: argument n must be a whole number"),
        ("SELECT caption(image, 'nucleus') FROM t", "caption: argument options must be a struct"),
        ("SELECT caption(image, named_struct('topp', 1)) FROM t", "Did you mean top_p?"),
        ("SELECT caption(image, named_struct('top_p', 'x')) FROM t", "caption: option top_p must be a number"),
        ("SELECT itm_score(image, name, named_struct('top_p', 1)) FROM t", "itm_score has no option \"top_p\""),
        ("SELECT image_info(image, 1) FROM t", "image_info takes image_info(image)"),
        ("SELECT image_info(5) FROM t", "image_info: argument image must be Binary"),
        ("SELECT itm_score(image) FROM t", "itm_score takes itm_score(image, text [, options]), but was called with 1"),
        ("SELECT hamming('a', 1) FROM t", "hamming: argument a must be a whole number, not Utf8"),
        ("SELECT bleu4() FROM t", "bleu4 takes bleu4(candidate, refs), but was called with 0 arguments"),
        ("SELECT bleu4(name) FROM t", "bleu4 takes bleu4(candidate, refs), but was called with 1 arguments"),
        ("SELECT cider(image, name) FROM t", "cider: argument candidate must be a string, not BinaryView"),
        ("SELECT rouge_l(name, 5) FROM t", "rouge_l: argument refs must be a list of strings, or a string, not Int64"),
        ("SELECT recall_at(1, name) FROM t", "recall_at: argument rank must be a whole number, not Utf8"),
        ("SELECT ndcg(1) FROM t", "ndcg takes ndcg(score, relevance [, k]), but was called with 1 arguments"),
        ("SELECT ndcg(1, name) FROM t", "ndcg: argument relevance must be a number, not Utf8"),
        (
            "SELECT vqa_accuracy(name, name) FROM t",
            "vqa_accuracy: argument answers must be a list of strings, not Utf8",
        ),
        ("SELECT vqa_accuracy(image, [name]) FROM t", "vqa_accuracy: argument answer must be a string ("),
        ("SELECT frames(image) FROM t", "frames takes frames(video, n [, options]), but was called with 1 arguments"),
        ("SELECT frames(name, 1) FROM t", "frames: argument video must be the encoded bytes"),
        ("SELECT frames(image, 65) FROM t", "frames: n must be from 1 to 64 (capfilt.max_frames), not 65"),
        ("SELECT frames(image, 1, named_struct('begin', 1)) FROM t", "frames has no option \"begin\""),
        ("SELECT video_info(5) FROM t", "video_info: argument video must be Binary"),
        ("SELECT octet_length(5) FROM t", "Function 'octet_length' requires String"),
        ("SELECT octet_length() FROM t", "'octet_length' does not support zero arguments"),
        ("SELECT * FROM capfilt_stats(1)", "capfilt_stats takes no arguments"),
    ] {
        let message = error(&ctx, sql).await;
        assert!(message.contains(expected), "{sql}\n{message}");
        assert!(!message.contains("coercion failed") && !message.contains("No function matches"), "{sql}\n{message}");
    }
    table(&ctx, &format!("SET capfilt.captioner = '{}'", dir.path().display())).await?;
    for (sql, expected) in [
        ("SELECT captions(image, 0) FROM t", "captions: n must be from 1 to 64, not 0"),
        ("SELECT caption(image, named_struct('num_beams', 0)) FROM t", "option num_beams must be a whole number"),
        ("SELECT caption(image, named_struct('min_length', 30)) FROM t", "min_length must be at most max_length"),
        ("SELECT captions(image, 2, named_struct('strategy', 'greedy')) FROM t", "use strategy 'nucleus'"),
        ("SELECT captions(image, 4, named_struct('strategy', 'beam')) FROM t", "n must be at most num_beams"),
        (
            "SELECT caption(image, named_struct('top_k', -1)) FROM t",
            "option top_k must be a whole number of at least 0",
        ),
        ("SELECT caption(image, named_struct('model', '/nowhere')) FROM t", "/nowhere"),
    ] {
        let message = error(&ctx, sql).await;
        assert!(message.contains(expected), "{sql}\n{message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_prompt_that_leaves_no_room_is_refused_while_planning() -> Result<()> {
    let ctx = pictures("images")?;
    let captioner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/captioner");
    table(&ctx, &format!("SET capfilt.captioner = '{}'", captioner.display())).await?;
    for (options, expected) in [
        (
            "'prompt', 'a picture of ', 'max_length', 4",
            "it has 4 tokens, and max_length is 4; set max_length to at least 5",
        ),
        (
            "'prompt', 'dog dog dog dog dog dog dog dog dog dog dog dog dog dog dog dog dog dog dog'",
            "it has 20 tokens, and max_length is 20",
        ),
        ("'prompt', repeat('dog ', 63), 'max_length', 100", "it has 64 tokens, and the checkpoint reads 64 at most"),
        ("'max_length', 1", "it has 1 tokens, and max_length is 1"),
    ] {
        for call in ["caption(image, ", "captions(image, 2, "] {
            let sql = format!("SELECT {call}named_struct({options})) FROM t");
            let message = planned(&ctx, &sql).await.unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("caption"), "{sql}\n{message}");
        }
    }
    for options in ["'prompt', 'a picture of ', 'max_length', 5", "'prompt', repeat('dog ', 62), 'max_length', 100"] {
        planned(&ctx, &format!("SELECT caption(image, named_struct({options})) FROM t")).await?;
    }
    table(&ctx, &format!("SET capfilt.prompt = '{}'", "dog ".repeat(19))).await?;
    let message = planned(&ctx, "SELECT caption(image) FROM t").await.unwrap_err().to_string();
    assert!(message.contains("it has 20 tokens, and max_length is 20"), "{message}");
    Ok(())
}

#[tokio::test]
async fn lengths_of_binary_values_are_bytes() -> Result<()> {
    let ctx = pictures("images")?;
    let sizes: usize = fixtures("images").iter().map(|f| std::fs::metadata(f).unwrap().len() as usize).sum();
    for (sql, expected) in [
        ("SELECT sum(octet_length(image)) AS n FROM t", format!("| {sizes} ")),
        ("SELECT sum(length(image)) AS n FROM t", format!("| {sizes} ")),
        ("SELECT sum(bit_length(image)) AS n FROM t", format!("| {} ", 8 * sizes)),
        ("SELECT octet_length(image) IS NULL AS n FROM t WHERE image IS NULL", "true".into()),
        ("SELECT length(X'e4f6fc') AS n", "| 3 ".into()),
        ("SELECT char_length(arrow_cast(X'e4f6', 'LargeBinary')) AS n", "| 2 ".into()),
        ("SELECT bit_length(arrow_cast(X'e4f6', 'FixedSizeBinary(2)')) AS n", "| 16 ".into()),
        ("SELECT octet_length(arrow_cast(X'e4f6', 'Dictionary(Int32, Binary)')) AS n", "| 2 ".into()),
        // Strings are unaffected.
        ("SELECT length('äöü') AS n", "| 3 ".into()),
        ("SELECT octet_length('äöü') AS n", "| 6 ".into()),
        ("SELECT bit_length('äöü') AS n", "| 48 ".into()),
        ("SELECT length(12345) AS n", "| 5 ".into()),
        ("SELECT sum(length(arrow_cast(name, 'Dictionary(Int32, Utf8)'))) > 0 AS n FROM t", "true".into()),
        ("SELECT octet_length(NULL) IS NULL AS n", "true".into()),
        ("SELECT octet_length(named_struct('a', X'00')['a']) AS n", "| 1 ".into()),
    ] {
        let rows = table(&ctx, sql).await?;
        assert!(rows.contains(&expected), "{sql}\n{rows}");
    }
    // Registering again must not wrap the functions again.
    crate::register(&ctx)?;
    assert!(table(&ctx, "SELECT length(X'00') AS n").await?.contains("| 1 "));
    Ok(())
}

#[tokio::test]
async fn show_functions_lists_them() -> Result<()> {
    let ctx = session(SessionConfig::new())?;
    let rows = table(&ctx, "SHOW FUNCTIONS").await?;
    let scalars = functions().into_iter().map(|f| f.name().to_owned());
    for name in scalars.chain(crate::aggregate_functions().into_iter().map(|f| f.name().to_owned())) {
        assert!(rows.contains(&format!("| {name} ")), "{name}");
    }
    assert!(rows.contains("| capfilt_stats "));
    // Listed without a model being set, one row per signature.
    let itm = table(&ctx, "SHOW FUNCTIONS LIKE 'itm%'").await?;
    assert_eq!(itm.matches("| itm_score ").count(), 2, "{itm}");
    for words in [
        "[image, text]",
        "[image, text, options]",
        "Float32",
        "Binary",
        "itm_token",
        "itm_score(image, text [, options])",
    ] {
        assert!(itm.contains(words), "{words}\n{itm}");
    }
    assert_eq!(table(&ctx, "SHOW FUNCTIONS LIKE 'bleu4'").await?.matches("| bleu4 ").count(), 2);
    // Columns that happen to have the listing's example names are still a call.
    let ctx = pictures("images")?;
    let message = error(&ctx, "SELECT caption(arg_0) FROM (SELECT image AS arg_0 FROM t)").await;
    assert!(message.contains("caption needs a captioner"), "{message}");
    Ok(())
}

#[tokio::test]
async fn planning_loads_no_model() -> Result<()> {
    let ctx = pictures("images")?;
    let (dir, narrow) = (checkpoint("{}"), checkpoint(r#"{"image_text_hidden_size": 64}"#));
    for role in ["captioner", "filter", "answerer"] {
        table(&ctx, &format!("SET capfilt.{role} = '{}'", dir.path().display())).await?;
    }
    for call in [
        "caption(image)",
        "captions(image, 3)",
        "caption(image, named_struct('strategy', 'nucleus', 'top_p', 1, 'seed', NULL))",
        "itm_score(image, name)",
        "itc_score(image, name, named_struct('clean_text', true))",
        "embed_image(image)",
        "embed_text(name)",
        "vqa(image, name)",
        "vqa(image, 'why', named_struct('answers', [name, 'red'], 'k', 2))",
        "vqa_score(image, name, name, named_struct('question_token', 'cls'))",
    ] {
        let plan = table(&ctx, &format!("EXPLAIN SELECT {call} FROM t")).await?;
        assert!(plan.contains("physical_plan"), "{plan}");
    }
    let schema = ctx.sql("SELECT embed_text(name) AS e FROM t").await?.schema().field(0).data_type().to_string();
    assert!(schema.starts_with("FixedSizeList(256 x"), "{schema}");
    let named = format!("SELECT embed_text(name, named_struct('model', '{}')) FROM t", narrow.path().display());
    let message = error(&ctx, &named).await;
    assert!(message.contains("have 64 numbers, but 256 were planned: SET capfilt.filter"), "{message}");
    // A row without an image uses no model.
    assert!(table(&ctx, "SELECT caption(image) IS NULL AS x FROM t WHERE image IS NULL").await?.contains("true"));
    assert!(error(&ctx, "SELECT caption(image) FROM t").await.starts_with("caption"));
    Ok(())
}

#[tokio::test]
async fn stats_are_a_table() -> Result<()> {
    let ctx = session(SessionConfig::new())?;
    let sql = "SELECT model, memo_hits, wait_seconds FROM capfilt_stats() WHERE model = 'nothing' LIMIT 1";
    assert_eq!(ctx.sql(sql).await?.collect().await?.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    let columns = ctx.sql("SELECT * FROM capfilt_stats()").await?.schema().fields().len();
    assert_eq!(columns, 15);
    Ok(())
}

#[tokio::test]
async fn functions_describe_themselves() -> Result<()> {
    let ctx = session(SessionConfig::new())?;
    let rows = table(
        &ctx,
        "SELECT DISTINCT routine_name, syntax_example FROM information_schema.routines \
                WHERE routine_name LIKE 'caption%'",
    )
    .await?;
    assert!(rows.contains("captions(image, n [, options])"), "{rows}");
    for function in functions() {
        let doc = function.documentation().unwrap();
        assert!(doc.sql_example.is_some() && !doc.description.is_empty(), "{}", function.name());
    }
    Ok(())
}

#[test]
fn functions_are_equal_under_equal_settings() -> Result<()> {
    let under = |options: CapfiltOptions| -> ScalarUDF {
        let mut config = ConfigOptions::new();
        config.extensions.insert(options);
        functions()[0].inner().with_updated_config(&config).unwrap()
    };
    assert_eq!(under(CapfiltOptions::new()), functions()[0]);
    assert_ne!(under(CapfiltOptions::new().with("seed", "1")?), functions()[0]);
    assert_ne!(functions()[0], functions()[1]);
    Ok(())
}

#[tokio::test]
async fn settings_given_at_registration_hold() -> Result<()> {
    let ctx = SessionContext::new();
    register_with(&ctx, CapfiltOptions::new().with("max_image_bytes", "1")?)?;
    let image: ArrayRef = Arc::new(BinaryArray::from(vec![Some(b"ab".as_slice())]));
    ctx.register_batch("t", RecordBatch::try_from_iter([("image", image)])?)?;
    let batches = ctx.sql("SELECT image_error(image) FROM t").await?.collect().await?;
    assert!(batches[0].column(0).as_string::<i32>().value(0).contains('1'));
    Ok(())
}
