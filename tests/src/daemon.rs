//! The real daemon on a host of the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::process::Process;
use crate::{paths, wait};

/// `xdp-lb run` on a host. When dropped it is killed, its program detached and its pins removed.
pub struct Daemon {
    host: Host,
    dir: PathBuf,
    pins: PathBuf,
    program: PathBuf,
    process: Option<Process>,
}

impl Daemon {
    /// Starts it on these interfaces and waits until it answers. `config` is the rest of the config file:
    /// keys of no table first, then the services. The program is attached by native XDP, unless that says otherwise.
    pub fn start(host: &Host, interfaces: &[&str], config: &str) -> Result<Self> {
        Self::start_program(paths::daemon(), host, interfaces, config)
    }

    /// Like [`Daemon::start`], of the binary at this path.
    pub fn start_program(program: PathBuf, host: &Host, interfaces: &[&str], config: &str) -> Result<Self> {
        let dir = host.dir();
        // The bpffs of the sandbox, which goes with it.
        let pins = PathBuf::from(format!("/sys/fs/bpf/{}-{}", host.lab().name(), host.name()));
        let mut daemon = Self { host: host.clone(), dir, pins, program, process: None };
        // The lab's networks are made for native XDP, which `auto` does not choose on a veth.
        let says_how = ["attach = ", "xdp_mode = "].iter().any(|key| config.contains(key));
        let attach = if says_how { "" } else { "attach = \"xdp\"\n" };
        let text = format!("{}{attach}\n{config}", daemon.preamble(interfaces));
        fs::write(daemon.config_file(), text).context("cannot write the config file")?;
        daemon.run()?;
        Ok(daemon)
    }

    /// The keys that a lab sets: dotted, so that keys of no table may follow.
    fn preamble(&self, interfaces: &[&str]) -> String {
        format!(
            "interfaces = {interfaces:?}\nstate_file = {:?}\npin_path = {:?}\napi.socket = {:?}\n",
            self.dir.join("state.json"),
            self.pins,
            self.socket(),
        )
    }

