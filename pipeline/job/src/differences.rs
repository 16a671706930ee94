//! How two sets of options differ: those that a job or rounds were begun with, and those of now.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Values by name.
pub type Options = BTreeMap<String, String>;

/// Flattens a JSON value: each leaf by the names that lead to it, joined by dots. Nulls are left out.
pub fn flatten(value: &Value) -> Options {
    fn add(prefix: &str, value: &Value, to: &mut Options) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    add(&name, value, to);
                }
            }
            Value::Null => {}
            Value::String(text) => drop(to.insert(prefix.to_owned(), text.clone())),
            other => drop(to.insert(prefix.to_owned(), other.to_string())),
        }
    }
    let mut flat = Options::new();
    add("", value, &mut flat);
    flat
}

/// The options that differ, in the order of their names: name, value before, and value now.
pub fn differing<'a>(before: &'a Options, now: &'a Options) -> Vec<(&'a str, &'a str, &'a str)> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differ = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    differ.map(|name| (name.as_str(), shown(before.get(name)), shown(now.get(name)))).collect()
}

/// The value, or `nothing`; of a SHA-256 its first 12 digits.
fn shown(value: Option<&String>) -> &str {
    match value.map_or("", String::as_str) {
        "" => "nothing",
        digest if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()) => &digest[..12],
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_named() {
        let options = |of: &[(&str, &str)]| -> Options {
            of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let (a1, b2) = ("a1".repeat(32), "b2".repeat(32));
        let before = options(&[("filter", &a1), ("recipe", &a1), ("arguments", ""), ("source", "x")]);
        assert!(differing(&before, &before).is_empty());
        let now = options(&[("filter", &b2), ("arguments", "--min-itm 0.6"), ("source", "x")]);
        assert_eq!(
            differing(&before, &now),
            [
                ("arguments", "nothing", "--min-itm 0.6"),
                ("filter", "a1a1a1a1a1a1", "b2b2b2b2b2b2"),
                ("recipe", "a1a1a1a1a1a1", "nothing"),
            ]
        );
    }

    #[test]
    fn values_are_told_apart_by_their_names() {
        let values = flatten(&json!({"seed": 1, "train": {"lr": 0.1, "start": null}, "loss": {"prompt": "a\nb"}}));
        let names: Vec<&str> = values.keys().map(String::as_str).collect();
        assert_eq!(names, ["loss.prompt", "seed", "train.lr"]);
        assert_eq!((values["train.lr"].as_str(), values["loss.prompt"].as_str()), ("0.1", "a\nb"));
    }
}
