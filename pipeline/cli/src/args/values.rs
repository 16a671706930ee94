//! Values of arguments, checked as they are parsed.

use std::str::FromStr;

/// A parser that checks a value by `parse`, and returns it as it was given.
pub(crate) fn given<T: 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| parse(text).map(|_| text.to_owned())
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
        return Err(format!("{name:?} is not the name of a parameter, which has only letters, digits and _"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match capfilt_udfs::config::bytes(text) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("expected a size such as 512MB, 2GiB or 1048576 (bytes)".to_owned()),
    }
}

/// A whole number of at least 1.
pub(crate) fn at_least_1<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    text.parse().ok().filter(|n| *n != T::default()).ok_or_else(|| "expected a whole number, 1 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use capfilt_job::{probability, source_score};

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
        let limit = given(str::parse::<capfilt_job::FailureLimit>);
        assert_eq!(limit("1%").unwrap(), "1%");
        assert!(limit("x").is_err());
        assert!(at_least_1::<u32>("0").is_err() && at_least_1::<u32>("7") == Ok(7));
    }
}
