//! Rows of files with a JSON object on each line, including Python's deviations from JSON, or with one JSON array of
//! objects.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use datafusion::arrow::array::new_null_array;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::reader::{ReaderBuilder, infer_json_schema_from_iterator};
use datafusion::arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};

use crate::format::rows::{Batches, Problem, Rows};
use crate::format::text::kinds::Kinds;
use crate::format::text::message::plain;

/// Size at which a batch ends however few rows it has, bytes.
const BATCH_BYTES: usize = 16 << 20;

/// Most objects and lists within each other. Arrow does not read a Parquet file with more than 64 again.
const MOST_DEEP: usize = 50;

/// Infers the types of a file's objects, and counts its rows. A line that is not an object is a row too, which fails; so
/// is one in which a field has another kind of value than in most others.
///
/// # Errors
/// If no line is an object, says what is wrong with the first one.
pub(crate) fn look(file: impl Read) -> Result<(Schema, u64), String> {
    let mut lines = Lines::of(file)?;
    let (mut rows, mut line, mut wrong, mut some) = (0, Line::default(), None, false);
    let mut kinds = Kinds::default();
    let values = std::iter::from_fn(|| {
        loop {
            match lines.next(&mut line) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some(Err(ArrowError::JsonError(e))),
            }
            rows += 1;
            match object(&line) {
                Ok(object) => {
                    some = true;
                    return Some(Ok(kinds.tag(object)));
                }
                Err(reason) if wrong.is_none() => wrong = Some(reason),
                Err(_) => {}
            }
        }
    });
    let schema = infer_json_schema_from_iterator(values);
    match (schema, wrong) {
        (Err(e), _) if line.name.is_empty() => Err(plain(&e)),
        (Err(e), _) => Err(format!("{}: {}", line.name, plain(&e))),
        (Ok(_), Some(reason)) if !some => Err(reason),
        (Ok(schema), _) => Ok((kinds.schema(&schema), rows)),
    }
}

/// Reads all rows, in batches of at most `most`. A line that is not an object becomes a row of NULLs with a problem.
pub(crate) fn read(file: impl Read + Send + 'static, schema: SchemaRef, most: usize) -> Result<Batches, String> {
    let mut lines = Lines::of(file)?;
    Ok(Box::new(std::iter::from_fn(move || {
        let (mut all, mut bytes) = (Vec::new(), 0);
        while all.len() < most && bytes < BATCH_BYTES {
            let mut line = Line::default();
            match lines.next(&mut line) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return Some(Err(e)),
            }
            bytes += line.text.len();
            all.push(line);
        }
        (!all.is_empty()).then(|| rows(&all, &schema).map_err(|e| plain(&e)))
    })))
}

fn rows(lines: &[Line], schema: &SchemaRef) -> Result<Rows, ArrowError> {
    let texts = lines.iter().map(|line| line.text.as_slice());
    if !lines.iter().any(|line| is_too_deep(&line.text))
        && let Ok(batch) = decoded(texts, schema)
    {
        return Ok(Rows::from(batch));
    }
    // Decode line by line, so that a bad line does not affect the others.
    let (mut batches, mut problems) = (Vec::with_capacity(lines.len()), Vec::new());
    for (row, line) in lines.iter().enumerate() {
        let text = String::from_utf8_lossy(&line.text);
        let mended = mended(&text);
        let mut problem = |reason| problems.push(Problem { row, column: None, reason });
        let read = match is_too_deep(&line.text) {
            true => Err(ArrowError::JsonError(too_deep())),
            false => decoded([mended.as_bytes()].into_iter(), schema),
        };
        match read {
            Ok(batch) => {
                if matches!(text, Cow::Owned(_)) {
                    problem(format!("{}: bytes that are not UTF-8", line.name));
                }
                batches.push(batch);
            }
            Err(e) => {
                problem(object(line).err().unwrap_or_else(|| format!("{}: {}", line.name, plain(&e))));
                let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
                batches.push(RecordBatch::try_new(Arc::clone(schema), nulls)?);
            }
        }
    }
    Ok(Rows { batch: concat_batches(schema, &batches)?, problems })
}

