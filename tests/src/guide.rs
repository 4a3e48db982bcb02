//! The pages of `docs/guide` as tests read them: the commands to run and the files to write, each with its host.
//!
//! The first line of a block says what becomes of it, in words after the language. `sh lb` is commands on the load balancer,
//! and `toml lb PATH start` a file there, with which a daemon then starts. Blocks of other languages are there to be read.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::paths;

/// A block of a page that a test carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of the page on which it begins.
    pub line: usize,
    /// What to do.
    pub step: Step,
    /// The commands, or the file's text.
    pub text: String,
}

/// What becomes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its commands are run, each of which must succeed.
    Run(Place),
    /// Its command is started on every backend, and goes on.
    Start,
    /// Its text is written to this file of the load balancer.
    Write {
        /// The file.
        path: PathBuf,
        /// Whether a daemon is started with it, as if there had been none.
        start: bool,
    },
}

/// Where commands are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The load balancer.
    Lb,
    /// The load balancer, which is a Debian host with systemd and the package.
    Debian,
    /// The client.
    Client,
    /// Every backend.
    Backends,
}

/// The folder of the pages.
pub fn folder() -> PathBuf {
    paths::workspace().join("docs/guide")
}

/// The names of all pages, in order.
pub fn pages() -> Result<Vec<String>> {
    let entries = fs::read_dir(folder()).context("cannot list the guide")?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".md").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The blocks of a page, in order.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    let path = folder().join(page).with_extension("md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((line, first)) = lines.next() {
        let Some(words) = first.strip_prefix("```") else { continue };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```")).collect();
        let step = step(words).with_context(|| format!("line {line}: ```{words}"))?;
        blocks.extend(step.map(|step| Block { line, step, text: format!("{}\n", body.join("\n")) }));
    }
    Ok(blocks)
}

/// What the words after the fence say.
fn step(words: &str) -> Result<Option<Step>> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let step = match words[..] {
        ["sh", "lb"] => Step::Run(Place::Lb),
        ["sh", "debian"] => Step::Run(Place::Debian),
        ["sh", "client"] => Step::Run(Place::Client),
        ["sh", "backend"] => Step::Run(Place::Backends),
        ["sh", "backend", "background"] => Step::Start,
        ["toml" | "text", "lb", path] => Step::Write { path: path.into(), start: false },
        ["toml", "lb", path, "start"] => Step::Write { path: path.into(), start: true },
        ["text"] => return Ok(None),
        _ => bail!("a block is `text`, or says where a test runs it or writes it: see tests/src/guide.rs"),
    };
    Ok(Some(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_what_becomes_of_it_and_one_that_does_not_is_refused() {
        let text = "# A page\n\n```sh lb\nxdp-lb status\n```\n```text\nnot run\n```\n\n```toml lb /etc/a.toml start\na = 1\n\nb = 2\n```\n";
        let config = Step::Write { path: "/etc/a.toml".into(), start: true };
        assert_eq!(
            parse(text).unwrap(),
            [
                Block { line: 3, step: Step::Run(Place::Lb), text: "xdp-lb status\n".into() },
                Block { line: 10, step: config, text: "a = 1\n\nb = 2\n".into() },
            ]
        );
        for unclear in ["```sh\ntrue\n```", "```\ntrue\n```", "```sh mars\ntrue\n```", "```toml\na = 1\n```"]
        {
            assert!(parse(unclear).is_err(), "{unclear}");
        }
    }

    #[test]
    fn every_block_of_the_guide_says_what_becomes_of_it() {
        let pages = pages().unwrap();
        assert!(pages.len() > 10, "{pages:?}");
        let all: Vec<Block> = pages.iter().flat_map(|page| blocks(page).unwrap()).collect();
        assert!(all.len() > 50, "{}", all.len());
    }
}
