//! What the operator types and sees: one file a command. The commands are described in `docs/cli.md`.

#![forbid(unsafe_code)]

mod backend;
mod check;
mod config;
mod confirm;
mod counters;
mod decap;
mod discovery;
mod doctor;
mod drain;
mod explain;
mod flags;
mod fleet;
mod flows;
mod import;
mod node;
mod output;
mod pcapng;
mod pinned;
mod reload;
mod repeat;
mod run;
mod service;
mod set;
mod sort;
mod status;
mod target;
mod top;
mod trace;
mod ui;
mod units;
mod unload;
mod upgrade;
mod watch;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use output::{Format, Screen};

use crate::api::client::Client;
use crate::api::endpoint::Endpoint;
use crate::config::Errors;
use crate::datapath;
use crate::logging;
use crate::model::request::Outcome;

const DEFAULT_SOCKET: &str = "/run/xdp-lb/api.sock";

/// A Layer 4 load balancer for TCP and UDP: XDP forwards the packets, this daemon controls it.
#[derive(Debug, Parser)]
#[command(name = "xdp-lb", version = version(), max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  xdp-lb status                                       the whole state on one screen
  xdp-lb backend list                                 every backend, its state and why
  xdp-lb backend drain web 198.51.100.11:8080 --wait  no new flows; returns after the last one
  xdp-lb backend enable web 198.51.100.11:8080        back into service
  xdp-lb node drain --wait                            withdraws the VIPs; returns after the last flow
  xdp-lb counters                                     why packets were dropped or passed to the host
  xdp-lb diff                                         what a reload would change
  xdp-lb check /etc/xdp-lb/config.toml && xdp-lb reload

Exit codes: 0 success; 1 failure (the reason is on stderr); 2 usage error; 3 success, but forwarding is in trouble
(see stderr, or the top of `xdp-lb status`).";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The daemon's control socket, `api.socket` in its config [default: XDP_LB_SOCKET, or
    /// /run/xdp-lb/api.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A daemon on another host, `api.listen` in its config: https://HOST:PORT [default: XDP_LB_API]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket")]
    api: Option<String>,
    /// Your certificate for it, a PEM file [default: XDP_LB_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    certificate: Option<PathBuf>,
    /// The certificate's key, a PEM file [default: XDP_LB_KEY]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    key: Option<PathBuf>,
    /// The CA that signed the daemon's certificate, a PEM file [default: XDP_LB_CA, or those that this host trusts]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    ca: Option<PathBuf>,
    /// Output format: table or wide (all columns) for people, json or yaml for programs (stable, see docs/api.md)
    #[arg(long, short = 'o', global = true, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Import(import::Import),
    /// List, show, add and remove services
    #[command(subcommand, visible_alias = "services")]
    Service(service::Command),
    /// List, add, remove, drain and enable backends, and set their weights
    #[command(subcommand, visible_alias = "backends")]
    Backend(backend::Command),
    /// Drain the whole node, and put it back into service
    #[command(subcommand)]
    Node(node::Command),
    /// Show the other load balancers of the fleet, and whether they know each other's flows
    #[command(subcommand)]
    Fleet(fleet::Command),
    Status(status::Status),
    Top(top::Top),
    Counters(counters::Counters),
    Flows(flows::Flows),
    Explain(explain::Explain),
    Trace(trace::Trace),
    Diff(reload::Diff),
    /// Print the running configuration, and save runtime changes into the config file
    #[command(subcommand)]
    Config(config::Command),
    Reload(reload::Reload),
    Doctor(doctor::Doctor),
    Upgrade(upgrade::Upgrade),
    Watch(watch::Watch),
    Ui(ui::Ui),
    Unload(unload::Unload),
    Decap(decap::Decap),
    /// Used by the daemon itself: after an upgrade, makes the sockets of health checks in their network namespace
    #[command(hide = true)]
    ServeChecks {
        #[arg(long, value_enum, default_value_t, env = logging::VARIABLE, hide_env = true)]
        log_format: logging::Format,
    },
    /// Used by the daemon itself: ends a trace that the daemon has not ended
    #[command(hide = true, name = datapath::GUARD)]
    GuardTrace {
        /// After how many seconds at the latest
        seconds: u64,
        /// The programs and links, as descriptors
        descriptors: Vec<i32>,
    },
}

impl Command {
    /// The exit code of a failure.
    fn trouble(&self) -> ExitCode {
        match self {
            // As of diff(1), where 1 means a difference.
            Self::Diff(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// A command's output on stdout, and its exit code.
#[derive(Debug)]
struct Done {
    text: String,
    code: ExitCode,
}

/// The exit code of a success while forwarding is in trouble.
const IN_TROUBLE: u8 = 3;

impl Done {
    /// Success, but with a trouble of forwarding on stderr and in the exit code.
    fn in_view_of(text: String, trouble: Option<&str>) -> Self {
        let Some(trouble) = trouble else { return text.into() };
        // A closed stderr is not an error.
        let _ = writeln!(io::stderr(), "TROUBLE: {trouble}");
        Self { text, code: ExitCode::from(IN_TROUBLE) }
    }

    /// The outcome of a change, and whether forwarding is in trouble.
    fn of(outcome: &Outcome, screen: &Screen) -> anyhow::Result<Self> {
        let text = screen.show(outcome, || outcome.message.clone())?;
        Ok(Self::in_view_of(text, outcome.trouble.as_deref()))
    }
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self { text, code: ExitCode::SUCCESS }
    }
}

/// The definition of the command line, from which man pages and completions are made.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let trouble = cli.command.trouble();
    let done = cli.execute();
    let done = done.and_then(|done| {
        print(&done.text)?;
        Ok(done.code)
    });
    done.unwrap_or_else(|error| match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            // Errors of a config file start with file and line, for editors.
            let prefix = if error.is::<Errors>() { "" } else { "error: " };
            // A closed stderr is not an error.
            let _ = writeln!(io::stderr(), "{prefix}{error:#}");
            trouble
        }
    })
}