/// Decodes lines, each of which must be exactly one object.
fn decoded<'a>(lines: impl ExactSizeIterator<Item = &'a [u8]>, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let builder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(lines.len() + 1).with_coerce_primitive(true);
    let mut decoder = builder.build_decoder()?;
    for (before, line) in lines.enumerate() {
        decoder.decode(line)?;
        if decoder.has_partial_record() || decoder.len() != before + 1 {
            return Err(ArrowError::JsonError("not one JSON object".to_owned()));
        }
    }
    decoder.flush()?.ok_or_else(|| ArrowError::JsonError("no JSON object".to_owned()))
}

/// Whether objects and lists lie more than [`MOST_DEEP`] within each other.
fn is_too_deep(text: &[u8]) -> bool {
    let (mut depth, mut most, mut in_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most > MOST_DEEP
}

fn too_deep() -> String {
    format!("it is nested more than {MOST_DEEP} deep")
}

/// Parses the object of a line. Errors name the line.
fn object(line: &Line) -> Result<Map<String, Value>, String> {
    if is_too_deep(&line.text) {
        return Err(format!("{}: {}", line.name, too_deep()));
    }
    let text = String::from_utf8_lossy(&line.text);
    // serde_json's line number counts within this line, so it is cut off.
    let unlike = |e: serde_json::Error| {
        let words = e.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        format!("{}: {words} at column {}", line.name, e.column())
    };
    let text = text.trim_end();
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&mended(text))).map_err(unlike)
}

/// Converts what Python's `json` writes to valid JSON: null for NaN and the infinities, and U+FFFD for a lone
/// surrogate.
fn mended(text: &str) -> String {
    const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
    let mut mended = String::with_capacity(text.len());
    let (mut rest, mut in_text) = (text, false);
    while let Some(next) = rest.chars().next() {
        let mut length = next.len_utf8();
        if in_text && next == '\\' {
            length = rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at);
            match surrogate(rest) {
                None => mended.push_str(&rest[..length]),
                Some(high) if high < 0xdc00 && surrogate(&rest[6..]).is_some_and(|low| low >= 0xdc00) => {
                    length = 12;
                    mended.push_str(&rest[..length]);
                }
                Some(_) => {
                    length = 6;
                    mended.push('\u{fffd}');
                }
            }
        } else if !in_text && let Some(word) = WORDS.iter().find(|word| rest.starts_with(**word)) {
            length = word.len();
            mended.push_str("null");
        } else {
            in_text ^= next == '"';
            mended.push(next);
        }
        rest = &rest[length..];
    }
    mended
}

/// UTF-16 surrogate that `text` begins with as an escape, if it does.
fn surrogate(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let code = u32::from_str_radix(digits, 16).ok()?;
    (0xd800..0xe000).contains(&code).then_some(code)
}

/// A line that is not blank, or an element of an array.
#[derive(Default)]
struct Line {
    /// Name in errors, such as `line 3`.
    name: String,
    text: Vec<u8>,
}

/// Reader of the lines of a file, or of the elements of its array.
struct Lines<R> {
    file: R,
    /// Number of lines or elements read.
    number: u64,
    array: Option<Array>,
}

/// State of reading an array.
#[derive(Default)]
struct Array {
    is_closed: bool,
}