    /// Starts it, also again after [`Daemon::kill`], and waits until it answers.
    pub fn run(&mut self) -> Result<()> {
        self.process = None;
        let program = &self.program;
        if !paths::is_executable(program) {
            bail!("there is no {}: run `cargo xtask build`", program.display());
        }
        let mut command = self.host.command(program);
        command.arg("run").arg("--config").arg(self.config_file());
        let mut process = self.host.spawn_command("xdp-lb", command)?;
        // A kernel that still frees another daemon's tables may take long to make new ones.
        wait::until("the daemon to answer `xdp-lb status`", Duration::from_secs(90), || {
            if let Some(status) = process.exited()? {
                bail!("the daemon ended ({status}): {}", process.log().trim());
            }
            Ok(is_done(self.cli_output(&["status"])?.status))
        })
        .with_context(|| format!("its log is {}", process.log_file().display()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it with SIGKILL: it cannot clean up. The program stays attached.
    pub fn kill(&mut self) -> Result<()> {
        self.process_mut()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Ends it as a service manager would, with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        self.process_mut()?.stop()?;
        self.process = None;
        Ok(())
    }

    fn process_mut(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the daemon is not running")
    }

    /// Its process, where it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its config file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("xdp-lb.toml")
    }

    /// The text of its config file.
    pub fn config(&self) -> Result<String> {
        fs::read_to_string(self.config_file()).context("cannot read the config file")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// The folder of its pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// What it has logged, since the first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("xdp-lb.log")).unwrap_or_default()
    }

    /// Runs the CLI, and returns what it prints. An error carries what it says on stderr. What is done while forwarding is in
    /// trouble is done.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli_output(arguments)?;
        if !is_done(output.status) {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`xdp-lb {}` failed ({}): {}", arguments.join(" "), output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the CLI with `--output json`, and returns the document.
    pub fn cli_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.cli(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("`xdp-lb {}` printed no JSON", arguments.join(" ")))
    }

    /// Runs the CLI, however it ends.
    pub fn cli_output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.host.command(paths::daemon());
        command.args(arguments);
        // It asks no daemon.
        if arguments.first() != Some(&"check") {
            command.arg("--socket").arg(self.socket());
        }
        command.output().context("cannot start xdp-lb")
    }

    /// Waits until every backend of every service is up, but those of weight 0.
    pub fn wait_until_up(&self) -> Result<()> {
        let mut last = String::new();
        wait::until("every backend to be up", Duration::from_secs(40), || {
            let backends = self.backends(None)?;
            last = backends
                .iter()
                .filter(|backend| backend["state"] != "up" && backend["weight"] != 0)
                .map(|backend| {
                    format!("\n{} of {}: {}", backend["address"], backend["service"], backend["reason"])
                })
                .collect();
            Ok(last.is_empty())
        })
        .map(drop)
        .with_context(|| format!("not up:{last}"))
    }

    /// The backends of one service, or of all, as `backend list` shows them.
    pub fn backends(&self, service: Option<&str>) -> Result<Vec<Value>> {
        let words: Vec<_> = ["backend", "list"].into_iter().chain(service).collect();
        match self.cli_json(&words)? {
            Value::Array(backends) => Ok(backends),
            _ => bail!("`xdp-lb backend list` printed no list"),
        }
    }

    /// How many packets were dropped or passed for this reason.
    pub fn counter(&self, reason: &str) -> Result<u64> {
        let document = self.cli_json(&["counters"])?;
        document["counters"]
            .as_array()
            .and_then(|counters| counters.iter().find(|counter| counter["name"] == reason))
            .and_then(|counter| counter["packets"].as_u64())
            .with_context(|| format!("`xdp-lb counters` has no {reason}"))
    }

    /// The value of the one sample in the Prometheus metrics with this name and these labels among its own, as they
    /// are scraped on the daemon's host.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let text = self.host.run("curl -sSf http://127.0.0.1:9799/metrics")?;
        let fits = |series: &str| {
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            found == name && labels.iter().all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")))
        };
        let mut values = text.lines().filter_map(|line| line.rsplit_once(' ')).filter(|line| fits(line.0));
        match (values.next(), values.next()) {
            (Some((_, value)), None) => value.parse().with_context(|| format!("{name} is {value}")),
            (None, _) => bail!("no metric {name} with {labels:?}"),
            _ => bail!("more than one metric {name} with {labels:?}"),
        }
    }

    /// What a backend does now, such as "up", "down" or "draining".
    pub fn backend_state(&self, service: &str, address: &str) -> Result<String> {
        let backends = self.backends(None)?;
        let backend = backends
            .iter()
            .find(|backend| backend["service"] == service && backend["address"] == address)
            .with_context(|| format!("{service} has no backend {address}"))?;
        Ok(backend["state"].as_str().context("the backend has no state")?.to_owned())
    }

    /// How many slots of a service's ring are not at rest: flows that get there are recorded.
    pub fn unsettled_slots(&self, service: &str) -> Result<u64> {
        let shown = self.cli_json(&["service", "show", service])?;
        let count =
            |kind: &str| shown["service"]["moving"][kind].as_u64().context("the ring has no such slots");
        Ok(count("moving_slots")? + count("recorded_slots")?)
    }

    /// Waits until a backend is in this state, and returns how long that took.
    pub fn wait_for_state(
        &self,
        service: &str,
        address: &str,
        state: &str,
        deadline: Duration,
    ) -> Result<Duration> {
        wait::until(&format!("{address} of {service} to be {state}"), deadline, || {
            Ok(self.backend_state(service, address)? == state)
        })
    }
}

/// Whether the CLI has done what it was told: also while forwarding is in trouble, which exit code 3 says.
fn is_done(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 3))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        // The links' pins hold the program on the devices. bpffs has folders and pins only.
        let _ = fs::remove_dir_all(&self.pins);
    }
}
