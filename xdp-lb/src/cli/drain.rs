//! `xdp-lb backend drain`: until the last flow has ended, or patience has.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Done;
use super::backend::{Target, patch};
use super::output::Screen;
use super::units::{counted, span};
use crate::api::client::{Client, Error};
use crate::api::types::{AdminState, BackendPatch, Outcome};

/// The time between two looks at the flows.
const LOOK: Duration = Duration::from_millis(500);

/// How a drain ended, as `--output json` prints it.
#[derive(Debug, Serialize)]
struct Drained {
    service: String,
    address: SocketAddr,
    /// Whether no flow is left.
    drained: bool,
    /// How many flows are left.
    flows: u64,
    waited_seconds: u64,
    message: String,
}

/// Begins to drain a backend.
pub(super) async fn start(client: &Client, target: &Target) -> anyhow::Result<Outcome> {
    patch(client, target, BackendPatch { admin: Some(AdminState::Draining), weight: None }).await
}

/// Drains a backend, and returns when its last flow has ended or `timeout` has passed.
pub(super) async fn execute(
    client: &Client,
    screen: &Screen,
    target: &Target,
    timeout: Duration,
) -> anyhow::Result<Done> {
    start(client, target).await?;
    let began = Instant::now();
    let mut progress = Progress::on_stderr();
    let end = watch(client, target, began + timeout, &mut progress).await;
    progress.clear();
    let (drained, flows, message) = words(end?, target, began.elapsed(), timeout);
    let drained = Drained {
        service: target.service.clone(),
        address: target.address,
        drained,
        flows,
        waited_seconds: began.elapsed().as_secs(),
        message,
    };
    let code = if drained.drained { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(Done { text: screen.show(&drained, || drained.message.clone())?, code })
}

#[derive(Debug)]
enum End {
    LastFlowEnded,
    Removed,
    EnabledAgain { flows: u64 },
    TimedOut { flows: u64 },
}

async fn watch(
    client: &Client,
    target: &Target,
    deadline: Instant,
    progress: &mut Progress,
) -> Result<End, Error> {
    let mut flows = 0;
    loop {
        let now = Instant::now();
        let late = now >= deadline;
        match client.backend(&target.service, target.address).await {
            Ok(backend) => {
                flows = backend.flows;
                if backend.admin == AdminState::Enabled {
                    return Ok(End::EnabledAgain { flows });
                }
                if backend.share > 0.0 {
                    // The datapath could not be changed yet: new flows may come still.
                    progress.show("the datapath still gives it new flows, see xdp-lb status");
                } else if flows == 0 {
                    return Ok(End::LastFlowEnded);
                } else {
                    let left = span(deadline.saturating_duration_since(now).as_secs());
                    progress.show(&format!("{} left, waiting for {left} more", counted(flows, "flow")));
                }
            }
            Err(error) if error.is_not_found() => return Ok(End::Removed),
            // Flows go on while the daemon restarts, and so does the drain.
            Err(Error::NoDaemon(_) | Error::Broken { .. }) if !late => {
                progress.show("the daemon does not answer, waiting for it");
            }
            Err(error) => return Err(error),
        }
        if late {
            return Ok(End::TimedOut { flows });
        }
        tokio::time::sleep_until(deadline.min(now + LOOK)).await;
    }
}

fn words(end: End, target: &Target, waited: Duration, timeout: Duration) -> (bool, u64, String) {
    let Target { service, address } = target;
    let waited = span(waited.as_secs());
    match end {
        End::LastFlowEnded => {
            (true, 0, format!("drained {address} of {service}: the last flow has ended, after {waited}"))
        }
        End::Removed => {
            (true, 0, format!("{address} of {service} was removed while it drained, after {waited}"))
        }
        End::EnabledAgain { flows } => {
            let left = counted(flows, "flow");
            let words =
                format!("not drained: {address} of {service} was enabled again after {waited}, with {left}");
            (false, flows, words)
        }
        End::TimedOut { flows } => {
            let left = counted(flows, "flow");
            let timeout = span(timeout.as_secs());
            let words = format!(
                "not drained: the timeout of {timeout} has passed and {left} of {address} are left.\n\
                 It stays draining: \"xdp-lb backend remove {service} {address}\" ends them, \
                 \"xdp-lb backend enable {service} {address}\" takes it back into service"
            );
            (false, flows, words)
        }
    }
}

/// One line on a terminal that is written over and over; nothing where stderr is none.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn on_stderr() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, words: &str) {
        if self.terminal {
            // Back to the line's start, and erase it: ECMA-48 EL. A failed write is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{words}");
        }
    }

    fn clear(&mut self) {
        self.show("");
    }
}
