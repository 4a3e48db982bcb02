//! Writes the man pages and the completions of the shells into a folder: `cargo run --example manual -- FOLDER`.
//!
//! The pages of the commands follow from the command line's own definition, and xdp-lb.toml(5) from the tables of keys in
//! `docs/configuration`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("name a folder to write to")?;
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&pages, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = xdp_lb::cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "xdp-lb", &completions)
            .with_context(|| format!("cannot write the completions of {shell}"))?;
    }
    let mut command = xdp_lb::cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, "", &pages)?;
    let page = config_page()?;
    fs::write(pages.join("xdp-lb.toml.5"), page).context("cannot write xdp-lb.toml.5")
}

/// Writes the page of a command, and those of its own commands: `xdp-lb-backend-drain.8`.
fn write_pages(command: &Command, above: &str, folder: &Path) -> Result<()> {
    let name = format!("{above}{}", command.get_name());
    let shown = command.get_bin_name().unwrap_or(&name).to_owned();
    let page = Man::new(command.clone().name(name.clone()).bin_name(shown))
        .title(name.to_uppercase())
        .section("8")
        .manual("xdp-lb")
        // The date of the build would make no two builds alike.
        .date("")
        .source(format!("xdp-lb {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text).with_context(|| format!("cannot make the page of {name}"))?;
    let file = folder.join(format!("{name}.8"));
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, &format!("{name}-"), folder)?;
    }
    Ok(())
}

/// The documents with tables of keys, in the order of the config file.
const DOCUMENTS: [&str; 12] = [
    "general",
    "vips",
    "access",
    "limits",
    "services",
    "backends",
    "health-checks",
    "health-check-types",
    "discovery",
    "weights",
    "circuit-breaker",
    "clients",
];

/// xdp-lb.toml(5): every table of keys.
fn config_page() -> Result<String> {
    let mut page = Roff::new();
    let source = format!("xdp-lb {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["XDP-LB.TOML", "5", "", &source, "xdp-lb"]);
    page.control("SH", ["NAME"]).text([roman("xdp-lb.toml - config file of the load balancer xdp-lb")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "TOML. Unknown keys are errors, and a file with an error is refused as a whole: check it with",
    )]);
    page.text([bold("xdp-lb check"), roman(" "), italic("FILE"), roman(".")]);
    page.text([roman(
        "The package installs /etc/xdp-lb/config.toml. Durations are written with units, \"1m 30s\".",
    )]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration");
    for name in DOCUMENTS {
        let file = folder.join(name).with_extension("md");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        tables(&text, &mut page);
    }
    page.control("SH", ["SEE ALSO"]).text([
        bold("xdp-lb"),
        roman("(8), "),
        bold("xdp-lb-check"),
        roman("(8)"),
    ]);
    Ok(page.render())
}

/// The tables of keys of a document, each with its heading.
fn tables(text: &str, page: &mut Roff) {
    let mut heading = "";
    let mut header: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            heading = title;
        }
        let Some(cells) = cells(line) else {
            header.clear();
            continue;
        };
        if header.is_empty() {
            if !cells[0].starts_with("key") {
                continue;
            }
            page.control("SH", [plain(heading).to_uppercase().as_str()]);
            header = cells;
        } else if cells[0].starts_with('`') {
            page.control("TP", []).text([bold(plain(cells[0]))]);
            let facts = header.iter().zip(&cells).skip(1);
            let sentences: Vec<String> = facts
                .filter(|(_, cell)| !cell.is_empty())
                .map(|(name, cell)| match *name {
                    "meaning" | "" => plain(cell),
                    name => format!("{}: {}.", capital(name), plain(cell).trim_end_matches('.')),
                })
                .collect();
            page.text([Inline::from(sentences.join(" "))]);
        }
    }
}

/// The cells of a line of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    // A bar within a cell is escaped.
    let ends = inner.match_indices('|').map(|(at, _)| at).filter(|at| !inner[..*at].ends_with('\\'));
    let mut cells = Vec::new();
    let mut start = 0;
    for end in ends.chain([inner.len()]) {
        cells.push(inner[start..end].trim());
        start = end + 1;
    }
    Some(cells)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Markdown without its marks: links as their words, code and stress as text.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("](") {
        let (kept, words) = before.rsplit_once('[').unwrap_or((before, ""));
        text += kept;
        text += words;
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text += rest;
    text.replace(['`', '*'], "").replace("\\|", "|")
}
