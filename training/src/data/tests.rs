use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use capfilt_udfs::blip::BlipConfig;
use capfilt_udfs::image::{Limits, Preprocessor};
use capfilt_udfs::text::Tokenizer;
use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray,
};
use datafusion::parquet::arrow::ArrowWriter;

use super::*;
use crate::settings::{TableSettings, TextChoice};

fn png(colour: u8) -> Vec<u8> {
    let mut file = std::io::Cursor::new(vec![]);
    image::RgbImage::from_pixel(8, 8, image::Rgb([colour, 40, 90]))
        .write_to(&mut file, image::ImageFormat::Png)
        .unwrap();
    file.into_inner()
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn pairs(path: &Path, images: &[Option<Vec<u8>>], texts: &[Option<&str>], more: Vec<(&str, ArrayRef)>) {
    let images = BinaryArray::from_iter(images.iter().map(Option::as_deref));
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("image", Arc::new(images)), ("text", Arc::new(texts.iter().copied().collect::<StringArray>()))];
    columns.extend(more);
    write(path, columns);
}

fn open(path: &Path, query: &str, weight: f64) -> crate::Result<Table> {
    Table::open(&TableSettings { path: path.into(), version: None, query: query.into(), weight })
}

/// Writes `n` images with two texts each: "0 a", "0 b", "1 a" and so on.
fn two_texts(path: &Path, n: u8) {
    let images: Vec<_> = (0..2 * n).map(|i| Some(png(i / 2))).collect();
    let texts: Vec<String> = (0..2 * n).map(|i| format!("{} {}", i / 2, if i % 2 == 0 { "a" } else { "b" })).collect();
    pairs(path, &images, &texts.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>(), vec![]);
}

#[test]
fn a_table_is_read_as_its_columns_say() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.parquet");
    let images: Vec<_> = (0..5).map(|i| (i != 2).then(|| png(i / 2))).collect();
    let texts = [Some("one"), Some("two"), Some("three"), Some(" "), Some("five")];
    let kept = BooleanArray::from(vec![true, false, true, true, true]);
    let weights = Float32Array::from(vec![Some(1.0), Some(1.0), None, None, Some(2.5)]);
    let source = StringArray::from(vec!["web", "web", "web", "web", "synthetic"]);
    pairs(
        &path,
        &images,
        &texts,
        vec![("kept", Arc::new(kept)), ("weight", Arc::new(weights)), ("source", Arc::new(source))],
    );
    let table = open(&path, "", 0.0).unwrap();
    assert_eq!((table.pairs, table.images, table.unusable, table.size, table.share()), (2, 2, 2, 3.5, 3.5));
    let rows: Vec<Row> = table.rows().unwrap().collect::<crate::Result<_>>().unwrap();
    let read: Vec<(&str, f64)> = rows.iter().map(|row| (&*row.text, row.weight)).collect();
    assert_eq!(read, [("one", 1.0), ("five", 2.5)]);
    assert_eq!(*rows[1].image, *png(2));

    let all = open(&path, "SELECT image, text FROM pairs;", 3.0).unwrap();
    assert_eq!((all.pairs, all.images, all.share()), (3, 2, 3.0));
    let rows: Vec<Row> = all.rows().unwrap().collect::<crate::Result<_>>().unwrap();
    assert!(Arc::ptr_eq(&rows[0].image, &rows[1].image), "one image, one copy");
    assert_eq!(table.digest().unwrap().len(), 64);

    let none = open(&path, "SELECT * FROM pairs WHERE source = 'human'", 0.0).unwrap_err().to_string();
    assert!(none.contains("no row to train on"), "{none}");
    for (query, words) in [
        ("SELECT text FROM pairs", "but text: give a query"),
        ("SELECT nothing FROM pairs", "nothing"),
        ("SELECT image, text, -1.0 AS weight FROM pairs", "a weight is -1"),
    ] {
        let error = open(&path, query, 0.0).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("pairs.parquet"), "{error}");
    }
    assert!(open(&dir.path().join("none"), "", 0.0).unwrap_err().to_string().contains("no such file"));
    std::fs::write(dir.path().join("broken.parquet"), "PAR1 no").unwrap();
    assert!(open(&dir.path().join("broken.parquet"), "", 0.0).unwrap_err().to_string().contains("broken.parquet"));
}

