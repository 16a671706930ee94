//! Parameters of a statement: values for `$name`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::ControlFlow;

use capfilt_tables::error::{Error, Result};
use datafusion::sql::parser::{CopyToSource, DFParser, Statement};
use datafusion::sql::sqlparser::ast::{self, Expr, UnaryOperator, Value, VisitMut, visit_expressions_mut};

/// Values of a statement's parameters.
///
/// They are substituted before planning instead of bound to the plan: DataFusion plans an unbound parameter inside a
/// struct or list as NULL and never revises that, so a struct of options would get the wrong type.
#[derive(Debug, Clone, Default)]
pub struct Params(BTreeMap<String, Value>);

impl Params {
    /// Sets `name` from the command line: to a number if the value parses as one, else to text without its quotes.
    pub fn set(&mut self, name: &str, value: &str) {
        let quoted = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')).filter(|_| value.len() > 1);
        let value = match quoted {
            Some(inner) => Value::SingleQuotedString(inner.replace("''", "'")),
            None if is_number(value) => Value::Number(value.to_owned(), false),
            None => Value::SingleQuotedString(value.to_owned()),
        };
        self.0.insert(name.to_owned(), value);
    }

    /// Sets `name` to a text, even if it looks like a number.
    pub fn set_text(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), Value::SingleQuotedString(value.to_owned()));
    }

    /// Replaces the parameters of `statement` by their values. Errors on a parameter without a value; unused values are
    /// ignored.
    pub fn bind(&self, statement: &mut Statement) -> Result<()> {
        let found = each_placeholder(statement, &mut |name, expr| match self.0.get(name) {
            Some(value) => {
                *expr = literal(value);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(name.to_owned()),
        });
        found.break_value().map_or(Ok(()), |name| Err(Error::Parameter(name)))
    }

    /// Names of the parameters in the statements of `sql`. A `$name` in a comment or string is not a parameter.
    ///
    /// # Errors
    /// SQL that cannot be parsed.
    pub fn asked(sql: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for mut statement in DFParser::parse_sql(sql)? {
            let _ = each_placeholder(&mut statement, &mut |name, _| {
                names.insert(name.to_owned());
                ControlFlow::Continue(())
            });
        }
        Ok(names)
    }

    /// The value of `name`, if it is a number and `sql` uses it.
    pub(crate) fn number_asked(&self, sql: &str, name: &str) -> Option<f32> {
        let Some(Value::Number(digits, _)) = self.0.get(name) else { return None };
        Self::asked(sql).ok()?.contains(name).then(|| digits.parse().ok())?
    }

    /// One SQL comment for each parameter that `sql` uses. Empty for SQL that cannot be parsed, which never runs.
    pub fn comments(&self, sql: &str) -> String {
        let asked = Self::asked(sql).unwrap_or_default();
        self.0.iter().filter(|(name, _)| asked.contains(*name)).fold(String::new(), |mut out, (name, value)| {
            // A line break in a value would end the comment.
            let value = value.to_string().replace(['\n', '\r'], " ");
            let _ = writeln!(out, "-- ${name} = {value}");
            out
        })
    }
}

/// Callback on a parameter's name and the expression in its place.
type Each<'a> = &'a mut dyn FnMut(&str, &mut Expr) -> ControlFlow<String>;

/// Visits the parameters of a statement, except for those of PREPARE, which get their values from EXECUTE.
fn each_placeholder(statement: &mut Statement, each: Each<'_>) -> ControlFlow<String> {
    match statement {
        Statement::Statement(inner) if matches!(**inner, ast::Statement::Prepare { .. }) => ControlFlow::Continue(()),
        Statement::Statement(inner) => each_in(inner.as_mut(), each),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => each_in(query.as_mut(), each),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        Statement::Explain(explain) => each_placeholder(&mut explain.statement, each),
        Statement::CreateExternalTable(_) | Statement::Reset(_) => ControlFlow::Continue(()),
    }
}

