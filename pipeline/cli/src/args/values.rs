//! Values of arguments, checked as they are parsed.

use std::str::FromStr;

/// Checks that a value can be parsed, and returns it as it was given.
pub(crate) fn checked<T: FromStr<Err = String>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned())
}

/// A setting and its value.
pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected SETTING=VALUE")?;
    // The name becomes part of a statement.
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if !plain || !name.contains('.') {
        return Err(format!("{name:?} is not the name of a setting: they begin with capfilt., fetch. or datafusion."));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A parameter and its value.
pub(crate) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let name = name.strip_prefix('$').unwrap_or(name);
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Err(format!("{name:?} is not the name of a parameter: it has letters, digits and _"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Two names with `=` between them.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected two names with = between them".to_owned()),
    }
}

/// [`pair`], as it was given.
pub(crate) fn paired(text: &str) -> Result<String, String> {
    pair(text).map(|_| text.to_owned())
}

/// `I/N`, as it was given.
pub(crate) fn shard(text: &str) -> Result<String, String> {
    capfilt_job::shard(text).map(|_| text.to_owned())
}

/// A size, as it was given.
pub(crate) fn size(text: &str) -> Result<String, String> {
    match capfilt_udfs::config::bytes(text) {
        Some(bytes) if bytes > 0 => Ok(text.to_owned()),
        _ => Err("expected a size such as 512MB, 2GiB or 1048576 (bytes)".to_owned()),
    }
}

/// A number from 0 to 1.
pub(crate) fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// A score from 0 to 1.
pub(crate) fn score(text: &str) -> Result<f32, String> {
    probability(text)?;
    text.parse().map_err(|e| format!("{e}"))
}

/// A source of texts and a score.
pub(crate) fn source_score(text: &str) -> Result<(String, f32), String> {
    let (source, least) = pair(text)?;
    Ok((source, score(&least)?))
}

/// [`source_score`], as it was given.
pub(crate) fn source_scored(text: &str) -> Result<String, String> {
    source_score(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(setting("capfilt.device=cpu").is_ok());
        assert!(setting("device=cpu").is_err());
        assert!(setting("capfilt.x; DROP=1").is_err());
        assert_eq!(parameter("$a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(parameter("a b=1").is_err());
        assert!(probability("1.5").is_err() && probability("x").is_err() && probability("nan").is_err());
        assert!(source_score("web=1.5").is_err() && source_score("web=0.5").is_ok());
        assert!(
            checked::<capfilt_job::FailureLimit>("1%").is_ok() && checked::<capfilt_job::FailureLimit>("x").is_err()
        );
    }
}