#[test]
fn a_folder_of_image_structs_is_a_table_too() {
    let dir = tempfile::tempdir().unwrap();
    for part in 0..3u8 {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values([png(part)]));
        let paths: ArrayRef = Arc::new(StringArray::from(vec!["a.png"]));
        let image = StructArray::try_from(vec![("bytes", bytes), ("path", paths)]).unwrap();
        let text: ArrayRef = Arc::new(StringArray::from(vec![format!("text {part}")]));
        write(&dir.path().join(format!("{part}.parquet")), vec![("image", Arc::new(image)), ("text", text)]);
    }
    let table = open(dir.path(), "", 0.0).unwrap();
    let texts: Vec<String> = table.rows().unwrap().map(|row| row.unwrap().text.to_string()).collect();
    assert_eq!((table.pairs, texts.join(",").as_str()), (3, "text 0,text 1,text 2"));
}

/// Training and digest use the same files: those at any depth, without a job's bookkeeping.
#[test]
fn a_folder_is_its_files_and_no_bookkeeping() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["below", "_capfilt/shard-1-of-1/dedupe"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    two_texts(&dir.path().join("a.parquet"), 2);
    two_texts(&dir.path().join("below/b.parquet"), 3);
    let digest = |table: &Table| (table.digest().unwrap(), table.stamp().unwrap());
    let before = open(dir.path(), "", 0.0).unwrap();
    assert_eq!(before.pairs, 10);
    let hashes: ArrayRef = Arc::new(Float32Array::from(vec![1.0]));
    write(&dir.path().join("_capfilt/shard-1-of-1/dedupe/hashes-0.parquet"), vec![("text", hashes)]);
    let after = open(dir.path(), "", 0.0).unwrap();
    assert_eq!((after.pairs, digest(&after)), (10, digest(&before)));
    let stamp = after.stamp().unwrap();
    two_texts(&dir.path().join("below/b.parquet"), 4);
    assert_ne!(after.stamp().unwrap(), stamp);
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path(), "", 0.0).unwrap_err().to_string().contains("no .parquet file"));
}

#[test]
fn a_table_that_capfilt_has_not_finished_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    pairs(&dir.path().join("part-00000.parquet"), &[Some(png(1))], &[Some("one")], vec![]);
    let manifest = |state: &str| {
        let folder = dir.path().join("_capfilt/shard-1-of-1");
        std::fs::create_dir_all(&folder).unwrap();
        let job = "\"engine\": \"\", \"recipe\": \"\", \"settings\": {}, \"round\": 1, \"image_column\": \"\", \"image_is\": \"bytes\", \"text_column\": \"\", \
                   \"renames\": {}, \"kept_only\": false, \"images\": \"\", \"format\": \"\", \"unit_rows\": 1, \"file_bytes\": 1, \"shards\": 1";
        let tally = "{\"rows\": 0, \"failed\": 0, \"reasons\": {}, \"web\": C, \"synthetic\": C}"
            .replace('C', "{\"pairs\": 0, \"kept\": 0, \"scored\": 0, \"scores\": 0.0}");
        let text = format!(
            "{{\"format\": 2, \"state\": \"{state}\", \"shard\": 1, \"job\": {{{job}}}, \"source\": \"\", \"files\": [], \"columns\": [], \
             \"replaces\": false, \"parts\": [], \"done\": {{\"file\": 0, \"row\": 0}}, \"tally\": {tally}}}"
        );
        std::fs::write(folder.join("manifest.json"), text).unwrap();
    };
    manifest("running");
    let error = open(dir.path(), "", 0.0).unwrap_err().to_string();
    assert!(error.contains("unfinished pair table") && error.contains("capfilt resume"), "{error}");
    manifest("finished");
    let table = open(dir.path(), "", 0.0).unwrap();
    assert_eq!(table.pairs, 1);
    let digest = table.digest().unwrap();
    std::fs::remove_dir_all(dir.path().join("_capfilt")).unwrap();
    assert_eq!(table.digest().unwrap(), digest, "the table is its parts");
}

