//! The page itself.

use std::path::Path;

use capfilt_tables::error::Result;
use capfilt_tables::sql::spilling_session::bounded;
use datafusion::execution::disk_manager::DiskManagerMode;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::checkpoint::manifests;
use crate::report::data::ReportOptions;
use crate::report::{data, gallery, queries};

/// The page's template, without style, script and data.
const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Renders a pair table's page: self-contained HTML in which all texts of the table are escaped.
///
/// # Errors
/// Errors if the folder is not a finished pair table of `capfilt run` in Parquet.
pub async fn report(path: &Path, options: &ReportOptions) -> Result<String> {
    let manifests = manifests::of_parquet(path, "a report is made of Parquet")?;
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(64);
    let ctx = SessionContext::new_with_config(config);
    capfilt_tables::sql::open::register_pairs(&ctx, queries::PAIRS, path, None).await?;
    // There may be as many distinct captions as rows, so count in bounded memory.
    let counting = bounded(DiskManagerMode::OsTmpDirectory)?;
    capfilt_tables::sql::open::register_pairs(&counting, queries::PAIRS, path, None).await?;
    let numbers = queries::numbers(&counting, &manifests).await?;
    let gallery = gallery::gallery(&ctx, &manifests[0], options, &numbers).await?;
    let title = path.file_name().map_or_else(|| "pairs".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(page(&data::data(&title, &manifests, &numbers, &gallery).to_string()))
}

/// Fills in the template. The data come last and are replaced once, as a text may contain a placeholder.
fn page(json: &str) -> String {
    let page = PAGE.replacen("{{STYLE}}", STYLE.trim_end(), 1).replacen("{{SCRIPT}}", SCRIPT.trim_end(), 1);
    page.replacen("{{DATA}}", &escaped(json), 1)
}

/// Escapes JSON so that no text in it ends the script element.
fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_the_script() {
        let hostile = "</script><img src=x onerror=alert(1)>&amp;\u{2028}{{DATA}}";
        let json = serde_json::to_string(hostile).unwrap();
        let page = page(&json);
        assert_eq!(page.matches("{{").count(), 1, "the text's own");
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        assert!(!page.contains("<img src=x"));
        assert_eq!(serde_json::from_str::<String>(&escaped(&json)).unwrap(), hostile);
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let page = page("{}");
        assert!(page.contains("default-src 'none'"));
        for outside in ["http://", "https://", "@import", "url("] {
            let found = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "{outside}");
        }
        assert!(!page.contains("innerHTML") && !page.contains("document.write") && !page.contains("eval("));
    }
}
