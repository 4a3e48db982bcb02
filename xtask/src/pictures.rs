//! `cargo xtask pictures`: draws the text files in `docs/pictures` as SVG files beside them: diagrams (`.pikchr`), and plots
//! (`.json`: one of the `plots` in a report of `cargo xtask bench`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use pikchr::{Pikchr, PikchrFlags};
use xdp_lb_tests::paths;

use crate::{plot, say};

/// Draws them all.
pub fn draw_all() -> Result<()> {
    for source in sources()? {
        let drawn = draw(&source)?;
        let picture = source.with_extension("svg");
        fs::write(&picture, drawn).with_context(|| format!("cannot write {}", picture.display()))?;
        say::note(picture.display());
    }
    Ok(())
}

fn sources() -> Result<Vec<PathBuf>> {
    let folder = paths::workspace().join("docs/pictures");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut sources: Vec<_> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|it| it == "pikchr" || it == "json"))
        .collect();
    sources.sort();
    Ok(sources)
}

fn draw(source: &PathBuf) -> Result<String> {
    let text = fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    if source.extension().is_some_and(|it| it == "json") {
        let plot =
            serde_json::from_str(&text).with_context(|| format!("{} is not a plot", source.display()))?;
        return plot::draw(&plot);
    }
    draw_diagram(source, &text)
}

/// A diagram, with its own background so that it can be read on dark pages, too. Its first comment becomes its text for screen
/// readers.
fn draw_diagram(source: &Path, text: &str) -> Result<String> {
    let says = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
    let drawn = Pikchr::render(text, None, PikchrFlags::default())
        .map_err(|error| anyhow!("{}: {error}", source.display()))?;
    let drawn = drawn.rendered();
    let (_, inside) = drawn.split_once('>').context("pikchr drew no SVG")?;
    let (width, height) = (drawn_size(drawn, "width")?, drawn_size(drawn, "height")?);
    let margin = 10;
    let (left, all_width, all_height) = (-margin, width + 2 * margin, height + 2 * margin);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{left} {left} {all_width} {all_height}\" role=\"img\" \
         aria-label=\"{says}\" font-family=\"system-ui, sans-serif\">\n\
         <rect x=\"{left}\" y=\"{left}\" width=\"{all_width}\" height=\"{all_height}\" fill=\"#fff\"/>{inside}"
    ))
}

/// One of the numbers of `viewBox="0 0 WIDTH HEIGHT"`, rounded up.
fn drawn_size(svg: &str, which: &str) -> Result<i32> {
    let numbers = svg.split_once("viewBox=\"").and_then(|(_, rest)| rest.split_once('"'));
    let (numbers, _) = numbers.context("the picture has no viewBox")?;
    let number = numbers.split_whitespace().nth(if which == "width" { 2 } else { 3 });
    let number: f64 =
        number.context("the picture has no size")?.parse().context("its size is not a number")?;
    Ok(number.ceil() as i32)
}

#[test]
fn every_picture_is_as_its_text_says() {
    let sources = sources().unwrap();
    assert!(sources.len() >= 10, "{sources:?}");
    for source in sources {
        let picture = fs::read_to_string(source.with_extension("svg")).unwrap_or_default();
        assert_eq!(picture, draw(&source).unwrap(), "{}: run `cargo xtask pictures`", source.display());
    }
}
