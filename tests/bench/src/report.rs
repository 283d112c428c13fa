//! `report.html`: one file with everything in it, charts as SVG.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use charts_rs::{Box as Margin, HorizontalBarChart, Series, THEME_LIGHT};

use crate::output::{METRICS, Metric, Raw, Row, groups, rows, short};

/// The colour of culvert's own bars.
pub(crate) const OURS: [u8; 3] = [0x2f, 0x6f, 0xeb];

/// The look; dark where the reader's system is.
const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884}body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem;border-top:1px solid var(--line);padding-top:1rem}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}td,th{padding:.2rem .7rem;text-align:right;\
border-bottom:1px solid var(--line)}td:first-child,th:first-child{text-align:left}.won{color:#1a7f37}.lost{color:#cf222e}\
figure{margin:1rem 0;display:inline-block;background:#fff;border-radius:6px;padding:4px;vertical-align:top}small{opacity:.75}svg{max-width:100%;height:auto}";

/// The whole page.
pub(crate) fn page(raw: &Raw) -> Result<String> {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>culvert: comparison</title><style>{STYLE}</style><h1>culvert: comparison</h1>\
         <p>Medians over interleaved rounds on one machine. In brackets: culvert's figure divided by the other's within the same \
         round, median and bootstrap 95&nbsp;% interval; green where culvert is better and the interval is clear of 1, red where \
         it is worse.</p>"
    );
    for group in groups(raw) {
        write!(page, "<h2>{}</h2>", escape(&group.title))?;
        for metric in METRICS {
            let rows = rows(&group, metric);
            if metric.charted && rows.len() > 1 {
                write!(page, "<figure>{}</figure>", chart(metric, &rows).context("a chart could not be drawn")?)?;
            }
        }
        page.push_str(&table(&group));
    }
    page.push_str("<h2>Machine, versions, settings</h2><table>");
    for (title, facts) in
        [("machine", &raw.facts.machine), ("version", &raw.facts.versions), ("setting", &raw.facts.settings)]
    {
        for (name, value) in facts {
            write!(page, "<tr><td>{title}: {}<td style=\"text-align:left\">{}", escape(name), escape(value))?;
        }
    }
    write!(page, "</table><p><small>{}</small></p></html>", escape(&crate::output::moved(raw)))?;
    Ok(page)
}

/// Horizontal bars, best known order: ours first as the contenders are listed.
fn chart(metric: &Metric, rows: &[Row]) -> Result<String> {
    let names: Vec<String> = rows.iter().rev().map(|row| row.contender.to_owned()).collect();
    #[expect(clippy::cast_possible_truncation, reason = "a bar's length")]
    let values: Vec<f32> = rows.iter().rev().map(|row| shown(row.median) as f32).collect();
    let mut series = Series::new(metric.name.to_owned(), values);
    series.label_show = true;
    series.colors = Some(
        rows.iter().rev().map(|row| (row.contender == "culvert").then(|| <(u8, u8, u8)>::from(OURS).into())).collect(),
    );
    let mut chart = HorizontalBarChart::new_with_theme(vec![series], names, THEME_LIGHT);
    let better = if metric.more_is_better { "more is better" } else { "less is better" };
    chart.title.text = format!("{} ({better})", metric.name);
    chart.width = 500.0;
    chart.height = 90.0 + 30.0 * f32::from(u8::try_from(rows.len()).unwrap_or(u8::MAX));
    // At the right the longest bar's figure has to fit behind it.
    chart.margin = Margin { left: 10.0, top: 10.0, right: 80.0, bottom: 10.0 };
    chart.legend.show = Some(false);
    Ok(chart.svg()?)
}

/// Nobody reads the tenth of a request.
fn shown(figure: f64) -> f64 {
    if figure.abs() >= 100.0 { figure.round() } else { figure }
}

fn table(group: &crate::output::Group) -> String {
    let mut head = String::from("<table><tr><th>");
    let mut body = String::new();
    for name in &group.contenders {
        let _ = write!(head, "<th>{}", escape(name));
    }
    for metric in METRICS {
        let rows = rows(group, metric);
        if rows.is_empty() {
            continue;
        }
        let _ = write!(body, "<tr><td>{}", escape(metric.name));
        for name in &group.contenders {
            match rows.iter().find(|row| row.contender == *name) {
                Some(row) => body.push_str(&cell(metric, row)),
                None => body.push_str("<td>–"),
            }
        }
    }
    format!("{head}{body}</table>")
}

fn cell(metric: &Metric, row: &Row) -> String {
    let Some(ratio) = row.ratio else { return format!("<td>{}", short(row.median)) };
    let better = if metric.more_is_better { ratio.low > 1.0 } else { ratio.high < 1.0 };
    let worse = if metric.more_is_better { ratio.high < 1.0 } else { ratio.low > 1.0 };
    let class = if better {
        "won"
    } else if worse {
        "lost"
    } else {
        ""
    };
    format!(
        "<td>{}<br><small class=\"{class}\">×{:.2} ({:.2}–{:.2})</small>",
        short(row.median),
        ratio.median,
        ratio.low,
        ratio.high
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