fn each_in(tree: &mut impl VisitMut, each: Each<'_>) -> ControlFlow<String> {
    visit_expressions_mut(tree, |expr| {
        let Expr::Value(value) = &*expr else { return ControlFlow::Continue(()) };
        let Value::Placeholder(id) = &value.value else { return ControlFlow::Continue(()) };
        let Some(name) = id.strip_prefix('$').map(str::to_owned) else { return ControlFlow::Continue(()) };
        each(&name, expr)
    })
}

/// Whether `value` is a finite number. `inf` and `nan` are text here; the only letter allowed is an exponent's.
fn is_number(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) && value.parse::<f64>().is_ok_and(f64::is_finite)
}

/// A parameter's value as an expression. SQL has no negative literals: the minus is an operator.
fn literal(value: &Value) -> Expr {
    match value {
        Value::Number(digits, long) => {
            let unsigned = digits.trim_start_matches(['+', '-']);
            let number = Expr::value(Value::Number(unsigned.to_owned(), *long));
            if digits.starts_with('-') {
                Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number) }
            } else {
                number
            }
        }
        other => Expr::value(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(sql: &str, params: &[(&str, &str)]) -> Result<String> {
        let mut values = Params::default();
        for (name, value) in params {
            values.set(name, value);
        }
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        values.bind(&mut statement)?;
        Ok(statement.to_string())
    }

    #[test]
    fn numbers_and_texts_become_literals() {
        let sql = "SELECT f(named_struct('p', $p)) FROM t WHERE x > $n AND y < $m AND z = $q";
        let got = bound(sql, &[("p", "it's"), ("n", "0.5"), ("m", "-2e3"), ("q", "'7'"), ("unused", "1")]).unwrap();
        assert_eq!(got, "SELECT f(named_struct('p', 'it''s')) FROM t WHERE x > 0.5 AND y < -2e3 AND z = '7'");
    }

    #[test]
    fn a_value_cannot_become_sql() {
        let got = bound("SELECT $p", &[("p", "1; DROP TABLE t")]).unwrap();
        assert_eq!(got, "SELECT '1; DROP TABLE t'");
    }

    #[test]
    fn parameters_in_quotes_and_comments_are_none() {
        assert_eq!(bound("SELECT '$a' -- $b", &[]).unwrap(), "SELECT '$a'");
        assert!(matches!(bound("SELECT $a", &[]), Err(Error::Parameter(name)) if name == "a"));
    }

    #[test]
    fn copy_and_explain_are_searched() {
        assert!(bound("COPY (SELECT $a) TO 'x.csv'", &[("a", "1")]).unwrap().contains("SELECT 1"));
        assert!(bound("EXPLAIN SELECT $a", &[("a", "1")]).unwrap().contains("SELECT 1"));
        assert!(bound("PREPARE p AS SELECT $1", &[]).is_ok());
    }

    #[test]
    fn words_are_no_numbers() {
        for word in ["inf", "nan", "infinity", "1e999", "", "-", "e", "0x10", "1_000"] {
            assert!(!is_number(word), "{word}");
        }
        for number in ["1", "-1", "+0.5", ".5", "1e-3"] {
            assert!(is_number(number), "{number}");
        }
    }

    #[test]
    fn comments_name_what_the_sql_asks_for() {
        let mut params = Params::default();
        params.set("min_itm", "0.5");
        params.set("min", "1");
        params.set_text("prompt", "a\n; x");
        let sql = "SELECT x >= $min_itm, $prompt, '$min' FROM web -- as $min says";
        assert_eq!(params.comments(sql), "-- $min_itm = 0.5\n-- $prompt = 'a ; x'\n");
        assert_eq!(params.number_asked(sql, "min_itm"), Some(0.5));
        assert_eq!((params.number_asked(sql, "min"), params.number_asked(sql, "prompt")), (None, None));
    }
}