/// A buffer limited in groups but not in bytes.
fn groups(groups: usize) -> Buffer {
    Buffer { groups, bytes: usize::MAX }
}

#[test]
fn an_epoch_has_each_pair_once_in_another_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.parquet");
    two_texts(&path, 10);
    let table = Arc::new(open(&path, "", 0.0).unwrap());
    let draw = |seed, buffer, n| -> Vec<String> {
        let mut sampler = Sampler::new(vec![Arc::clone(&table)], seed, TextChoice::All, groups(buffer)).unwrap();
        (0..n).map(|_| sampler.draw().unwrap().text.to_string()).collect()
    };
    for buffer in [1, 7, 100] {
        let texts = draw(1, buffer, 40);
        for epoch in texts.chunks(20) {
            assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 20, "{epoch:?}");
        }
        assert_eq!(buffer == 1, texts[..20] == texts[20..], "epochs differ where there is a buffer");
        assert_eq!(texts, draw(1, buffer, 40));
    }
    assert_ne!(draw(1, 100, 20), draw(2, 100, 20));
    // A byte limit below one image leaves one group in the buffer.
    let buffer = Buffer { groups: 100, bytes: 1 };
    let mut bounded = Sampler::new(vec![Arc::clone(&table)], 1, TextChoice::All, buffer).unwrap();
    let texts: Vec<String> = (0..40).map(|_| bounded.draw().unwrap().text.to_string()).collect();
    assert_eq!(texts, draw(1, 1, 40));
    // A resumed run continues in the middle of an epoch.
    let mut resumed = Sampler::new(vec![Arc::clone(&table)], 1, TextChoice::All, groups(7)).unwrap();
    resumed.skip(&Position { pairs: 27, ..Default::default() }).unwrap();
    let rest: Vec<String> = (0..13).map(|_| resumed.draw().unwrap().text.to_string()).collect();
    assert_eq!(rest, draw(1, 7, 40)[27..], "from the first epoch, where no other is known");
}

#[test]
fn a_resumed_sampler_begins_with_the_epochs_it_is_in() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.parquet"), dir.path().join("b.parquet"));
    two_texts(&a, 5);
    let weights = Arc::new(Float32Array::from(vec![0.4, 1.0, 2.5]));
    let images = [Some(png(1)), Some(png(2)), Some(png(3))];
    pairs(&b, &images, &[Some("x"), Some("y"), Some("z")], vec![("weight", weights)]);
    let tables = vec![Arc::new(open(&a, "", 1.0).unwrap()), Arc::new(open(&b, "", 2.0).unwrap())];
    for texts in [TextChoice::All, TextChoice::One] {
        let sampler = || Sampler::new(tables.clone(), 1, texts, groups(4)).unwrap();
        let mut whole = sampler();
        let drawn: Vec<Pair> = (0..120).map(|_| whole.draw().unwrap()).collect();
        for taken in [1usize, 2, 3, 50, 77, 100] {
            let epochs = drawn[taken - 1].epochs.to_vec();
            assert!(taken < 50 || epochs.iter().all(|epoch| epoch.number > 0 && epoch.before > 5), "{epochs:?}");
            let mut resumed = sampler();
            resumed.skip(&Position { pairs: taken as u64, epochs }).unwrap();
            let rest: Vec<Pair> = (taken..120).map(|_| resumed.draw().unwrap()).collect();
            assert_eq!(rest, drawn[taken..], "{taken}");
        }
    }
}

#[test]
fn one_text_of_an_image_is_drawn_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.parquet");
    two_texts(&path, 10);
    let table = Arc::new(open(&path, "", 0.0).unwrap());
    let mut sampler = Sampler::new(vec![table], 1, TextChoice::One, groups(100)).unwrap();
    let mut drawn = BTreeSet::new();
    for _ in 0..8 {
        let epoch: Vec<Pair> = (0..10).map(|_| sampler.draw().unwrap()).collect();
        assert_eq!(epoch.iter().map(|p| p.image_id).collect::<BTreeSet<_>>().len(), 10);
        drawn.extend(epoch.into_iter().map(|p| p.text));
    }
    assert_eq!(drawn.len(), 20, "both texts of each come");
}

