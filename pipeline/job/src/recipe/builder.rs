//! Composes the recipe from the options of `capfilt run`: several captions per image, several captioners and filters,
//! and a cheap first stage. Without any of these options it is sql/capfilt.sql.

use std::fmt::Write as _;

use capfilt_udfs::ItcGate;

use crate::options::Combine;
use crate::recipe::plan::CAPFILT_SQL;
use crate::verdicts::Verdicts;

/// Options that determine the recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipeBuilder {
    /// Synthetic texts per image and captioner.
    pub candidates: usize,
    /// Number of captioners; those after the first are the parameters `$captioner_2` and so on.
    pub captioners: usize,
    /// Number of filters; those after the first are the parameters `$filter_2` and so on.
    pub filters: usize,
    /// How to combine several filters.
    pub combine: Combine,
    /// Whether to keep only the best of an image's synthetic texts that pass.
    pub best: bool,
    /// ITC thresholds of the cheap first stage, if any.
    pub itc_gate: Option<ItcGate>,
    /// Minimum match probabilities by text source, in place of `$min_itm`.
    pub min_itm_of: Vec<(String, f32)>,
}

impl Default for RecipeBuilder {
    fn default() -> Self {
        Self {
            candidates: 1,
            captioners: 1,
            filters: 1,
            combine: Combine::Mean,
            best: false,
            itc_gate: None,
            min_itm_of: Vec::new(),
        }
    }
}

impl RecipeBuilder {
    /// The rule by which the recipe keeps pairs, except for the value of `$min_itm`, which is not known here.
    pub fn verdicts(&self) -> Verdicts {
        let votes = self.filters > 1 && self.combine == Combine::Vote;
        Verdicts {
            min_itm_of: self.min_itm_of.clone(),
            by_itm_alone: Some(self.itc_gate.is_none() && !self.best && !votes),
            ..Verdicts::default()
        }
    }

    /// The SQL of the recipe.
    pub fn sql(&self) -> String {
        if *self == Self::default() {
            return CAPFILT_SQL.to_owned();
        }
        // Writing to a string does not fail.
        let mut sql = String::new();
        let _ = self.write(&mut sql);
        sql
    }

    fn write(&self, sql: &mut String) -> std::fmt::Result {
        let synthetic = self.candidates * self.captioners;
        let captions: Vec<String> = (1..=self.captioners).map(|n| self.captions(n)).collect();
        let numbers: Vec<String> =
            (1..=self.captioners).map(|n| format!("array_repeat({n}, {})", self.candidates)).collect();
        writeln!(sql, "-- CapFilt (Li et al. 2022) as the options of capfilt run ask for it.\n")?;
        writeln!(sql, "WITH texts AS (\n    SELECT\n        *,\n        array_concat(\n            [text],")?;
        writeln!(sql, "            {}\n        ) AS __texts\n    FROM web\n),", captions.join(",\n            "))?;
        let mut from = "texts";
        if self.best {
            from = "rated";
            let scores: Vec<_> = (2..=synthetic + 1).map(|n| self.score(&format!("__texts[{n}]"))).collect();
            let scores = scores.join(",\n            ");
            writeln!(
                sql,
                "rated AS (\n    SELECT\n        *,\n        [\n            {scores}\n        ] AS __scores\n    FROM texts\n),"
            )?;
        }
        let scores = if self.best { ", __scores" } else { "" };
        writeln!(sql, "candidates AS (\n    SELECT\n        * EXCLUDE (text, __texts{scores}),")?;
        writeln!(sql, "        unnest(array_prepend('web', array_repeat('synthetic', {synthetic}))) AS source,")?;
        if self.captioners > 1 {
            // Number of the captioner that wrote the text; NULL for the web's.
            let numbers = numbers.join(", ");
            writeln!(sql, "        unnest(array_concat([CAST(NULL AS BIGINT)], {numbers})) AS captioner,")?;
        }
        if self.best {
            // Of equal scores, the first counts as the best.
            writeln!(sql, "        array_position(__scores, array_max(__scores)) AS __best,")?;
            writeln!(sql, "        unnest(range(0, {})) AS __number,", synthetic + 1)?;
        }
        writeln!(sql, "        unnest(__texts) AS text\n    FROM {from}\n),")?;
        writeln!(sql, "judged AS (\n    SELECT\n        *,")?;
        if self.itc_gate.is_some() {
            writeln!(sql, "        itc_score(image, text) AS itc_score,")?;
        }
        writeln!(sql, "        -- NULL where all is well.\n        CASE")?;
        writeln!(sql, "            WHEN image_error(image) IS NOT NULL THEN image_error(image)")?;
        writeln!(sql, "            WHEN trim(text) <> '' THEN NULL\n            WHEN source = 'web' THEN 'no text'")?;
        writeln!(sql, "            ELSE 'no caption'\n        END AS error\n    FROM candidates\n),")?;
        let score = self.score("text");
        let score = match self.itc_gate {
            Some(ItcGate { low, high }) => {
                format!("CASE WHEN itc_score >= {low:?} AND itc_score < {high:?} THEN {score} END")
            }
            None => score,
        };
        writeln!(sql, "scored AS (\n    SELECT\n        *,\n        {score} AS itm_score\n    FROM judged\n)")?;
        let own = if self.itc_gate.is_some() { ", itc_score" } else { "" };
        let best = if self.best { ", __best, __number" } else { "" };
        writeln!(sql, "SELECT\n    * EXCLUDE (image, source, text, itm_score{own}{best}, error),")?;
        writeln!(
            sql,
            "    encode(sha256(image), 'hex') AS image_sha256,\n    source,\n    text,\n    itm_score{own},"
        )?;
        writeln!(
            sql,
            "    error IS NULL AND coalesce({}, false) AS kept,\n    error,\n    image\nFROM scored",
            self.verdict()
        )
    }

