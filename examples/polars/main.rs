//! CapFilt on a Polars frame: read with Polars, caption and filter in SQL, continue with Polars, and plot.
//!
//! `make example-polars` runs it over examples/web.parquet, where about half of the texts are wrong. The table says which,
//! so the resulting frame shows how good the filter's scores are.

use std::fs::{File, create_dir_all};
use std::io::{Write as _, stdout};

use anyhow::Result;
use capfilt_udfs::polars::{collect, register};
use datafusion::prelude::SessionConfig;
use polars_core::prelude::*;
use polars_io::prelude::{ParquetReader, SerReader as _};

/// Minimum ITM score of kept texts, the same as in `make demo`.
const MIN_ITM: f32 = 0.1;
const OUT: &str = "demo-out/polars";

#[tokio::main]
async fn main() -> Result<()> {
    // Paths are relative to the repository's root.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    let mut out = stdout();

    let columns = ["url", "image", "text", "text_is_true"].map(String::from);
    let web = ParquetReader::new(File::open("examples/web.parquet")?).with_columns(Some(columns.to_vec())).finish()?;
    writeln!(out, "read {} pictures with texts", web.height())?;

    // A session with CapFilt's functions, with the frame registered as a table. Its images and texts are not copied.
    let ctx = capfilt_udfs::session(SessionConfig::new())?;
    register(&ctx, "web", &web)?;
    for set in [
        "SET capfilt.captioner = 'examples/models/captioner'",
        "SET capfilt.filter = 'examples/models/filter'",
        "SET capfilt.strategy = 'nucleus'",
        "SET capfilt.prompt = 'a picture of '",
        "SET capfilt.max_length = 32",
    ] {
        ctx.sql(set).await?;
    }

    // Scores each web text, generates a synthetic text for each picture, and scores that as well. Broken pictures are
    // dropped.
    let query = ctx.sql(
        "SELECT split_part(url, '/', 4) AS pictures, text_is_true, text, itm_score(image, text) AS itm,
                synthetic, itm_score(image, synthetic) AS synthetic_itm
         FROM (SELECT *, caption(image) AS synthetic FROM web WHERE image_error(image) IS NULL AND trim(text) <> '')
         ORDER BY url",
    );
    let scored = collect(query.await?).await?;
    writeln!(out, "{}", scored.select(["text", "itm", "synthetic", "synthetic_itm"])?.head(Some(6)))?;
    writeln!(out, "{}", summary(&scored)?)?;

    let is_true = scored.column("text_is_true")?.bool()?;
    let (right, wrong) = (scored.filter(is_true)?, scored.filter(&!is_true)?);
    create_dir_all(OUT)?;
    let path = format!("{OUT}/kept.svg");
    plot(
        &path,
        [
            ("web texts, true", (31, 119, 180), kept(&right, "itm")?),
            ("synthetic texts", (44, 140, 60), kept(&scored, "synthetic_itm")?),
            ("web texts, false", (214, 39, 40), kept(&wrong, "itm")?),
        ],
    )?;
    writeln!(out, "wrote {path}: what other thresholds would keep")?;
    Ok(())
}

/// Summarises the filter's scores of the web texts by kind of picture and by truth.
fn summary(scored: &DataFrame) -> PolarsResult<DataFrame> {
    let by = ["pictures", "text_is_true"];
    let mut summary = DataFrame::empty();
    for group in scored.partition_by_stable(by, true)? {
        let itm = group.column("itm")?.f32()?;
        let numbers = df!(
            "texts" => [group.height() as u32],
            "mean ITM" => [itm.mean()],
            "kept %" => [itm.gt_eq(MIN_ITM).mean().map(|share| 100.0 * share)],
        )?;
        summary.vstack_mut(&group.select(by)?.head(Some(1)).hstack(numbers.columns())?)?;
    }
    summary.sort(by, SortMultipleOptions::default())
}

/// Percentage of the scores that each threshold from 0 to 1 keeps.
fn kept(frame: &DataFrame, scores: &str) -> PolarsResult<Vec<(f64, f64)>> {
    let scores = frame.column(scores)?.f32()?;
    let share = |threshold: f64| scores.gt_eq(threshold).mean().unwrap_or(0.0);
    Ok((0..=200_i32).map(|i| f64::from(i) / 200.0).map(|threshold| (threshold, 100.0 * share(threshold))).collect())
}

type Line<'a> = (&'a str, (u8, u8, u8), Vec<(f64, f64)>);

/// Plots kept percentages over thresholds, and marks [`MIN_ITM`].
fn plot(path: &str, lines: [Line<'_>; 3]) -> Result<()> {
    use plotters::prelude::*;

    let grey = RGBColor(130, 130, 130);
    let root = SVGBackend::new(path, (860, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Texts that the filter keeps", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(42)
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..1.0, 0.0..100.0)?;
    let (tenths, whole) = (|x: &f64| format!("{x:.1}"), |y: &f64| format!("{y:.0}"));
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(228, 228, 228))
        .x_desc("least ITM score of a kept text")
        .y_desc("texts kept (%)")
        .x_label_formatter(&tenths)
        .y_label_formatter(&whole)
        .draw()?;
    for (name, (r, g, b), points) in lines {
        let style = RGBColor(r, g, b).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    let threshold = f64::from(MIN_ITM);
    chart
        .draw_series(DashedLineSeries::new([(threshold, 0.0), (threshold, 100.0)], 6, 4, grey.stroke_width(1)))?
        .label(format!("threshold {MIN_ITM}"))
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], grey.stroke_width(1)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleMiddle)
        .background_style(WHITE)
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    root.present()?;
    Ok(())
}