#[test]
fn mixtures_and_weights_have_their_shares() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.parquet"), dir.path().join("b.parquet"));
    two_texts(&a, 4);
    let weights = Arc::new(Float32Array::from(vec![0.0, 0.5, 3.0]));
    pairs(
        &b,
        &[Some(png(1)), Some(png(2)), Some(png(3))],
        &[Some("x"), Some("y"), Some("z")],
        vec![("weight", weights)],
    );
    let shares = |weight_a, weight_b| {
        let tables = vec![Arc::new(open(&a, "", weight_a).unwrap()), Arc::new(open(&b, "", weight_b).unwrap())];
        let mut sampler = Sampler::new(tables, 1, TextChoice::All, groups(8)).unwrap();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..1150 {
            *counts.entry(sampler.draw().unwrap().text.to_string()).or_default() += 1;
        }
        counts
    };
    // 8 rows of weight 1 against a sum of 3.5.
    let counts = shares(0.0, 0.0);
    let b: usize = ["x", "y", "z"].iter().filter_map(|t| counts.get(*t)).sum();
    assert_eq!((b, counts.get("x")), (350, None));
    assert!((30..70).contains(&counts["y"]), "{counts:?}");
    let counts = shares(1.0, 9.0);
    assert_eq!(counts["y"] + counts["z"], 1035);
}

fn options(threads: usize) -> LoaderOptions {
    LoaderOptions {
        seed: 3,
        augment: Augment { crop: [0.3, 1.0], flip: 0.5, randaugment: true },
        preprocessor: Preprocessor { width: 8, height: 8, mean: [0.5; 3], std: [0.5; 3], rescale_factor: 1.0 / 255.0 },
        limits: Limits::default(),
        text_tokens: 6,
        clean_text: true,
        prompt: String::new(),
        threads,
        ahead: 5,
    }
}

#[test]
fn batches_are_the_same_however_many_threads_make_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.parquet");
    let images: Vec<_> = (0..20u8).map(|i| Some(if i % 5 == 0 { b"no image".to_vec() } else { png(i) })).collect();
    let texts: Vec<String> = (0..20).map(|i| format!("A picture, of number {i}!")).collect();
    pairs(&path, &images, &texts.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>(), vec![]);
    let table = Arc::new(open(&path, "", 0.0).unwrap());
    let model = crate::tests::root().join("tests/fixtures/models/matcher");
    let config = BlipConfig::read(&model).unwrap();
    let tokenizer = Arc::new(Tokenizer::read(&model.join("tokenizer.json"), &config.text).unwrap());
    let loader = |threads, position, skipped| {
        let sampler = Sampler::new(vec![Arc::clone(&table)], 1, TextChoice::All, groups(6)).unwrap();
        Loader::start(sampler, Arc::clone(&tokenizer), options(threads), position, skipped).unwrap()
    };
    let start = Position::default;
    let mut one = loader(1, start(), 0);
    let first: Vec<RawBatch> = (0..8).map(|_| one.batch(4).unwrap()).collect();
    // 32 good pairs, from epochs of 16 good and 4 bad ones.
    assert_eq!(one.position().pairs, 32 + one.skipped());
    assert!((4..=8).contains(&one.skipped()) && !one.last_reason().is_empty());
    let mut three = loader(3, start(), 0);
    for batch in &first[..4] {
        assert_eq!((&three.batch(4).unwrap(), batch.pixels.len()), (batch, 4 * 3 * 64));
        assert!(batch.ids.iter().all(|ids| ids.len() <= 6));
    }
    // Dropping the loader ends its threads; a new loader continues from its position.
    let mut resumed = loader(2, three.position().clone(), three.skipped());
    for batch in &first[4..] {
        assert_eq!(&resumed.batch(4).unwrap(), batch);
    }
    assert_eq!((resumed.position(), resumed.skipped()), (one.position(), one.skipped()));
}

