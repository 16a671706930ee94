//! CSV reader, and inference of types that hold all values.

use std::io::Read;
use std::sync::Arc;

use csv::{ByteRecord, ErrorKind, Position, ReaderBuilder};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{ArrayRef, StringViewBuilder};
use datafusion::arrow::compute::kernels::cast_utils::{Parser as _, string_to_datetime};
use datafusion::arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;

use crate::adapt::adapt;
use crate::format::rows::{Batches, Problem, Rows};
use crate::format::text::message::plain;
use crate::format::text::quotes::Quotes;

/// Size at which a batch ends however few rows it has, bytes.
const BATCH_BYTES: usize = 16 << 20;

/// Infers the columns and counts the rows. A column has a type only if every value parses as that type; else it is
/// text.
pub(crate) fn look(file: impl Read) -> Result<(Schema, u64), String> {
    let mut quotes = Quotes::of(file);
    let mut records = ReaderBuilder::new().from_reader(&mut quotes);
    let names = records.byte_headers().map_err(|e| said(&e))?.clone();
    let mut looks = vec![Looks::default(); names.len()];
    let (mut rows, mut record) = (0, ByteRecord::new());
    while records.read_byte_record(&mut record).map_err(|e| said(&e))? {
        rows += 1;
        for (looks, value) in looks.iter_mut().zip(&record) {
            looks.add(value);
        }
    }
    quotes.finish()?;
    let fields = names.iter().zip(&looks).enumerate().map(|(at, (name, looks))| {
        let unlike = |_| format!("the name of its column {} is not UTF-8: write the file as UTF-8", at + 1);
        Ok(Field::new(std::str::from_utf8(name).map_err(unlike)?, looks.data_type(), true))
    });
    Ok((Schema::new(fields.collect::<Result<Vec<_>, String>>()?), rows))
}

/// Reads all rows, in batches of at most `most`. Columns are found by their names in the header; a column that the file
/// lacks is NULL. Invalid UTF-8 in a field becomes U+FFFD and a problem of its row.
pub(crate) fn read(file: impl Read + Send + 'static, schema: SchemaRef, most: usize) -> Result<Batches, String> {
    let mut records = ReaderBuilder::new().from_reader(file);
    let header = records.byte_headers().map_err(|e| said(&e))?;
    let place = |name: &String| header.iter().position(|known| known == name.as_bytes());
    let places: Vec<Option<usize>> = schema.fields().iter().map(|field| place(field.name())).collect();
    let mut record = ByteRecord::new();
    Ok(Box::new(std::iter::from_fn(move || {
        let mut columns: Vec<StringViewBuilder> = places.iter().map(|_| StringViewBuilder::new()).collect();
        let (mut rows, mut bytes, mut problems) = (0, 0, Vec::new());
        while rows < most && bytes < BATCH_BYTES {
            match records.read_byte_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return Some(Err(said(&e))),
            }
            for (at, (column, place)) in columns.iter_mut().zip(&places).enumerate() {
                let value = place.and_then(|place| record.get(place)).unwrap_or_default();
                match std::str::from_utf8(value) {
                    Ok("") => column.append_null(),
                    Ok(value) => column.append_value(value),
                    Err(_) => {
                        let lossy = String::from_utf8_lossy(value);
                        let name = schema.field(at).name();
                        problems.push(Problem::not_utf8(rows, name, &lossy));
                        column.append_value(lossy);
                    }
                }
            }
            (rows, bytes) = (rows + 1, bytes + record.as_slice().len());
        }
        (rows > 0).then(|| typed(columns, &schema).map(|batch| Rows { batch, problems }))
    })))
}

/// Converts texts to the schema's types.
fn typed(texts: Vec<StringViewBuilder>, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let columns = schema.fields().iter().zip(texts).map(|(field, mut texts)| {
        let texts: ArrayRef = Arc::new(texts.finish());
        adapt(&texts, field.data_type()).map_err(|e| format!("column {}: {}", field.name(), plain(&e)))
    });
    let columns = columns.collect::<Result<_, String>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| plain(&e))
}

/// Message of an error, with the line number.
fn said(error: &csv::Error) -> String {
    let line =
        |at: &Option<Position>| at.as_ref().map_or_else(|| "a line".to_owned(), |at| format!("line {}", at.line()));
    match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let s = if *len == 1 { "" } else { "s" };
            format!("{} has {len} field{s}, and the header {expected_len}", line(pos))
        }
        ErrorKind::Io(e) => e.to_string(),
        _ => error.to_string(),
    }
}

/// Kinds of values found in a column.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    /// Bit set of the kinds found.
    kinds: u16,
    /// Whether a time is outside the range of nanosecond timestamps.
    is_far: bool,
}

