//! A real browser (Chromium, without a screen) on a host of the lab, driven by playwright-core.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::host::Host;
use crate::paths;

/// The browser; it ends when this is dropped.
pub struct Browser {
    driver: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts it. `None` where Chromium, Node.js or playwright-core are not installed, which `cargo xtask setup` tries.
    pub fn start(host: &Host) -> Result<Option<Self>> {
        let (Some(chromium), Some(node), Some(driver)) =
            (paths::program("chromium"), paths::program("node"), paths::browser_driver())
        else {
            return Ok(None);
        };
        let log = File::create(host.dir().join("browser.log")).context("cannot write the browser's log")?;
        let mut command = host.command(node);
        command.arg(driver).arg(chromium).current_dir(host.dir()).env("HOME", host.dir());
        let mut driver = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the browser's driver")?;
        let (Some(asks), Some(answers)) = (driver.stdin.take(), driver.stdout.take()) else {
            bail!("the browser's driver has no pipes")
        };
        Ok(Some(Self { driver, asks, answers: BufReader::new(answers) }))
    }

    /// Does something, as `tests/browser/driver.mjs` has it, and returns the answer.
    pub fn ask(&mut self, command: &str, mut options: Value) -> Result<Value> {
        options["command"] = command.into();
        writeln!(self.asks, "{options}").context("the browser's driver has ended: see browser.log")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("cannot read the driver's answer")?;
        let mut answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("the browser's driver has ended at {options}: see browser.log"))?;
        match answer["error"].as_str() {
            Some(error) => bail!("the browser at {options}: {error}"),
            None => Ok(answer["done"].take()),
        }
    }

    /// Opens a page, with this size and theme.
    pub fn open(&mut self, url: &str, (width, height): (u32, u32), dark: bool) -> Result<()> {
        self.ask("open", json!({ "url": url, "width": width, "height": height, "dark": dark })).map(drop)
    }

    /// Waits until this text is on the page.
    pub fn see(&mut self, text: &str) -> Result<()> {
        self.ask("see", json!({ "text": text })).map(drop)
    }

    /// Waits until this text is in an element.
    pub fn see_in(&mut self, css: &str, text: &str) -> Result<()> {
        self.ask("see", json!({ "css": css, "text": text })).map(drop)
    }

    /// Goes to a part of the page: `#/services`.
    pub fn go(&mut self, hash: &str) -> Result<()> {
        self.ask("go", json!({ "hash": hash })).map(drop)
    }

    /// Presses a button, or follows a link, by its role and name.
    pub fn click(&mut self, role: &str, name: &str) -> Result<()> {
        self.ask("click", json!({ "role": role, "name": name })).map(drop)
    }

    /// Writes into a field, by its label.
    pub fn fill(&mut self, label: &str, value: &str) -> Result<()> {
        self.ask("fill", json!({ "label": label, "value": value })).map(drop)
    }

    /// How many elements have this role and name.
    pub fn count(&mut self, role: &str, name: &str) -> Result<u64> {
        let count = self.ask("count", json!({ "role": role, "name": name }))?;
        count.as_u64().context("not a number")
    }

    /// The text of an element.
    pub fn text(&mut self, css: &str) -> Result<String> {
        let text = self.ask("text", json!({ "css": css }))?;
        Ok(text.as_str().context("not a text")?.to_owned())
    }

    /// An attribute of an element.
    pub fn attribute(&mut self, css: &str, name: &str) -> Result<String> {
        let value = self.ask("attribute", json!({ "css": css, "name": name }))?;
        Ok(value.as_str().with_context(|| format!("{css} has no {name}"))?.to_owned())
    }

    /// What the browser has complained about since the last call: errors and warnings on its console, exceptions, and requests
    /// that failed.
    pub fn problems(&mut self) -> Result<Vec<String>> {
        strings(&self.ask("problems", json!({}))?)
    }

    /// What axe-core finds wrong with the page as it is now.
    pub fn inaccessible(&mut self) -> Result<Vec<String>> {
        strings(&self.ask("axe", json!({}))?)
    }

    /// Saves what is to be seen as a PNG.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        self.ask("screenshot", json!({ "file": file })).map(drop)
    }
}

fn strings(list: &Value) -> Result<Vec<String>> {
    let list = list.as_array().context("not a list")?;
    Ok(list.iter().map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned)).collect())
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with the pipe that its driver holds.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
