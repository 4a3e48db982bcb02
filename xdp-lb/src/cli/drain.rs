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
    /// How many flows are left, as far as they are known.
    flows: u64,
    /// Seconds until all are known, where some may not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    flows_known_in_seconds: Option<u64>,
    waited_seconds: u64,
    message: String,
}

/// Begins to drain a backend.
pub(super) async fn start(client: &Client, target: &Target) -> anyhow::Result<Outcome> {
    patch(client, target, BackendPatch { admin: Some(AdminState::Draining), weight: None }).await
}

/// How long a drain waits.
pub(super) struct Patience {
    /// For the last flow.
    pub timeout: Duration,
    /// For a packet to it: without one for so long, silent flows are given up.
    pub quiet: Option<Duration>,
}

/// Drains a backend, and returns when its last flow has ended or patience has.
pub(super) async fn execute(
    client: &Client,
    screen: &Screen,
    target: &Target,
    patience: &Patience,
) -> anyhow::Result<Done> {
    start(client, target).await?;
    let began = Instant::now();
    let mut progress = Progress::on_stderr();
    let end = watch(client, target, patience, began, &mut progress).await;
    progress.clear();
    let end = end?;
    let (drained, left, message) = words(&end, target, began.elapsed(), patience);
    let drained = Drained {
        service: target.service.clone(),
        address: target.address,
        drained,
        flows: left.flows,
        flows_known_in_seconds: left.known_in,
        waited_seconds: began.elapsed().as_secs(),
        message,
    };
    let code = if drained.drained { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(Done { text: screen.show(&drained, || drained.message.clone())?, code })
}

/// What a backend still has.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    /// The flows that are known.
    flows: u64,
    /// Seconds until all are, where one that has been silent may not be.
    known_in: Option<u64>,
}

impl Left {
    fn words(self) -> String {
        let flows = counted(self.flows, "flow");
        match self.known_in {
            None => flows,
            Some(seconds) => format!("{flows} (and any that stays silent until {} from now)", span(seconds)),
        }
    }
}

#[derive(Debug)]
enum End {
    LastFlowEnded,
    Quiet,
    Removed,
    EnabledAgain(Left),
    TimedOut(Left),
}

async fn watch(
    client: &Client,
    target: &Target,
    patience: &Patience,
    began: Instant,
    progress: &mut Progress,
) -> Result<End, Error> {
    let deadline = began + patience.timeout;
    let mut left = Left::default();
    // How many packets it had had, and since when it has had no more.
    let mut heard = (None, began);
    loop {
        let now = Instant::now();
        let late = now >= deadline;
        match client.backend(&target.service, target.address).await {
            Ok(backend) => {
                left = Left { flows: backend.flows, known_in: backend.flows_known_in_seconds };
                if backend.admin == AdminState::Enabled {
                    return Ok(End::EnabledAgain(left));
                }
                let packets = Some(backend.traffic.packets_in);
                if heard.0 != packets {
                    heard = (packets, now);
                }
                if backend.share > 0.0 {
                    // The datapath could not be changed yet: new flows may come still.
                    progress.show("the datapath still gives it new flows, see xdp-lb status");
                } else if left.flows == 0 && left.known_in.is_none() {
                    return Ok(End::LastFlowEnded);
                } else if patience.quiet.is_some_and(|quiet| now.duration_since(heard.1) >= quiet) {
                    return Ok(End::Quiet);
                } else {
                    let more = span(deadline.saturating_duration_since(now).as_secs());
                    progress.show(&format!("{} left, waiting for {more} more", left.words()));
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
            return Ok(End::TimedOut(left));
        }
        tokio::time::sleep_until(deadline.min(now + LOOK)).await;
    }
}

fn words(end: &End, target: &Target, waited: Duration, patience: &Patience) -> (bool, Left, String) {
    let Target { service, address } = target;
    let waited = span(waited.as_secs());
    match *end {
        End::LastFlowEnded => {
            let words = format!("drained {address} of {service}: the last flow has ended, after {waited}");
            (true, Left::default(), words)
        }
        End::Quiet => {
            let quiet = span(patience.quiet.unwrap_or_default().as_secs());
            let words = format!(
                "drained {address} of {service}: no packet has gone to it for {quiet}, after {waited}; a flow that was \
                 silent for longer is not waited for"
            );
            (true, Left::default(), words)
        }
        End::Removed => {
            let words = format!("{address} of {service} was removed while it drained, after {waited}");
            (true, Left::default(), words)
        }
        End::EnabledAgain(left) => {
            let flows = left.words();
            let words =
                format!("not drained: {address} of {service} was enabled again after {waited}, with {flows}");
            (false, left, words)
        }
        End::TimedOut(left) => {
            let flows = left.words();
            let timeout = span(patience.timeout.as_secs());
            let mut words = format!(
                "not drained: the timeout of {timeout} has passed and {flows} of {address} are left.\n\
                 It stays draining: \"xdp-lb backend remove {service} {address}\" ends them, \
                 \"xdp-lb backend enable {service} {address}\" takes it back into service"
            );
            if left.known_in.is_some() {
                words += "\nTo wait for those alone that send anything, add --quiet 30s; to have all flows counted, \
                          give the service flow_tracking = \"always\"";
            }
            (false, left, words)
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