impl Looks {
    const BOOLEAN: u16 = 1;
    const INTEGER: u16 = 1 << 1;
    const FRACTION: u16 = 1 << 2;
    const DATE: u16 = 1 << 3;
    const SECONDS: u16 = 1 << 4;
    const MILLIS: u16 = 1 << 5;
    const MICROS: u16 = 1 << 6;
    const NANOS: u16 = 1 << 7;
    const TEXT: u16 = 1 << 8;
    /// A time with a zone.
    const ZONED: u16 = 1 << 9;
    /// A time without one, or a date.
    const ZONELESS: u16 = 1 << 10;

    fn add(&mut self, value: &[u8]) {
        if value.is_empty() || self.kinds & Self::TEXT != 0 {
            return;
        }
        let kind = std::str::from_utf8(value).ok().and_then(|value| number(value).or_else(|| self.time(value)));
        self.kinds |= kind.unwrap_or(Self::TEXT);
    }

    /// Kind of a date or time; `None` unless it exists in the calendar.
    fn time(&mut self, value: &str) -> Option<u16> {
        let kind = time_like(value)?;
        let utc: Tz = "+00:00".parse().ok()?;
        let time = string_to_datetime(&utc, value).ok()?;
        if kind == Self::DATE {
            Date32Type::parse(value)?;
        }
        self.is_far |= time.timestamp_nanos_opt().is_none();
        // The default zone changes the value only if the text names no zone.
        let elsewhere: Tz = "+01:00".parse().ok()?;
        let is_zoned = string_to_datetime(&elsewhere, value).is_ok_and(|other| other == time);
        Some(kind | if is_zoned { Self::ZONED } else { Self::ZONELESS })
    }

    fn data_type(self) -> DataType {
        const BOTH: u16 = Looks::ZONED | Looks::ZONELESS;
        // A time without a zone is no known instant, so it has no common type with times that name one.
        if self.kinds & BOTH == BOTH {
            return DataType::Utf8;
        }
        let zone: Option<Arc<str>> = (self.kinds & Self::ZONED != 0).then(|| "UTC".into());
        let time = |unit| DataType::Timestamp(unit, zone.clone());
        match self.kinds & !BOTH {
            0 => DataType::Null,
            Self::BOOLEAN => DataType::Boolean,
            Self::INTEGER => DataType::Int64,
            kinds if kinds & !(Self::INTEGER | Self::FRACTION) == 0 => DataType::Float64,
            Self::DATE => DataType::Date32,
            kinds if kinds & (Self::BOOLEAN | Self::INTEGER | Self::FRACTION | Self::TEXT) != 0 => DataType::Utf8,
            kinds if kinds & Self::NANOS != 0 && self.is_far => DataType::Utf8,
            kinds if kinds & Self::NANOS != 0 => time(TimeUnit::Nanosecond),
            kinds if kinds & Self::MICROS != 0 => time(TimeUnit::Microsecond),
            kinds if kinds & Self::MILLIS != 0 => time(TimeUnit::Millisecond),
            _ => time(TimeUnit::Second),
        }
    }
}

/// Kind of a number or Boolean, if the value is one. A number with a leading zero is left as text, since it may be an
/// id or a postal code; so is a number that its type cannot hold.
fn number(value: &str) -> Option<u16> {
    if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
        return Some(Looks::BOOLEAN);
    }
    match value.strip_prefix('-').unwrap_or(value).as_bytes() {
        [b'0', b'0'..=b'9', ..] => None,
        digits if digits.iter().all(u8::is_ascii_digit) => value.parse::<i64>().is_ok().then_some(Looks::INTEGER),
        // Not a plus sign, and not a word such as `inf`.
        [b'0'..=b'9' | b'.', ..] => value.parse().is_ok_and(f64::is_finite).then_some(Looks::FRACTION),
        _ => None,
    }
}

