//! What drives a real browser over the web page: Chromium and Node.js of the system, and playwright-core and axe-core in the
//! versions that `tests/browser/package-lock.json` pins.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use xdp_lb_tests::paths;

use crate::workspace::run;
use crate::{packages, say};

/// Debian's packages of the programs.
const PROGRAMS: [(&str, &str); 3] = [("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")];

/// The files of `tests/browser`.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "driver.mjs"];

/// Sees to it that it is there. Where it cannot be had, its tests are left out, and say so.
pub fn offer() {
    if let Err(error) = ensure() {
        say::note(format_args!("{error:#}; the tests of the web page in a browser are left out"));
    }
}

/// Sees to it that it is there.
pub fn ensure() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| paths::program(program).is_none()).collect();
    if !missing.is_empty() {
        let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        // Texts need a font.
        packages.push("fonts-dejavu-core");
        packages::install(&packages, "the web page is tested in a browser")?;
    }
    let source = paths::workspace().join("tests/browser");
    let dir = paths::browser_dir();
    let mut wanted = String::new();
    for file in FILES {
        wanted += &fs::read_to_string(source.join(file)).with_context(|| format!("cannot read {file}"))?;
    }
    // What was installed, last of all: an installation that was cut short is begun anew.
    let installed = dir.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    say::step("Installing playwright-core and axe-core");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for file in FILES {
        fs::copy(source.join(file), dir.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&dir))
        .context("playwright-core could not be installed")?;
    fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))
}
