//! Draining a backend, a service or the node: until the last flow has ended, or patience has.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::Done;
use super::output::Screen;
use super::target::{Target, patch};
use super::units::{counted, parse_span, span};
use crate::api::client::{Client, Error};
use crate::model::request::{AdminPatch, BackendPatch, Outcome, ServicePatch};
use crate::model::state::AdminState;
use crate::report::documents::BackendView;

/// The time between two looks at the flows.
const LOOK: Duration = Duration::from_millis(500);

/// How long no client may have sent anything before the node counts as drained: flows of settled slots have no
/// record, and routers and clients take their time to go elsewhere.
const NODE_QUIET: Duration = Duration::from_secs(5);

/// What is drained.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Backend(Target),
    Service(String),
    Node,
}

/// Whether and how long a drain waits.
#[derive(Clone, Debug, Args)]
pub(super) struct Patience {
    /// Return once the last flow has ended
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait at most: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "5m", value_parser = parse_span)]
    pub(super) timeout: Duration,
    /// Also return once no packet has arrived for this time: do not wait for idle flows
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = parse_span)]
    pub(super) quiet: Option<Duration>,
}

/// How a drain ended, as `--output json` prints it.
#[derive(Debug, Serialize)]
struct Drained {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    /// Whether no flow is left.
    drained: bool,
    /// How many flows are left, as far as they are known.
    flows: u64,
    /// Seconds until all flows are known, if some may not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    flows_known_in_seconds: Option<u64>,
    waited_seconds: u64,
    message: String,
}

/// Starts the drain, and waits if requested.
pub(super) async fn execute(
    client: &Client,
    screen: &Screen,
    subject: &Subject,
    patience: &Patience,
) -> anyhow::Result<Done> {
    let outcome = subject.begin(client).await?;
    if !patience.wait {
        return Done::of(&outcome, screen);
    }
    let began = Instant::now();
    let mut progress = Progress::on_stderr();
    let end = watch(client, subject, patience, began, &mut progress).await;
    progress.clear();
    let (drained, left, message) = words(&end?, subject, began.elapsed(), patience);
    let (service, address) = match subject {
        Subject::Backend(target) => (Some(target.service.clone()), Some(target.address)),
        Subject::Service(name) => (Some(name.clone()), None),
        Subject::Node => (None, None),
    };
    let drained = Drained {
        service,
        address,
        drained,
        flows: left.flows,
        flows_known_in_seconds: left.known_in,
        waited_seconds: began.elapsed().as_secs(),
        message,
    };
    let text = screen.show(&drained, || drained.message.clone())?;
    if !drained.drained {
        return Ok(Done { text, code: ExitCode::FAILURE });
    }
    // The trouble may be why no flow is left.
    let trouble = client.status().await?.trouble;
    Ok(Done::in_view_of(text, trouble.as_deref()))
}

/// What is seen of a subject at one time.
struct Look {
    admin: AdminState,
    /// Whether it still gets new flows.
    gets_flows: bool,
    left: Left,
    /// Packets from clients so far.
    packets: u64,
}

/// What there still is.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    /// The flows that are known.
    flows: u64,
    /// Seconds until all are known, if an idle one may not be.
    known_in: Option<u64>,
}

impl Left {
    fn of<'a>(backends: impl IntoIterator<Item = &'a BackendView>) -> Self {
        backends.into_iter().fold(Self::default(), |left, backend| Self {
            flows: left.flows + backend.flows,
            known_in: left.known_in.max(backend.flows_known_in_seconds),
        })
    }

    fn words(self) -> String {
        let flows = counted(self.flows, "flow");
        match self.known_in {
            None => flows,
            Some(seconds) => format!("{flows}, and perhaps idle ones (known in {})", span(seconds)),
        }
    }
}

impl Subject {
    async fn begin(&self, client: &Client) -> anyhow::Result<Outcome> {
        Ok(match self {
            Self::Backend(target) => patch(client, target, BackendPatch::admin(AdminState::Draining)).await?,
            Self::Service(name) => {
                client.patch_service(name, &ServicePatch::admin(AdminState::Draining)).await?
            }
            Self::Node => client.patch_node(&AdminPatch { admin: AdminState::Draining }).await?,
        })
    }

    async fn look(&self, client: &Client) -> Result<Look, Error> {
        Ok(match self {
            Self::Backend(target) => {
                let backend = client.backend(&target.service, target.address).await?;
                Look {
                    admin: backend.admin,
                    gets_flows: backend.share > 0.0,
                    left: Left::of([&backend]),
                    packets: backend.traffic.packets_in,
                }
            }
            Self::Service(name) => {
                let service = client.service(name).await?;
                Look {
                    admin: service.service.admin,
                    gets_flows: service.backends.iter().any(|backend| backend.share > 0.0),
                    left: Left::of(&service.backends),
                    packets: service.service.traffic.packets_in,
                }
            }
            Self::Node => {
                let status = client.status().await?;
                let backends = client.backends(None).await?;
                Look {
                    admin: status.admin,
                    // New flows of clients that have not noticed yet are served.
                    gets_flows: false,
                    left: Left { known_in: None, ..Left::of(&backends) },
                    packets: status.services.iter().map(|service| service.traffic.packets_in).sum(),
                }
            }
        })
    }

