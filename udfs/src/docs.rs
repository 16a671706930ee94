//! Generator of docs/functions.md from the tables that define the functions and settings.

use std::fmt::{self, Write};

use crate::config::Key;
use crate::config::settings::{Kind, markdown};
pub use crate::functions::SECTION;
use crate::functions::{OptionField, Page, pages, stats};

/// Markdown page of functions and settings. Deterministic.
pub fn functions_markdown() -> String {
    let mut page = String::new();
    // Writing to a string never fails.
    let _ = write(&mut page);
    page
}

fn write(out: &mut String) -> fmt::Result {
    let pages = pages();
    out.push_str(
        "<!-- Generated from the code; see `functions_markdown` in udfs/src/docs.rs. -->\n\n# SQL functions\n\n",
    );
    out.push_str("| function | returns |\n|---|---|\n");
    for page in &pages {
        writeln!(out, "| [`{}`](#{}) | {} |", page.syntax, page.name, page.returns)?;
    }
    writeln!(out, "| [`{0}()`](#{0}) | a table |", stats::NAME)?;
    out.push_str(
        "\nDataFusion's own functions are there too. Its `octet_length`, `length` and `bit_length` also take binary values and \
         count their bytes (or bits): `WHERE octet_length(image) >= 2000` leaves out the smallest thumbnails.\n",
    );
    for page in &pages {
        function(out, page)?;
    }
    writeln!(out, "\n## {}\n\n{}\n\n```sql\nSELECT * FROM {0}()\n```\n", stats::NAME, stats::DESCRIPTION)?;
    out.push_str("| column | type | meaning |\n|---|---|---|\n");
    for (name, data_type, meaning) in stats::columns() {
        writeln!(out, "| `{name}` | {data_type} | {meaning} |")?;
    }
    settings(out)
}

fn function(out: &mut String, page: &Page) -> fmt::Result {
    writeln!(out, "\n## {}\n\n{}\n\n    {}\n\nReturns {}.\n", page.name, page.description, page.syntax, page.returns)?;
    for (name, description) in &page.arguments {
        let description = if *name == "options" {
            "A struct of the options below; a field that is missing or NULL is not given"
        } else {
            description
        };
        writeln!(out, "- **{name}**: {description}.")?;
    }
    if !page.options.is_empty() {
        out.push_str("\n| option | value | meaning |\n|---|---|---|\n");
        for option in page.options {
            writeln!(out, "| `{}` | {} | {} |", option.name(), value(*option), option.description())?;
        }
    }
    let related: Vec<String> = page.related.iter().map(|name| format!("[`{name}`](#{name})")).collect();
    writeln!(out, "\n```sql\n{}\n```\n\nSee also: {}.", page.example, related.join(", "))
}

fn value(option: OptionField) -> String {
    match option.kind() {
        Kind::Flag => "a Boolean".into(),
        kind => kind.allowed(),
    }
}

fn settings(out: &mut String) -> fmt::Result {
    out.push_str(
        "\n# Settings\n\n`SET capfilt.name = 'value'`; `SHOW capfilt.name` prints it. The empty string, or `default`, \
         takes it back. An option of a caption or an answer comes from the call, else from SET, else from the checkpoint's \
         generation_config.json, else it is built in: beam search with 3 beams, max_length 20 (of an answer, 10), min_length 0, top_k 50, \
         top_p 0.9, no penalties. A view or prepared statement keeps the settings it was planned with.\n\n\
         These keys of generation_config.json take effect: num_beams, do_sample, top_k, top_p, temperature, min_length, max_length, \
         length_penalty, repetition_penalty and early_stopping (true or false). Other keys, such as max_new_tokens or \
         no_repeat_ngram_size, and values of a wrong type are left out with a warning. transformers (5.24) does not read \
         this file for BLIP, and its own defaults differ: greedy search of 20 tokens after the prompt, where here max_length counts \
         [DEC] and the prompt, as BLIP's does.\n\n",
    );
    out.push_str(&markdown::<Key>());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::SettingKey as _;

    #[test]
    fn the_page_is_whole_and_the_same_each_time() {
        let page = functions_markdown();
        assert_eq!(page, functions_markdown());
        for function in pages() {
            assert!(page.contains(&format!("\n## {}\n", function.name)), "{}", function.name);
            assert!(function.example.contains(function.name), "{} has no example of itself", function.name);
            assert!(function.related.iter().all(|r| pages().iter().any(|p| p.name == *r)), "{}", function.name);
        }
        for setting in Key::ALL {
            assert!(page.contains(&format!("| `{}` |", setting.name)), "{}", setting.name);
        }
        let names: Vec<&str> = pages().iter().map(|p| p.name).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