    fn captions(&self, captioner: usize) -> String {
        let model = if captioner > 1 { format!(", 'model', $captioner_{captioner}") } else { String::new() };
        let n = self.candidates;
        // An unusable image yields one row of NULL per caption that it would have had.
        format!(
            "coalesce(captions(image, {n}, named_struct('strategy', 'nucleus', 'top_k', 50, 'top_p', 0.9, 'repetition_penalty', 1.1, \
             'min_length', 5, 'prompt', $prompt{model})), array_repeat(CAST(NULL AS VARCHAR), {n}))"
        )
    }

    fn scores(&self, text: &str) -> Vec<String> {
        (1..=self.filters)
            .map(|n| match n {
                1 => format!("itm_score(image, {text})"),
                n => format!("itm_score(image, {text}, named_struct('model', $filter_{n}))"),
            })
            .collect()
    }

    fn score(&self, text: &str) -> String {
        let scores = self.scores(text);
        match (scores.as_slice(), self.combine) {
            ([one], _) => one.clone(),
            (_, Combine::Min) => format!("least({})", scores.join(", ")),
            (_, Combine::Max) => format!("greatest({})", scores.join(", ")),
            (_, Combine::Mean | Combine::Vote) => format!("CAST(({}) / {} AS REAL)", scores.join(" + "), scores.len()),
        }
    }

    fn verdict(&self) -> String {
        let mut least = "$min_itm".to_owned();
        if !self.min_itm_of.is_empty() {
            let cases: String = self
                .min_itm_of
                .iter()
                .map(|(source, least)| format!(" WHEN '{}' THEN {least:?}", source.replace('\'', "''")))
                .collect();
            least = format!("CASE source{cases} ELSE $min_itm END");
        }
        let mut passes = if self.filters > 1 && self.combine == Combine::Vote {
            let votes = self.scores("text").iter().map(|s| format!("CAST({s} >= {least} AS INT)")).collect::<Vec<_>>();
            format!("2 * ({}) > {}", votes.join(" + "), self.filters)
        } else {
            format!("itm_score >= {least}")
        };
        if self.best {
            passes = format!("{passes} AND (source = 'web' OR __number = __best)");
        }
        match self.itc_gate {
            Some(ItcGate { low, high }) if self.combine == Combine::Vote && self.filters > 1 => {
                format!(
                    "CASE WHEN itc_score >= {low:?} AND itc_score < {high:?} THEN {passes} ELSE itc_score >= {high:?} END"
                )
            }
            Some(ItcGate { high, .. }) => format!("itc_score >= {high:?} OR ({passes})"),
            None => passes,
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    #[test]
    fn without_options_it_is_the_papers() {
        assert_eq!(RecipeBuilder::default().sql(), CAPFILT_SQL);
    }

    #[test]
    fn every_combination_is_sql() {
        for combine in [Combine::Mean, Combine::Min, Combine::Max, Combine::Vote] {
            for itc_gate in [None, Some(ItcGate { low: -0.5, high: 0.5 })] {
                for (candidates, captioners, filters, best) in [(2, 1, 1, false), (1, 2, 2, true), (5, 2, 3, true)] {
                    let min_itm_of = vec![("web".to_owned(), 0.25), ("it's".to_owned(), 1.0)];
                    let made = RecipeBuilder { candidates, captioners, filters, combine, best, itc_gate, min_itm_of };
                    let sql = made.sql();
                    assert_eq!(DFParser::parse_sql(&sql).unwrap_or_else(|e| panic!("{e}:\n{sql}")).len(), 1);
                }
            }
        }
    }

    #[test]
    fn a_recipe_with_another_rule_than_itm_says_so() {
        let plain = RecipeBuilder::default();
        assert_eq!(plain.verdicts().by_itm_alone, Some(true));
        let itc_gate = Some(ItcGate { low: 0.2, high: 0.4 });
        let mean = RecipeBuilder { filters: 2, candidates: 3, ..plain.clone() };
        assert_eq!(mean.verdicts().by_itm_alone, Some(true));
        for other in [
            RecipeBuilder { itc_gate, ..plain.clone() },
            RecipeBuilder { best: true, ..plain.clone() },
            RecipeBuilder { filters: 2, combine: Combine::Vote, ..plain },
        ] {
            assert_eq!(other.verdicts().by_itm_alone, Some(false), "{other:?}");
        }
    }
}