/// A Delta table of two versions; the second adds a file.
#[test]
fn a_delta_table_is_read_at_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("_delta_log");
    std::fs::create_dir(&log).unwrap();
    let field =
        |name: &str, kind: &str| format!(r#"{{"name":"{name}","type":"{kind}","nullable":true,"metadata":{{}}}}"#);
    let schema = format!(r#"{{"type":"struct","fields":[{},{}]}}"#, field("image", "binary"), field("text", "string"));
    let schema = schema.replace('"', "\\\"");
    let mut lines = vec![
        r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#.to_owned(),
        format!(
            r#"{{"metaData":{{"id":"t","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":[],"configuration":{{}},"createdTime":0}}}}"#
        ),
    ];
    for version in 0..2_u8 {
        let name = format!("{version}.parquet");
        two_texts(&dir.path().join(&name), version + 1);
        let size = std::fs::metadata(dir.path().join(&name)).unwrap().len();
        lines.push(format!(
            r#"{{"add":{{"path":"{name}","partitionValues":{{}},"size":{size},"modificationTime":0,"dataChange":true,"stats":"{{}}"}}}}"#
        ));
        std::fs::write(log.join(format!("{version:020}.json")), lines.join("\n")).unwrap();
        lines.clear();
    }
    // Files that no version lists are not read.
    two_texts(&dir.path().join("stray.parquet"), 7);
    let at = |version: Option<&str>| {
        let version = version.map(str::to_owned);
        Table::open(&TableSettings { path: dir.path().into(), version, query: String::new(), weight: 0.0 })
    };
    let [latest, first] = [at(None).unwrap(), at(Some("0")).unwrap()];
    assert_eq!((latest.version(), latest.pairs), (Some(1), 6));
    assert_eq!((first.version(), first.pairs), (Some(0), 2));
    assert_eq!(first.rows().unwrap().count(), 2);
    assert_ne!(first.digest().unwrap(), latest.digest().unwrap());
    let error = at(Some("5")).unwrap_err().to_string();
    assert!(error.contains("version 5"), "{error}");
}

/// A question and its answers; `None` is NULL.
type Asked<'a> = (Option<&'a str>, Option<&'a [Option<&'a str>]>);

/// Writes a table of questions about one image each.
fn questions(path: &Path, asked: &[Asked<'_>], more: Vec<(&str, ArrayRef)>) {
    let images = BinaryArray::from_iter_values((0..asked.len()).map(|i| png(i as u8)));
    let mut answers = ListBuilder::new(StringBuilder::new());
    for (_, given) in asked {
        if let Some(given) = given {
            given.iter().for_each(|answer| answers.values().append_option(*answer));
        }
        answers.append(given.is_some());
    }
    let texts: StringArray = asked.iter().map(|(question, _)| *question).collect();
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("image", Arc::new(images)), ("question", Arc::new(texts)), ("answers", Arc::new(answers.finish()))];
    columns.extend(more);
    write(path, columns);
}

fn open_questions(path: &Path, query: &str) -> crate::Result<Table> {
    Table::open_questions(&TableSettings { path: path.into(), version: None, query: query.into(), weight: 0.0 })
}

fn answers(row: &Row) -> Vec<(&str, f32)> {
    row.answers.iter().map(|answer| (&*answer.text, answer.weight)).collect()
}

