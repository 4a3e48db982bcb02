//! Deciding is pure: the time and all chance are arguments. A test names each line that asks the clock or draws a number where
//! something is decided. Tests are left out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders and files of xdp-lb/src in which everything is decided by what is passed in.
const PURE: &[&str] = &[
    "control/discoveries.rs",
    "control/leaving.rs",
    "control/troubles.rs",
    "control/unknown_flows.rs",
    "model",
    "overlay",
    "plan",
    "pool",
    "report",
    "ring",
    "tables.rs",
];

/// What asks the clock or draws a number.
const ASKS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "uptime::",
    ".elapsed()",
    "monotonic_seconds",
    "rand::",
    "getrandom",
];

/// A line that asks.
#[derive(PartialEq, Eq, Debug)]
struct Asked {
    line: usize,
    what: &'static str,
}

/// The lines of a file that ask, without those of its tests.
fn asked(text: &str) -> Vec<Asked> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {");
    let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
    let code = lines[..end].iter().enumerate().filter(|(_, line)| !line.starts_with("//"));
    let found = code.flat_map(|(number, line)| {
        let found = ASKS.iter().filter(|what| line.contains(**what));
        found.map(move |what| Asked { line: number + 1, what })
    });
    found.collect()
}

/// Whether a file is a module of tests alone, by the file that declares it.
fn is_test_module(file: &Path) -> bool {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let declares = |line: &str| line.trim_start_matches("pub ") == format!("mod {stem};");
    let folder = file.parent().unwrap_or(Path::new("."));
    [folder.join("mod.rs"), folder.with_extension("rs")].iter().any(|parent| {
        let text = fs::read_to_string(parent).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.windows(2).any(|pair| pair[0] == "#[cfg(test)]" && declares(pair[1]))
    })
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        all.extend(files(&entry?.path())?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use xdp_lb_tests::paths::workspace;

    use super::*;

    #[test]
    fn nothing_that_decides_asks_the_clock_or_draws_a_number() {
        let source = workspace().join("xdp-lb/src");
        let mut found = Vec::new();
        for pure in PURE {
            for file in files(&source.join(pure)).unwrap().into_iter().filter(|file| !is_test_module(file)) {
                let name = file.strip_prefix(&source).unwrap().display().to_string();
                let asked = asked(&fs::read_to_string(&file).unwrap());
                found.extend(
                    asked.into_iter().map(|it| format!("xdp-lb/src/{name}:{}: {}", it.line, it.what)),
                );
            }
        }
        assert!(found.is_empty(), "pass in the time and chance instead:\n{}", found.join("\n"));
    }

    #[test]
    fn a_line_that_asks_is_found_and_one_of_a_comment_or_a_test_is_not() {
        let text = "use rand::random;\n// Instant::now\nlet a = Instant::now();\n#[cfg(test)]\nmod tests {\n    \
                    Instant::now();\n}\n";
        assert_eq!(asked(text), [Asked { line: 1, what: "rand::" }, Asked { line: 3, what: "Instant::now" }]);
        assert_eq!(asked("began.elapsed()"), [Asked { line: 1, what: ".elapsed()" }]);
    }
}
