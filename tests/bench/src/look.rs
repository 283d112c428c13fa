//! A look at the report in a real browser: that it lays out, that its charts have drawn, that it fetches nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

mod sample;

/// Which page, in which browser.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The report; without it, one that is drawn from made-up figures.
    #[arg(long)]
    page: Option<PathBuf>,
    /// The browser.
    #[arg(long, default_value = "chromium")]
    browser: PathBuf,
}

/// Added to a copy of the page: says what the browser has made of it.
const PROBE: &str = r#"<script>
const area = e => { const r = e.getBoundingClientRect(); return r.width * r.height };
const outside = (e, svg) => { const r = e.getBoundingClientRect(), s = svg.getBoundingClientRect();
  return r.left < s.left - 1 || r.right > s.right + 1 || r.top < s.top - 1 || r.bottom > s.bottom + 1 };
const charts = [...document.querySelectorAll('svg')].map(svg => ({
  area: area(svg),
  bars: [...svg.querySelectorAll('rect,path')].filter(e => area(e) > 20 && area(e) < area(svg) / 2).length,
  outside: [...svg.querySelectorAll('text,rect')].filter(e => outside(e, svg)).length }));
const probe = { charts, fetched: performance.getEntriesByType('resource').length,
  wide: document.documentElement.scrollWidth > innerWidth, rows: document.querySelectorAll('tr').length };
document.body.innerHTML = '<pre id="probe">' + JSON.stringify(probe) + '</pre>';
</script>"#;

/// What the browser says of the page.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Seen {
    charts: Vec<Chart>,
    /// Things that it wanted from elsewhere.
    fetched: usize,
    /// One has to scroll sideways.
    wide: bool,
    rows: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Chart {
    /// Square pixels.
    area: f64,
    /// Shapes that are to be seen and are not the background.
    bars: usize,
    /// Texts and shapes that stick out of the chart.
    outside: usize,
}

/// What a picture of the page has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Picture {
    colours: usize,
    /// Pixels in the colour of culvert's own bars.
    ours: usize,
}

/// Fails when a reader would see no charts. A page whose charts are empty must not pass, or the look has seen nothing.
pub(crate) fn run(wanted: &Arguments) -> Result<()> {
    let page = match &wanted.page {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => crate::report::page(&sample::raw())?,
    };
    let charts = page.matches("<svg").count();
    let emptied = look(&wanted.browser, &without_shapes(&page))?;
    ensure!(judge(&emptied.0, emptied.1, charts).is_err(), "a page with empty charts passes too: {emptied:?}");
    let (seen, picture) = look(&wanted.browser, &page)?;
    judge(&seen, picture, charts)?;
    println!("{charts} charts drew: {} colours, {} pixels of our own bars", picture.colours, picture.ours);
    Ok(())
}

fn judge(seen: &Seen, picture: Picture, charts: usize) -> Result<()> {
    ensure!(charts > 0 && seen.charts.len() == charts, "{} of {charts} charts are in the page", seen.charts.len());
    for (number, chart) in seen.charts.iter().enumerate() {
        ensure!(chart.area > 10_000.0, "chart {number} has no room: {chart:?}");
        ensure!(chart.bars >= 2, "chart {number} has not drawn: {chart:?}");
        ensure!(chart.outside == 0, "parts of chart {number} stick out of it: {chart:?}");
    }
    ensure!(seen.fetched == 0, "the page is not whole: it fetches {} things", seen.fetched);
    ensure!(!seen.wide, "the page is wider than its window");
    ensure!(seen.rows > 1, "the page has no table");
    ensure!(picture.colours > 20, "the picture has only {} colours", picture.colours);
    ensure!(picture.ours > 500, "culvert's bars are not to be seen: {} pixels of their colour", picture.ours);
    Ok(())
}

/// The same charts with nothing drawn in them.
fn without_shapes(page: &str) -> String {
    let mut rest = page;
    let mut emptied = String::new();
    while let Some((before, chart)) = rest.split_once("<svg") {
        let (tag, inside) = chart.split_once('>').unwrap_or((chart, ""));
        emptied.push_str(&format!("{before}<svg{tag}></svg>"));
        rest = inside.split_once("</svg>").map_or("", |(_, after)| after);
    }
    emptied + rest
}

fn look(browser: &Path, page: &str) -> Result<(Seen, Picture)> {
    let folder = Folder::make()?;
    let (plain, probed, picture) =
        (folder.0.join("report.html"), folder.0.join("probe.html"), folder.0.join("report.png"));
    std::fs::write(&plain, page)?;
    std::fs::write(&probed, format!("{page}{PROBE}"))?;
    let shown = start(browser, &folder, &["--dump-dom".to_owned(), address(&probed)])?;
    let shown = shown.split_once("<pre id=\"probe\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (says, _) = shown.context("the browser has not laid the page out")?;
    let seen = serde_json::from_str(says).context("the browser's words about the page")?;
    start(browser, &folder, &[format!("--screenshot={}", picture.display()), address(&plain)])?;
    Ok((seen, colours(&picture)?))
}

fn address(file: &Path) -> String {
    format!("file://{}", file.display())
}

/// Without its sandbox, which needs more than a container gives: the page is our own and fetches nothing.
fn start(browser: &Path, folder: &Folder, words: &[String]) -> Result<String> {
    let mut command = Command::new("timeout");
    command.arg("120").arg(browser).args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--hide-scrollbars", "--window-size=1200,2400", "--no-first-run", "--disable-background-networking"]);
    command.arg(format!("--user-data-dir={}", folder.0.join("profile").display())).args(words);
    let done = command.env("HOME", &folder.0).output()?;
    if !done.status.success() {
        bail!(
            "{} does not show the page ({}); Debian's package `chromium` has one that does\n{}",
            browser.display(),
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn colours(file: &Path) -> Result<Picture> {
    let file = std::fs::File::open(file).context("the browser has made no picture")?;
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("a picture without an end")?];
    let info = reader.next_frame(&mut pixels)?;
    let bytes = info.color_type.samples();
    ensure!(info.bit_depth == png::BitDepth::Eight && bytes >= 3, "the picture is of another kind");
    let pixels = || pixels[..info.buffer_size()].chunks_exact(bytes).map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    let different: HashSet<[u8; 3]> = pixels().collect();
    Ok(Picture { colours: different.len(), ours: pixels().filter(|pixel| *pixel == crate::report::OURS).count() })
}

/// A folder that goes with its user.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Folder> {
        let path =
            std::env::temp_dir().join(format!("culvert-look-{}-{:x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