    /// How long no packet may have arrived before it counts as drained.
    const fn settles_for(&self) -> Option<Duration> {
        match self {
            Self::Backend(_) | Self::Service(_) => None,
            Self::Node => Some(NODE_QUIET),
        }
    }

    /// What takes it back into service.
    fn undo(&self) -> String {
        match self {
            Self::Backend(Target { service, address }) => {
                format!("xdp-lb backend enable {service} {address}")
            }
            Self::Service(name) => format!("xdp-lb service enable {name}"),
            Self::Node => "xdp-lb node undrain".into(),
        }
    }

    /// What ends the flows that are left.
    fn end(&self) -> String {
        match self {
            Self::Backend(Target { service, address }) => {
                format!("xdp-lb backend remove {service} {address} --now")
            }
            Self::Service(name) => format!("xdp-lb service remove {name} --now"),
            Self::Node => "xdp-lb unload".into(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(Target { service, address }) => write!(f, "{address} of {service}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Node => f.write_str("this node"),
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
    subject: &Subject,
    patience: &Patience,
    began: Instant,
    progress: &mut Progress,
) -> Result<End, Error> {
    let deadline = began + patience.timeout;
    let mut left = Left::default();
    // The number of packets, and since when it has not changed.
    let mut heard = (None, began);
    loop {
        let now = Instant::now();
        let late = now >= deadline;
        match subject.look(client).await {
            Ok(look) => {
                left = look.left;
                if look.admin == AdminState::Enabled {
                    return Ok(End::EnabledAgain(left));
                }
                let packets = Some(look.packets);
                if heard.0 != packets {
                    heard = (packets, now);
                }
                let silent = now.duration_since(heard.1);
                if look.gets_flows {
                    // The datapath could not be changed yet: new flows may still arrive.
                    progress.show("the datapath still sends it new flows; see xdp-lb status");
                } else if patience.quiet.is_some_and(|quiet| silent >= quiet) {
                    return Ok(End::Quiet);
                } else if left.flows == 0 && left.known_in.is_none() {
                    match subject.settles_for() {
                        Some(time) if silent < time => {
                            progress.show("no flows left, waiting for the last packets");
                        }
                        _ => return Ok(End::LastFlowEnded),
                    }
                } else {
                    let more = span(deadline.saturating_duration_since(now).as_secs());
                    progress.show(&format!("{} left, waiting for {more} more", left.words()));
                }
            }
            Err(error) if error.is_not_found() => return Ok(End::Removed),
            // Flows continue while the daemon restarts, and so does the drain.
            Err(Error::NoDaemon(_) | Error::Broken { .. }) if !late => {
                progress.show("waiting for the daemon to answer");
            }
            Err(error) => return Err(error),
        }
        if late {
            return Ok(End::TimedOut(left));
        }
        tokio::time::sleep_until(deadline.min(now + LOOK)).await;
    }
}

fn words(end: &End, subject: &Subject, waited: Duration, patience: &Patience) -> (bool, Left, String) {
    let waited = span(waited.as_secs());
    match *end {
        End::LastFlowEnded => {
            let words = format!("drained {subject}: the last flow has ended, after {waited}");
            (true, Left::default(), words)
        }
        End::Quiet => {
            let quiet = span(patience.quiet.unwrap_or_default().as_secs());
            let words = format!(
                "drained {subject}: no packet went to it for {quiet}, after {waited}; idle flows may remain"
            );
            (true, Left::default(), words)
        }
        End::Removed => {
            (true, Left::default(), format!("{subject} was removed while it drained, after {waited}"))
        }
        End::EnabledAgain(left) => {
            let words =
                format!("not drained: {subject} was enabled again after {waited}, with {}", left.words());
            (false, left, words)
        }
        End::TimedOut(left) => {
            let flows = match (left.flows, subject) {
                (0, Subject::Node) => "still gets packets from clients".to_owned(),
                _ => format!("still has {}", left.words()),
            };
            let timeout = span(patience.timeout.as_secs());
            let mut words = format!(
                "not drained within {timeout}: {subject} {flows}.\n\
                 It stays draining. To end the flows: {}. To put it back into service: {}",
                subject.end(),
                subject.undo()
            );
            if left.known_in.is_some() {
                words += "\nTo wait only for flows that are active, add --quiet 30s. To count every flow, set \
                          flow_tracking = \"always\" for the service";
            }
            (false, left, words)
        }
    }
}

/// A line on the terminal that is overwritten; nothing if stderr is not a terminal.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn on_stderr() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, words: &str) {
        if self.terminal {
            // Back to the line's start, and erase it: ECMA-48 EL. A failed write is not a reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{words}");
        }
    }

    fn clear(&mut self) {
        self.show("");
    }
}
