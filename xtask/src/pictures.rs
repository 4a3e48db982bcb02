//! `cargo xtask pictures`: draws `docs/pictures/*.pikchr`, which are text, as SVG files beside them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use pikchr::{Pikchr, PikchrFlags};
use xdp_lb_tests::paths;

use crate::say;

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
    let mut sources: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|it| it == "pikchr")).collect();
    sources.sort();
    Ok(sources)
}

/// A picture with a background of its own, so that it can be read on dark pages, too. Its first comment is what it says to
/// those who do not see it.
fn draw(source: &PathBuf) -> Result<String> {
    let text = fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    let says = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
    let drawn = Pikchr::render(&text, None, PikchrFlags::default())
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
