use super::*;
use crate::config::Key;

#[test]
fn sizes() {
    for (text, expected) in [
        ("1048576", Some(1_048_576)),
        ("512MB", Some(512_000_000)),
        ("2GiB", Some(2 << 30)),
        ("1.5 kib", Some(1536)),
        ("1.5", None),
        ("12 parsecs", None),
        ("-1", None),
        ("", None),
    ] {
        assert_eq!(bytes(text), expected, "{text}");
    }
}

#[test]
fn options_take_any_number_that_fits() {
    let top_p = Key::TopP.setting().kind;
    let beams = Key::NumBeams.setting().kind;
    assert_eq!(top_p.read(&ScalarValue::Int64(Some(1))), Some(Value::Float(1f32.to_bits())));
    assert_eq!(top_p.read(&ScalarValue::Decimal128(Some(9), 2, 1)), Some(Value::Float(0.9f32.to_bits())));
    assert_eq!(top_p.read(&ScalarValue::Float64(Some(1.5))), None);
    assert_eq!(top_p.read(&ScalarValue::Float64(Some(f64::NAN))), None);
    assert_eq!(beams.read(&ScalarValue::UInt8(Some(4))), Some(Value::Integer(4)));
    assert_eq!(beams.read(&ScalarValue::Float32(Some(4.0))), Some(Value::Integer(4)));
    assert_eq!(beams.read(&ScalarValue::Float32(Some(4.5))), None);
    assert_eq!(beams.read(&ScalarValue::Int64(Some(-4))), None);
    let seed = Key::Seed.setting().kind;
    assert_eq!(seed.read(&ScalarValue::UInt64(Some(u64::MAX))), Some(Value::Integer(u64::MAX)));
}

#[test]
fn near_misses() {
    assert!(hint("captionner", &["captioner", "filter"]).contains("Did you mean captioner?"));
    assert!(!hint("zebra", &["captioner", "filter"]).contains("Did you mean"));
    assert_eq!(distance("kitten", "sitting"), 3);
}