/// Prints to stdout; a reader that has closed the pipe (`| head`) is not an error. Returns whether stdout is still open.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        printed => Ok(printed.is_ok()),
    }
}

impl Cli {
    fn execute(self) -> anyhow::Result<Done> {
        let screen = Screen::of_stdout(self.global.output);
        let asks_none = matches!(
            self.command,
            Command::Run(_)
                | Command::Check(_)
                | Command::Import(_)
                | Command::Decap(_)
                | Command::ServeChecks { .. }
                | Command::GuardTrace { .. }
        );
        if self.global.socket.is_some() && asks_none {
            let words = "--socket names the socket of a running daemon, which `run`, `check`, `import` and `decap` do not \
                         use; the daemon's own socket is `api.socket` in its config file";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, words).into());
        }
        let is_of_this_host = asks_none || matches!(self.command, Command::Doctor(_));
        if self.global.api.is_some() && is_of_this_host {
            let words = "--api names a daemon on another host, but `run`, `check`, `import`, `decap` and `doctor` work on \
                         this one";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, words).into());
        }
        let remote = if is_of_this_host { None } else { self.global.remote()? };
        let local = || Endpoint::Socket(self.global.socket.clone().unwrap_or_else(usual_socket));
        let client = Client::of(remote.clone().unwrap_or_else(local));
        match self.command {
            Command::Run(run) => run.execute().map(|()| String::new().into()),
            Command::Check(check) => check.execute(&screen).map(Done::from),
            Command::Import(import) => import.execute().map(Done::from),
            Command::Service(command) => block_on(command.execute(&client, &screen)),
            Command::Backend(command) => block_on(command.execute(&client, &screen)),
            Command::Node(command) => block_on(command.execute(&client, &screen)),
            Command::Fleet(command) => block_on(command.execute(&client, &screen)),
            Command::Status(status) => block_on(status.execute(&client, &screen)),
            Command::Counters(counters) => block_on(counters.execute(&client, &screen)),
            Command::Flows(flows) => block_on(flows.execute(&client, &screen)),
            Command::Explain(explain) => block_on(explain.execute(&client, &screen)).map(Done::from),
            Command::Config(command) => {
                if remote.is_some() && command.is_of_this_host() {
                    let words = "`config save` writes a file of this host: run it on the daemon's host, without --api";
                    return Err(Self::command().error(ErrorKind::ArgumentConflict, words).into());
                }
                block_on(command.execute(&client, &screen))
            }
            Command::Diff(diff) => block_on(diff.execute(&client, &screen)),
            Command::Reload(reload) => block_on(reload.execute(&client, &screen)),
            Command::Watch(watch) => {
                block_on(watch.execute(&client, &screen, print)).map(|()| String::new().into())
            }
            Command::Top(top) => block_on(top.execute(&client)).map(|()| String::new().into()),
            Command::Ui(ui) => block_on(ui.execute(&client)).map(|()| String::new().into()),
            Command::Decap(decap) => block_on(decap.execute()).map(|()| String::new().into()),
            Command::ServeChecks { log_format } => {
                run::serve_checks(log_format).map(|()| String::new().into())
            }
            Command::GuardTrace { seconds, descriptors } => {
                datapath::stand_guard(seconds, &descriptors).map(|()| String::new().into())
            }
            Command::Trace(trace) => {
                block_on(trace.execute(&client, &screen, print)).map(|()| String::new().into())
            }
            Command::Doctor(doctor) => block_on(doctor.execute(&client, &screen)),
            Command::Upgrade(upgrade) => block_on(upgrade.execute(&client, &screen)).map(Done::from),
            Command::Unload(unload) => {
                let remote = remote.map(|_| &client);
                block_on(unload.execute(remote, self.global.socket, &screen)).map(Done::from)
            }
        }
    }
}

impl Global {
    /// The daemon on another host, if one is named and no socket is.
    fn remote(&self) -> anyhow::Result<Option<Endpoint>> {
        let named = || variable("XDP_LB_API").map(|url| url.to_string_lossy().into_owned());
        let url = match (&self.socket, &self.api) {
            (Some(_), _) => None,
            (None, url) => url.clone().or_else(named),
        };
        let Some(url) = url else {
            if self.certificate.is_some() || self.key.is_some() || self.ca.is_some() {
                let words = "--certificate, --key and --ca need a daemon on another host: add --api \
                             https://HOST:PORT";
                return Err(Cli::command().error(ErrorKind::MissingRequiredArgument, words).into());
            }
            return Ok(None);
        };
        let file =
            |given: &Option<PathBuf>, name| given.clone().or_else(|| variable(name).map(PathBuf::from));
        let (certificate, key) =
            (file(&self.certificate, "XDP_LB_CERTIFICATE"), file(&self.key, "XDP_LB_KEY"));
        let (Some(certificate), Some(key)) = (certificate, key) else {
            let words = format!("{url} requires a client certificate: add --certificate FILE and --key FILE");
            return Err(Cli::command().error(ErrorKind::MissingRequiredArgument, words).into());
        };
        Endpoint::remote(&url, &certificate, &key, file(&self.ca, "XDP_LB_CA").as_deref()).map(Some)
    }
}

/// The default socket.
fn usual_socket() -> PathBuf {
    variable("XDP_LB_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?
        .block_on(command)
}

fn version() -> String {
    format!("{} (commit {})", crate::VERSION, crate::COMMIT)
}

#[cfg(test)]
mod tests;