#[test]
fn a_questions_answers_count_by_their_shares() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("questions.parquet");
    let asked: [Asked<'_>; 6] = [
        (Some("What Colour?"), Some(&[Some("red"), Some("Red"), Some("red"), None, Some(" ")])),
        (Some("how many?"), Some(&[Some("2")])),
        (None, Some(&[Some("2")])),
        (Some("which?"), Some(&[])),
        (Some("where?"), None),
        (Some("why?"), Some(&[None])),
    ];
    let weights = Float32Array::from(vec![None, Some(0.2), None, None, None, None]);
    questions(&path, &asked, vec![("weight", Arc::new(weights))]);
    let table = open_questions(&path, "").unwrap();
    // The weight is not one of rows, which an epoch has once each.
    assert_eq!((table.pairs, table.images, table.unusable, table.size), (2, 2, 4, 2.0));
    let rows: Vec<Row> = table.rows().unwrap().collect::<crate::Result<_>>().unwrap();
    assert_eq!((&*rows[0].text, answers(&rows[0])), ("What Colour?", vec![("red", 2.0 / 3.0), ("Red", 1.0 / 3.0)]));
    assert_eq!((answers(&rows[1]), rows[1].weight), (vec![("2", 0.2)], 1.0));

    // A single answer, of any type that is a text in SQL.
    let single = "SELECT image, question, 7 AS answer FROM pairs WHERE question LIKE 'how%'";
    let rows: Vec<Row> = open_questions(&path, single).unwrap().rows().unwrap().collect::<crate::Result<_>>().unwrap();
    assert_eq!(answers(&rows[0]), [("7", 1.0)]);

    for (query, words) in [
        ("SELECT image, question FROM pairs", "no column image, question, or answers or answer, but image, question"),
        ("SELECT image, answers FROM pairs", "but image, answers"),
        ("SELECT image, question, [1, 2] AS answers FROM pairs", "not a list of strings"),
        ("SELECT image, question, 'red' AS answers FROM pairs", "not a list of strings"),
        ("SELECT *, -1.0 AS weight FROM (SELECT image, question, answers FROM pairs)", "a weight is -1"),
        ("SELECT * FROM pairs WHERE question = 'why?'", "1 without an image, question or answer"),
    ] {
        let error = open_questions(&path, query).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("questions.parquet"), "{query}: {error}");
    }
    // A table of questions is none of pairs, and its lists may be long ones.
    assert!(open(&path, "", 0.0).unwrap_err().to_string().contains("no column image or text"));
    let long = "SELECT image, question, arrow_cast(answers, 'LargeList(LargeUtf8)') AS answers FROM pairs";
    assert_eq!(open_questions(&path, long).unwrap().pairs, 2);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    questions(&dir.path().join("one.parquet"), &asked[..1], vec![("id", ids)]);
    assert_eq!(open_questions(&dir.path().join("one.parquet"), "").unwrap().pairs, 1);
}

#[test]
fn questions_are_cleaned_and_cut_and_answers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("questions.parquet");
    let long = "red ".repeat(600);
    let asked: [Asked<'_>; 1] =
        [(Some("What (IS) on it, and what colour has it?"), Some(&[Some("A.B!"), Some(&long), Some("A.B!")]))];
    questions(&path, &asked, vec![]);
    let model = crate::tests::root().join("tests/fixtures/models/matcher");
    let config = BlipConfig::read(&model).unwrap();
    let tokenizer = Arc::new(Tokenizer::read(&model.join("tokenizer.json"), &config.text).unwrap());
    let table = Arc::new(open_questions(&path, "").unwrap());
    let batch = |clean_text| {
        let sampler = Sampler::new(vec![Arc::clone(&table)], 1, TextChoice::All, groups(6)).unwrap();
        let options = LoaderOptions { clean_text, ..options(2) };
        Loader::start(sampler, Arc::clone(&tokenizer), options, Position::default(), 0).unwrap().batch(2).unwrap()
    };
    let raw = batch(true);
    assert_eq!(raw.ids[0], tokenizer.itc_ids("what is on it, and what colour has it?", 6));
    let places: Vec<(usize, f32)> = raw.answers.iter().map(|answer| (answer.question, answer.weight)).collect();
    assert_eq!(places, [(0, 2.0 / 3.0), (0, 1.0 / 3.0), (1, 2.0 / 3.0), (1, 1.0 / 3.0)]);
    assert_eq!(raw.answers[0].ids, tokenizer.itc_ids("A.B!", 100));
    assert_eq!(raw.answers[1].ids.len(), config.text.max_positions);
    assert_eq!(batch(false).ids[0], tokenizer.itc_ids("What (IS) on it, and what colour has it?", 6));
}
