//! `capfilt report`: its data, and the page in a browser.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Place, text};

const HOSTILE: &str =
    "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">{{DATA}}";

/// Runs a job over the slice, with hostile texts and a hostile folder name, and returns the page.
fn page(place: &Place, dest: &str) -> String {
    place.slice();
    let hostile = HOSTILE.replace('\'', "''");
    let copy = format!(
        "COPY (SELECT id, image, CASE WHEN id % 3 = 0 THEN '{hostile}' ELSE text END AS text, '{hostile}' AS url FROM 'slice.parquet') \
         TO 'hostile.parquet'"
    );
    place.ok(&["sql", "-c", &copy]);
    place.job_ok(&["hostile.parquet", dest]);
    place.ok(&["report", dest, "-o", "report.html"]);
    fs::read_to_string(place.path("report.html")).unwrap()
}

fn data(page: &str) -> Value {
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = start + page[start..].find("</script>").unwrap();
    serde_json::from_str(&page[start..end]).unwrap()
}

#[test]
fn a_report_tells_what_the_table_holds() {
    let place = Place::new();
    let page = page(&place, "pairs");
    let data = data(&page);
    let number = |sql: &str| place.number("pairs", sql);
    assert_eq!(data["totals"]["rows"], 40);
    assert_eq!(data["totals"]["pairs"], 80);
    assert_eq!(data["totals"]["kept"], number("SELECT count(*) FROM t WHERE kept"));
    for (source, of) in [("web", 0), ("synthetic", 1)] {
        let wanted = number(&format!("SELECT count(itm_score) FROM t WHERE source = '{source}'"));
        let bins = data["histograms"][of]["counts"].as_array().unwrap();
        assert_eq!(data["histograms"][of]["source"], source);
        assert_eq!((bins.len(), bins.iter().map(|n| n.as_i64().unwrap()).sum::<i64>()), (40, wanted));
        assert_eq!(data["sources"][of]["source"], source);
    }
    let failures: i64 = data["failures"].as_array().unwrap().iter().map(|f| f["count"].as_i64().unwrap()).sum();
    assert_eq!(failures, 12);
    assert!((data["threshold"].as_f64().unwrap() - 0.5).abs() < 1e-9);

    let images = data["images"].as_array().unwrap();
    assert_eq!(images.len(), 40, "every row of a small table");
    let texts: Vec<_> = images.iter().map(|image| image["pairs"].as_array().unwrap().len()).collect();
    assert_eq!(texts, [2; 40]);
    // The pictures of dropped pairs are not in the table, and are read from the source.
    let unseen = images.iter().filter(|image| image["src"].is_null()).count();
    let broken = place.number("hostile.parquet", "SELECT count(*) FROM t WHERE image_error(image) IS NOT NULL");
    assert_eq!(unseen as i64, broken, "only what is broken has no picture");
    let near = data["near"].as_array().unwrap();
    let distance = |place: &Value| {
        let pair = &images[place[0].as_u64().unwrap() as usize]["pairs"][place[1].as_u64().unwrap() as usize];
        (pair["itm"].as_f64().unwrap() - 0.5).abs()
    };
    assert!(near.len() > 10 && near.windows(2).all(|two| distance(&two[0]) <= distance(&two[1])));

    // For a larger table, the gallery is a reproducible sample.
    place.ok(&["report", "pairs", "-o", "few.html", "--max-images", "5"]);
    let few = fs::read_to_string(place.path("few.html")).unwrap();
    assert!(self::data(&few)["images"].as_array().unwrap().len() <= 40);
    place.ok(&["report", "pairs", "-o", "again.html", "--max-images", "5"]);
    assert!(few == fs::read_to_string(place.path("again.html")).unwrap());

    // Without the source, those pictures are missing, with a warning.
    fs::remove_file(place.path("hostile.parquet")).unwrap();
    let output = place.run(&["report", "pairs", "-o", "report.html"]);
    assert!(output.status.success() && text(&output.stderr).contains("cannot be shown"), "{}", text(&output.stderr));
}

#[test]
fn rows_without_an_image_are_sampled_too() {
    let place = Place::new();
    let rows = "SELECT value AS id, CAST(NULL AS BYTEA) AS image, concat('text ', value) AS text FROM range(0, 400)";
    place.ok(&["sql", "-c", &format!("COPY ({rows}) TO 'none.parquet'")]);
    place.job_ok(&["none.parquet", "pairs"]);
    place.ok(&["report", "pairs", "-o", "report.html", "--max-images", "100"]);
    let data = data(&fs::read_to_string(place.path("report.html")).unwrap());
    let images = data["images"].as_array().unwrap().len();
    assert!((60..140).contains(&images), "{images} of 400");
    assert_eq!(data["funnel"][1]["count"], 0, "{}", data["funnel"]);
}

