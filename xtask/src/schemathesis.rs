//! Schemathesis, a program of Python that holds an API against its OpenAPI document: in an environment of its own, in the
//! versions that `tests/requirements.txt` pins.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use xdp_lb_tests::paths;

use crate::workspace::run;
use crate::{packages, say};

/// Sees to it that it is there. Where it cannot be had, its test is left out, and says so.
pub fn offer() {
    if let Err(error) = ensure() {
        say::note(format_args!(
            "{error:#}; the test that holds the API against its OpenAPI document is left out"
        ));
    }
}

fn ensure() -> Result<()> {
    let requirements = paths::workspace().join("tests/requirements.txt");
    let pinned =
        fs::read(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let dir = paths::schemathesis_dir();
    // What was installed, last of all: an installation that was cut short is begun anew.
    let installed = dir.join("installed.txt");
    if fs::read(&installed).is_ok_and(|installed| installed == pinned) && paths::schemathesis().is_some() {
        return Ok(());
    }
    say::step("Installing Schemathesis");
    if !has_python() {
        packages::install(&["python3", "python3-venv"], "Schemathesis is written in Python")?;
    }
    let _ = fs::remove_dir_all(&dir);
    run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    run(Command::new(dir.join("bin/pip"))
        .args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "--requirement",
        ])
        .arg(&requirements))
    .context("Schemathesis could not be installed")?;
    fs::write(&installed, pinned).with_context(|| format!("cannot write {}", installed.display()))
}

/// Whether there is a Python that makes environments.
fn has_python() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import ensurepip, venv"]).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
