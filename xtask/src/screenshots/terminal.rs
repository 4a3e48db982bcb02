//! The screen of a terminal as an SVG.

use std::fmt::Write as _;

/// The size of a character, in pixels, and the room around the screen.
const CELL: (f64, f64) = (8.43, 17.0);
const ROOM: f64 = 14.0;

const INK: &str = "#d8dee9";
const GROUND: &str = "#10151c";
/// The colours 0 to 7, and 8 to 15 (ECMA-48, SGR 30 to 37 and 90 to 97).
const COLOURS: [&str; 16] = [
    "#3b4252", "#f2777a", "#7fd7a0", "#ecc46a", "#7db1ff", "#c8a2e8", "#6cd3e0", "#d8dee9", "#6b7688",
    "#ff9088", "#8fe3b0", "#f7d488", "#9dc4ff", "#d7b8f2", "#8be3ee", "#ffffff",
];

/// How a character looks.
#[derive(Clone, PartialEq, Eq, Default)]
struct Style {
    ink: Option<usize>,
    ground: Option<usize>,
    is_bold: bool,
    is_dim: bool,
    is_underlined: bool,
    is_reversed: bool,
}

impl Style {
    /// Takes in a sequence `ESC [ ... m`.
    fn take(&mut self, codes: &str) {
        let mut codes = codes.split(';').map(|code| code.parse().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Self::default(),
                1 => self.is_bold = true,
                2 => self.is_dim = true,
                4 => self.is_underlined = true,
                7 => self.is_reversed = true,
                22 => (self.is_bold, self.is_dim) = (false, false),
                24 => self.is_underlined = false,
                27 => self.is_reversed = false,
                30..=37 => self.ink = Some(code - 30),
                39 => self.ink = None,
                40..=47 => self.ground = Some(code - 40),
                49 => self.ground = None,
                90..=97 => self.ink = Some(code - 82),
                // One of 256, of which the first 16 are these.
                38 | 48 => {
                    let colour = codes.by_ref().nth(1).filter(|colour| *colour < 16);
                    if code == 38 { self.ink = colour } else { self.ground = colour }
                }
                _ => {}
            }
        }
    }
}

/// The picture of what `tmux capture-pane -e` prints.
pub fn svg(screen: &str) -> String {
    let lines: Vec<&str> = screen.trim_end().lines().collect();
    let mut body = String::new();
    let (mut widest, mut style) = (0, Style::default());
    for (number, line) in lines.iter().enumerate() {
        let mut column = 0;
        for (run_style, text) in runs(line, &mut style) {
            draw(&mut body, &run_style, &text, column, number);
            column += text.chars().count();
        }
        widest = widest.max(column);
    }
    let width = widest as f64 * CELL.0 + 2.0 * ROOM;
    let height = lines.len() as f64 * CELL.1 + 2.0 * ROOM;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" role=\"img\" \
         aria-label=\"xdp-lb top in a terminal\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{GROUND}\"/>\n<style>text {{ white-space: pre }}</style>\n<g \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\" fill=\"{INK}\">\n{body}</g>\n</svg>\n"
    )
}

/// A line as texts of one style each.
fn runs(line: &str, style: &mut Style) -> Vec<(Style, String)> {
    let mut runs: Vec<(Style, String)> = Vec::new();
    for (place, part) in line.split("\x1b[").enumerate() {
        let text = match place {
            0 => part,
            _ => match part.split_once('m') {
                Some((codes, text)) => {
                    style.take(codes);
                    text
                }
                None => part,
            },
        };
        if !text.is_empty() {
            runs.push((style.clone(), text.to_owned()));
        }
    }
    runs
}

fn draw(body: &mut String, style: &Style, text: &str, column: usize, line: usize) {
    let (x, y) = (ROOM + column as f64 * CELL.0, ROOM + line as f64 * CELL.1);
    let width = text.chars().count() as f64 * CELL.0;
    let colour = |colour: Option<usize>, usual: &'static str| colour.map_or(usual, |it| COLOURS[it]);
    let (mut ink, mut ground) = (colour(style.ink, INK), colour(style.ground, GROUND));
    if style.is_reversed {
        std::mem::swap(&mut ink, &mut ground);
    }
    let height = CELL.1;
    if ground != GROUND {
        let _ = writeln!(
            body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{ground}\"/>"
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let bold = if style.is_bold { " font-weight=\"bold\"" } else { "" };
    let dim = if style.is_dim { " opacity=\".65\"" } else { "" };
    let under = if style.is_underlined { " text-decoration=\"underline\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let base = y + 13.0;
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{base:.1}\" textLength=\"{width:.1}\" fill=\"{ink}\"{bold}{dim}{under}>{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_a_terminal_are_those_of_the_picture() {
        let picture = svg("plain \x1b[1m\x1b[31mdown <1>\x1b[39m\x1b[0m\n\x1b[7mselected\x1b[0m\n");
        assert!(picture.contains(">plain </text>"), "{picture}");
        assert!(picture.contains("fill=\"#f2777a\" font-weight=\"bold\">down &lt;1></text>"), "{picture}");
        assert!(picture.contains(&format!("fill=\"{INK}\"/>")), "the selected line has a ground: {picture}");
    }
}