impl<R: Read> Lines<BufReader<R>> {
    fn of(file: R) -> Result<Self, String> {
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut number = 0;
        loop {
            let buffer = file.fill_buf().map_err(|e| e.to_string())?;
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            number += buffer[..blank].iter().filter(|byte| **byte == b'\n').count() as u64;
            let next = buffer.get(blank).copied();
            let is_end = buffer.is_empty();
            file.consume(blank);
            if next == Some(b'[') {
                file.consume(1);
                return Ok(Self { file, number: 0, array: Some(Array::default()) });
            }
            if is_end || next.is_some() {
                return Ok(Self { file, number, array: None });
            }
        }
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line or element; false at the end.
    fn next(&mut self, line: &mut Line) -> Result<bool, String> {
        loop {
            line.text.clear();
            let is_one = match &mut self.array {
                None => self.file.read_until(b'\n', &mut line.text).map_err(|e| e.to_string())? > 0,
                Some(array) => array.next(&mut self.file, &mut line.text)?,
            };
            if !is_one {
                return Ok(false);
            }
            self.number += 1;
            if !line.text.trim_ascii().is_empty() {
                let what = if self.array.is_some() { "object" } else { "line" };
                line.name = format!("{what} {}", self.number);
                return Ok(true);
            }
        }
    }
}

impl Array {
    /// Reads up to the comma after the next element, or to the end of the array.
    fn next(&mut self, file: &mut impl BufRead, element: &mut Vec<u8>) -> Result<bool, String> {
        let (mut depth, mut in_text, mut is_escaped) = (0_u64, false, false);
        loop {
            let buffer = file.fill_buf().map_err(|e| e.to_string())?;
            if buffer.is_empty() {
                return if self.is_closed {
                    Ok(false)
                } else {
                    Err("the array that it begins with is not closed".to_owned())
                };
            }
            let mut used = 0;
            let mut is_whole = false;
            for &byte in buffer {
                used += 1;
                if self.is_closed {
                    if !byte.is_ascii_whitespace() {
                        return Err("something follows the array that it begins with".to_owned());
                    }
                    continue;
                }
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' => is_escaped = in_text,
                    b'"' => in_text = !in_text,
                    _ if in_text => {}
                    b'[' | b'{' => depth += 1,
                    b',' | b']' if depth == 0 => {
                        is_whole = true;
                        self.is_closed = byte == b']';
                        break;
                    }
                    b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                // An element is joined into one line, since errors name only columns.
                element.push(if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
            }
            file.consume(used);
            if is_whole {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array as _, AsArray as _};
    use datafusion::arrow::datatypes::{DataType, Int64Type};

    use super::*;

    /// Numbers, texts, and failed rows with their reasons, of a file of objects with a number and a text.
    type All = (Vec<Option<i64>>, Vec<Option<String>>, Vec<(usize, String)>);

    fn read_all(file: &'static [u8]) -> All {
        let (schema, count) = look(file).unwrap();
        let (mut numbers, mut texts, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for rows in read(file, Arc::new(schema), 3).unwrap() {
            let Rows { batch, problems: these } = rows.unwrap();
            problems.extend(these.into_iter().map(|problem| (numbers.len() + problem.row, problem.reason)));
            let column = |name| batch.column_by_name(name).unwrap();
            numbers.extend(column("n").as_primitive::<Int64Type>().iter());
            texts.extend(column("text").as_string::<i32>().iter().map(|text| text.map(str::to_owned)));
        }
        assert_eq!(numbers.len() as u64, count);
        (numbers, texts, problems)
    }

    #[test]
    fn one_line_that_is_no_object_is_one_row_that_fails() {
        let file = b"\xef\xbb\xbf{\"n\": 1, \"text\": \"a\"}\r\n\n  \r\n{\"n\": 2, \"text\": \"caf\xe9\"}\n{\"n\": 3,\n[4]\n{\"n\": 5}{\"n\": 5}\n{\"n\":\n6}\n{\"n\": 7, \"text\": \"b\"}";
        let (numbers, texts, problems) = read_all(&file[3..]);
        assert_eq!(numbers, [Some(1), Some(2), None, None, None, None, None, Some(7)]);
        assert_eq!((texts[1].as_deref(), texts[7].as_deref()), (Some("caf\u{fffd}"), Some("b")));
        let said: Vec<_> = problems.iter().map(|(row, reason)| format!("{row} {reason}")).collect();
        let wanted = [
            "1 line 4: bytes that are not UTF-8",
            "2 line 5: EOF while parsing a value",
            "3 line 6: invalid type: sequence, expected a map",
            "4 line 7: trailing characters",
            "5 line 8: EOF while parsing a value",
            "6 line 9: invalid type: integer `6`, expected a map",
        ];
        assert!(said.len() == wanted.len() && said.iter().zip(wanted).all(|(a, b)| a.starts_with(b)), "{said:?}");
    }

    #[test]
    fn a_value_of_another_kind_fails_with_its_row() {
        for (usual, other) in [
            (r#""text": "a""#, r#""text": ["a"]"#),
            (r#""text": "a""#, r#""text": {"en": "a"}"#),
            (r#""text": "a", "x": 1"#, r#""text": "a", "x": [1]"#),
            (r#""text": "a", "x": [1]"#, r#""text": "a", "x": 1"#),
            (r#""text": "a", "x": {"y": [1]}"#, r#""text": "a", "x": {"y": 1}"#),
            (r#""text": "a", "x": [{"y": 1}]"#, r#""text": "a", "x": [{"y": {}}]"#),
            (r#""text": "a", "x": {"y": 1}"#, r#""text": "a", "x": [1]"#),
            (r#""text": "a", "x": [1, 2]"#, r#""text": "a", "x": [[1]]"#),
            (r#""text": "a", "x": [1, 2]"#, r#""text": "a", "x": [1, [2]]"#),
            (r#""text": "a", "x": [{"y": [1]}]"#, r#""text": "a", "x": [{"y": [[1]]}]"#),
        ] {
            for at in 0..3 {
                let line = |n| format!("{{\"n\": {n}, {}}}\n", if n == at { other } else { usual });
                let file: &'static str = (0..3).map(line).collect::<String>().leak();
                let (numbers, texts, problems) = read_all(file.as_bytes());
                let wanted: Vec<_> = (0..3).map(|n| (n != at).then_some(n)).collect();
                assert_eq!(numbers, wanted, "{other}");
                assert_eq!(texts.iter().flatten().count(), 2, "{other}");
                let said = format!("line {}: ", at + 1);
                assert!(problems.len() == 1 && problems[0].1.starts_with(&said), "{problems:?}");
            }
        }
        // NULL is of any kind, and an empty list of any list.
        let file = br#"{"n": null, "text": "a", "x": null, "y": []}
{"n": 2, "text": "b", "x": [1], "y": [[1]]}
{"n": 2, "text": "b", "x": [], "y": [[], [2]]}
"#;
        assert_eq!(read_all(file).2, []);
        let (schema, _) = look(&file[..]).unwrap();
        let list = |item| DataType::new_list(item, true);
        assert_eq!(schema.field_with_name("x").unwrap().data_type(), &list(DataType::Int64));
        assert_eq!(schema.field_with_name("y").unwrap().data_type(), &list(list(DataType::Int64)));
    }

    /// Parquet files with deeper types are not read by Arrow.
    #[test]
    fn a_value_that_is_nested_too_deep_fails_with_its_row() {
        for (depth, is_read) in [(48, true), (60, false), (5_000, false)] {
            let value = |open: &str, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for value in [value("{\"a\":", "}"), value("[", "]")] {
                let file = format!("{{\"n\": 1, \"text\": \"[[[[\"}}\n{{\"n\": 2, \"text\": \"b\", \"x\": {value}}}\n");
                let file: &'static str = file.leak();
                let (numbers, _, problems) = read_all(file.as_bytes());
                assert_eq!(numbers, [Some(1), is_read.then_some(2)], "{depth}");
                let said = "line 2: it is nested more than 50 deep";
                assert!(is_read || (problems.len() == 1 && problems[0].1 == said), "{problems:?}");
            }
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        let file = br#"{"n": 1, "text": "\ud83d \ud83d\ude00 \\ud83d NaN", "score": NaN}
{"n": 2, "text": "\ude00\ud83dx", "score": -Infinity}
{"n": 3, "text": "\"NaN\"", "score": 0.5, "more": [Infinity, 1.0]}
"#;
        let (numbers, texts, problems) = read_all(file);
        assert_eq!((numbers.len(), problems.len()), (3, 0));
        let texts: Vec<_> = texts.iter().flatten().map(String::as_str).collect();
        assert_eq!(texts, ["\u{fffd} \u{1f600} \\ud83d NaN", "\u{fffd}\u{fffd}x", "\"NaN\""]);
        let (schema, _) = look(&file[..]).unwrap();
        assert_eq!(schema.field_with_name("score").unwrap().data_type(), &DataType::Float64);
        let mut batches = read(&file[..], Arc::new(schema), 10).unwrap();
        assert_eq!(batches.next().unwrap().unwrap().batch.column_by_name("score").unwrap().null_count(), 2);
    }

    #[test]
    fn an_array_is_read_object_by_object() {
        let file = br#" [
  {"n": 1, "text": "a, [b] \"{"},
  {"n": 2, "text": "c", "box": {"of": [1, 2]}},
  3
] "#;
        let (numbers, texts, problems) = read_all(file);
        assert_eq!(numbers, [Some(1), Some(2), None]);
        assert_eq!(texts[0].as_deref(), Some("a, [b] \"{"));
        assert!(problems.len() == 1 && problems[0].1.starts_with("object 3: invalid type"), "{problems:?}");
        let (schema, rows) = look(&b"[]"[..]).unwrap();
        assert_eq!((schema.fields().len(), rows), (0, 0));
    }
}