#[test]
fn what_is_no_finished_table_has_no_report() {
    let place = Place::new();
    place.slice();
    let message = place.fails(1, &["report", ".", "-o", "report.html"]);
    assert!(message.contains("no pair table of capfilt run"), "{message}");
    assert!(place.fails(1, &["report", "nowhere", "-o", "report.html"]).contains("nowhere"));
}

/// The DOM after the page's scripts have run in Chromium; `None` if Chromium is missing, which `make test` reports.
fn in_a_browser(place: &Place, page: &str, more: &[&str]) -> Option<String> {
    let chromium = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    let Some(chromium) = chromium else {
        eprintln!("skipped: there is no chromium");
        return None;
    };
    let output = Command::new(chromium)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--virtual-time-budget=20000",
        ])
        .args(more)
        .args(["--dump-dom", &format!("file://{}", place.path(page).display())])
        .env("HOME", place.folder.path())
        .output()
        .unwrap();
    let dom = text(&output.stdout);
    assert!(dom.contains("data-ready=\"true\""), "{}", text(&output.stderr));
    Some(dom)
}

#[test]
fn no_text_runs_as_script_in_a_browser() {
    let place = Place::new();
    page(&place, "<b>pairs");
    let Some(dom) = in_a_browser(&place, "report.html", &[]) else { return };
    assert!(!dom.contains("data-error"));
    assert!(!dom.contains("<title>owned") && dom.contains("80 of 80 pairs"), "{}", &dom[..2000.min(dom.len())]);
    // The texts are shown as text.
    let body = &dom[dom.find("id=\"cards\"").unwrap()..];
    assert!(body.contains("&lt;/script&gt;&lt;script&gt;") && !body.contains("<img src=\"x\""));
    assert_eq!(body.matches("class=\"card").count(), 40);
}

/// Script that records in `data-probe`: the page's width, whether it is dark, how many controls the keyboard reaches,
/// and how many results a search leaves.
const PROBE: &str = "<script>
addEventListener('load', () => {
  const controls = [...document.querySelectorAll('button, input, select, summary, a')].filter(c => !c.hidden);
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
  const probe = {
    width: innerWidth,
    over: document.documentElement.scrollWidth - innerWidth,
    dark: r + g + b < 384,
    unreached: controls.filter(c => { c.focus(); return document.activeElement !== c; }).length,
    controls: controls.length,
  };
  const search = document.getElementById('search');
  search.value = 'number 4321.';
  search.dispatchEvent(new Event('input', { bubbles: true }));
  setTimeout(() => {
    probe.found = document.getElementById('cards').children.length;
    document.documentElement.dataset.probe = JSON.stringify(probe);
  }, 3000);
});
</script>";

#[test]
fn ten_thousand_pairs_fit_a_phone_in_the_dark() {
    let place = Place::new();
    let slice = place.slice();
    let many = "COPY (SELECT g.value AS id, w.image, concat('thing number ', g.value, '.') AS text \
                FROM (SELECT image, row_number() OVER (ORDER BY id) AS n FROM w WHERE image_error(image) IS NULL) AS w \
                JOIN generate_series(1, 5000) AS g ON w.n = g.value % 20 + 1) TO 'many.parquet'";
    place.ok(&["sql", "--table", &format!("w={slice}"), "-c", many]);
    let recipe = "WITH two AS (SELECT *, unnest(['web', 'synthetic']) AS source FROM web) \
                  SELECT *, encode(sha256(image), 'hex') AS image_sha256, CAST(id % 100 / 100.0 AS REAL) AS itm_score, id % 2 = 0 AS kept, \
                  CAST(NULL AS VARCHAR) AS error FROM two";
    fs::write(place.path("two.sql"), recipe).unwrap();
    place.ok(&["run", "many.parquet", "pairs", "--recipe", "two.sql", "--write-images", "all"]);
    place.ok(&["report", "pairs", "-o", "report.html", "--max-images", "5000"]);
    let page = fs::read_to_string(place.path("report.html")).unwrap();
    assert_eq!(data(&page)["images"].as_array().unwrap().len(), 5000);
    let end = page.rfind("</body>").unwrap();
    fs::write(place.path("probed.html"), format!("{}{PROBE}{}", &page[..end], &page[end..])).unwrap();
    let phone = ["--window-size=390,844", "--blink-settings=preferredColorScheme=0"];
    let Some(dom) = in_a_browser(&place, "probed.html", &phone) else { return };
    let start = dom.find("data-probe=\"").unwrap() + "data-probe=\"".len();
    let probe = dom[start..start + dom[start..].find('"').unwrap()].replace("&quot;", "\"");
    let probe: Value = serde_json::from_str(&probe).unwrap();
    // Chromium windows are at least 500 pixels wide.
    assert!(probe["width"].as_u64().unwrap() <= 500 && probe["over"].as_i64().unwrap() <= 0, "{probe}");
    assert!(probe["dark"] == true && probe["unreached"] == 0 && probe["controls"].as_u64().unwrap() > 10, "{probe}");
    assert_eq!(probe["found"], 1, "{probe}");
}