/// Kind of a value in the form of a date or time, whether or not it exists: `2025-01-31`, optionally followed by `T` or
/// a blank and a time, with up to nine digits of a second and a zone.
fn time_like(value: &str) -> Option<u16> {
    let form = value.replace(|digit: char| digit.is_ascii_digit(), "0");
    let Some(time) = form.strip_prefix("0000-00-00")?.strip_prefix(['T', ' ']) else {
        return (form.len() == 10).then_some(Looks::DATE);
    };
    let rest = time.strip_prefix("00:00:00")?;
    let Some(fraction) = rest.strip_prefix('.') else { return (!rest.starts_with('0')).then_some(Looks::SECONDS) };
    match fraction.bytes().take_while(|byte| *byte == b'0').count() {
        1..=3 => Some(Looks::MILLIS),
        4..=6 => Some(Looks::MICROS),
        7..=9 => Some(Looks::NANOS),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> DataType {
        let mut looks = Looks::default();
        values.iter().for_each(|value| looks.add(value.as_bytes()));
        looks.data_type()
    }

    #[test]
    fn a_type_holds_all_values_of_a_column() {
        use DataType::{Boolean, Date32, Float64, Int64, Null, Utf8};
        let zoned = |unit| DataType::Timestamp(unit, Some("UTC".into()));
        let time = |unit| DataType::Timestamp(unit, None);
        for (values, wanted) in [
            (&["", ""][..], Null),
            (&["1", "", "-2"], Int64),
            (&["1", "2.5", "-1e3", ".5", "5.", "1.5E-3"], Float64),
            (&["true", "False"], Boolean),
            (&["true", "1"], Utf8),
            // Words and forms that some readers take for numbers.
            (&["1", "NaN"], Utf8),
            (&["1.5", "inf"], Utf8),
            (&["1", "+5"], Utf8),
            (&["1e400"], Utf8),
            (&["."], Utf8),
            (&["1_000"], Utf8),
            (&["9223372036854775807"], Int64),
            (&["9223372036854775808"], Utf8),
            (&["12345678901234567890"], Utf8),
            // Ids and postal codes.
            (&["1", "007"], Utf8),
            (&["-01"], Utf8),
            (&["0.5", "00.5"], Utf8),
            (&["0", "0.5", "-0.5"], Float64),
            (&["2020-01-01"], Date32),
            // MySQL's zero date, and dates and times that no calendar or clock has.
            (&["2020-01-01", "0000-00-00"], Utf8),
            (&["2020-01-01", "2020-02-30"], Utf8),
            (&["2020-01-01", "20-01-01"], Utf8),
            (&["2020-01-01 10:00:00"], time(TimeUnit::Second)),
            (&["2020-01-01 10:00:00", "2020-01-01"], time(TimeUnit::Second)),
            (&["2020-01-01 10:00:00", "0000-00-00 00:00:00"], Utf8),
            (&["2020-01-01T10:00:00", "2020-01-01T25:61:61"], Utf8),
            (&["2020-01-01T10:00:00+02:00", "2020-01-01T10:00:00Z"], zoned(TimeUnit::Second)),
            (&["2020-01-01T10:00:00+01:00"], zoned(TimeUnit::Second)),
            (&["2020-01-01T10:00:00", "2020-01-01T10:00:00+02:00"], Utf8),
            (&["2020-01-01", "2020-01-01T10:00:00Z"], Utf8),
            (&["2020-01-01T10:00:00+99:00"], Utf8),
            (&["2020-01-01T10:00:00 local"], Utf8),
            (&["2020-01-01T10:00:00.5Z", "2020-01-01T10:00:00.123456Z"], zoned(TimeUnit::Microsecond)),
            (&["2020-01-01T10:00:00.123456789"], time(TimeUnit::Nanosecond)),
            (&["2020-01-01T10:00:00.1234567890"], Utf8),
            // Outside the range of nanosecond timestamps.
            (&["1600-01-01T10:00:00.123456789"], Utf8),
            (&["2020-01-01T10:00:00.123456789", "1600-01-01"], Utf8),
            (&["1600-01-01T10:00:00.123"], time(TimeUnit::Millisecond)),
            (&["2020-01-01", "5"], Utf8),
        ] {
            assert_eq!(of(values), wanted, "{values:?}");
        }
    }

    #[test]
    fn a_value_is_read_as_what_it_looks_like() {
        let text = "a,b,c,d\n1,2020-01-01,2020-01-01 10:00:00.5,TRUE\n,,,\n-3,9999-12-31,0001-01-01 00:00:00,false\n";
        let (schema, rows) = look(text.as_bytes()).unwrap();
        let batches = read(text.as_bytes(), Arc::new(schema.clone()), 2).unwrap();
        let batches: Vec<Rows> = batches.collect::<Result<_, _>>().unwrap();
        assert_eq!((rows, batches.iter().map(|rows| rows.batch.num_rows()).collect::<Vec<_>>()), (3, vec![2, 1]));
        assert_eq!(batches[0].batch.schema().as_ref(), &schema);
        let nulls: Vec<usize> = batches[0].batch.columns().iter().map(|column| column.null_count()).collect();
        assert_eq!(nulls, [1; 4]);
    }

    #[test]
    fn bytes_that_are_no_text_are_a_problem_of_their_row() {
        let text = b"id,text\n1,a cat\n2,caf\xe9\n3,a dog\n";
        let (schema, rows) = look(&text[..]).unwrap();
        let mut batches = read(&text[..], Arc::new(schema), 10).unwrap();
        let Rows { batch, problems } = batches.next().unwrap().unwrap();
        assert_eq!((rows, batch.num_rows(), problems.len()), (3, 3, 1));
        assert_eq!((problems[0].row, problems[0].column.as_deref()), (1, Some("text")));
        assert!(look(&b"id,caf\xe9\n1,2\n"[..]).unwrap_err().contains("the name of its column 2 is not UTF-8"));
    }
}
