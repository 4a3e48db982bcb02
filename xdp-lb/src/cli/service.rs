//! `xdp-lb service`.

use std::net::IpAddr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Cell;

use super::backend::{self, flows_left};
use super::confirm::{self, Removal};
use super::drain::{self, Patience, Subject};
use super::flags::{Given, backend_name, parse_backend, wrong};
use super::output::{Screen, number, text};
use super::repeat::Repeat;
use super::sort::{Key, Order};
use super::units::{byte_rate, counted, grouped, rate, span};
use super::{Done, counters, discovery, set};
use crate::api::client::Client;
use crate::model::change::{FlowsLeft, in_words};
use crate::model::request::ServicePatch;
use crate::model::state::AdminState;
use crate::model::{self, Agent, HealthCheck, Mode, OnDown, Prefix, Probe, Vip};
use crate::report::documents::{BackendView, MovingView, ServiceDetailView, ServiceView};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the services with VIP, mode, serving backends and rates
    List {
        #[command(flatten)]
        order: Order<By>,
        #[command(flatten)]
        repeat: Repeat,
    },
    /// Show one service with its backends
    Show {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        #[command(flatten)]
        repeat: Repeat,
    },
    /// Add a service; it survives restarts without being in the config file
    Add(Box<Add>),
    /// Change options of a service while it runs; its flows stay where they are
    ///
    /// All of it is validated and saved before it takes effect, and survives restarts. What cannot change while the service
    /// runs is refused, with the way to change it.
    #[command(after_help = set::help::<model::Service>("xdp-lb service set web affinity=source max_flows=100000"))]
    Set {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// An option and its new value; without any, the options are listed
        #[arg(value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
    /// Drain a service: no new flows; its VIP is withdrawn unless another service uses it; existing flows continue
    ///
    /// All of its backends drain. With --wait, returns once the last flow has ended (exit code 0) or the timeout has
    /// passed (exit code 1), and says which. The service stays drained, also across restarts, until `xdp-lb service
    /// enable`.
    Drain {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Put a drained service back into service
    Enable {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Remove a service with its backends: it drains, and is removed once its last flow has ended
    ///
    /// It is removed after `drain_timeout` (an hour by default) at the latest. If you add it again at the same VIP
    /// before that, it keeps its flows.
    Remove {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        #[command(flatten)]
        removal: Removal,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdp-lb service add web 192.0.2.10:80 --check http --check-path /healthz \\
      --backend 198.51.100.11:8080 --backend 198.51.100.12:8080=50
  xdp-lb service add dns '[2001:db8::53]:53' --protocol udp --mode nat \\
      --backend '[2001:db8:1::53]:53' --check dns --check-name www.example.com")]
pub(super) struct Add {
    /// Its name: 1 to 63 letters, digits, hyphens, underscores or dots
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The address and port that clients connect to: 192.0.2.10:80, '[2001:db8::10]:80'. Also a range of ports,
    /// 192.0.2.10:5000-5999, or all of them, '192.0.2.10:*'; backends then have port 0
    #[arg(value_parser = str::parse::<Vip>)]
    vip: Vip,
    #[command(flatten)]
    given: Given<model::Service>,
    /// A backend, with its options; may be given several times
    #[arg(long = "backend", value_name = backend_name(), value_parser = parse_backend)]
    backends: Vec<model::Backend>,
    /// Any option by its key in the config file, as `service set` takes them; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE")]
    options: Vec<String>,
}

/// By what services are ordered.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum By {
    Service,
    Vip,
    Mode,
    Serving,
    New,
    Pps,
    Bytes,
}

impl By {
    fn key(service: &ServiceView, by: Self) -> Key {
        let traffic = &service.traffic;
        match by {
            Self::Service => Key::Words(service.name.clone()),
            Self::Vip => Key::Words(service.vip.to_string()),
            Self::Mode => Key::Words(service.mode.to_string()),
            Self::Serving => Key::Number(service.backends_serving.into()),
            Self::New => Key::Number(traffic.new_flows_per_second),
            Self::Pps => Key::Number(traffic.packets_per_second),
            Self::Bytes => Key::Number(traffic.bytes_per_second),
        }
    }
}

impl Command {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let outcome = match self {
            Self::List { order, repeat } => {
                let list = async || {
                    let mut services = client.services().await?;
                    order.sort(&mut services, By::key);
                    Ok(screen.show(&services, || table(screen, &services))?.into())
                };
                return repeat.show(screen, list).await;
            }
            Self::Show { name, repeat } => {
                let show = async || {
                    let detail = client.service(&name).await?;
                    Ok(screen.show(&detail, || detail_table(screen, &detail))?.into())
                };
                return repeat.show(screen, show).await;
            }
            Self::Set { name, options } if options.is_empty() => {
                let service = client.service(&name).await?.service;
                let why = set::nothing_to_set(&service.options, "xdp-lb service set");
                return Err(wrong(&["service", "set"], why).into());
            }
            Self::Set { name, options } => {
                let patch = set::service_patch(&options).map_err(|why| wrong(&["service", "set"], why))?;
                client.patch_service(&name, &patch).await?
            }
            Self::Drain { name, patience } => {
                return drain::execute(client, screen, &Subject::Service(name), &patience).await;
            }
            Self::Enable { name } => {
                client.patch_service(&name, &ServicePatch::admin(AdminState::Enabled)).await?
            }
            Self::Add(add) => client.add_service(&add.service()?).await?,
            Self::Remove { name, removal } => {
                if removal.asks() {
                    let backends = client.service(&name).await?.backends;
                    let flows = backends.iter().map(flows_left).fold(FlowsLeft::default(), FlowsLeft::plus);
                    confirm::ask(&format!("service {name}: this ends {flows}."))?;
                }
                client.remove_service(&name, removal.query()).await?
            }
        };
        Done::of(&outcome, screen)
    }
}

impl Add {
    fn service(self) -> Result<model::Service, clap::Error> {
        let base = model::Service { backends: self.backends, ..model::Service::new(self.name, self.vip) };
        let service = self.given.over(base).and_then(|service| set::over(&service, &self.options));
        service.map_err(|why| wrong(&["service", "add"], why))
    }
}

/// The table of services.
pub(super) fn table(screen: &Screen, services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "no services; to add one: xdp-lb service add, or edit the config file".into();
    }
    let columns = [
        text("SERVICE"),
        text("VIP"),
        text("PROTOCOL").leaves(3),
        text("MODE").leaves(4),
        number("SERVING"),
        number("NEW").leaves(6),
        number("PPS").leaves(7),
        number("BYTES").leaves(5),
        text("CHECK").leaves(2),
        text("ORIGIN").leaves(1),
    ];
    let rows = services.iter().map(|service| {
        vec![
            Cell::new(&service.name),
            Cell::new(service.vip),
            Cell::new(service.protocol),
            Cell::new(service.mode),
            Cell::new(format!("{}/{}", service.backends_serving, service.backends)),
            Cell::new(rate(service.traffic.new_flows_per_second)),
            Cell::new(rate(service.traffic.packets_per_second)),
            Cell::new(byte_rate(service.traffic.bytes_per_second)),
            Cell::new(service.check().probe.kind()),
            Cell::new(service.origin.name()),
        ]
    });
    screen.table(&columns, rows)
}

/// Options that `service show` prints in words; all others follow by their keys.
const IN_WORDS: &[&str] = &[
    "name",
    "vip",
    "protocol",
    "mode",
    "snat_addresses",
    "affinity",
    "flow_tracking",
    "on_no_backends",
    "hairpin",
    "quic",
    "allow",
    "deny",
    "new_flow_rate",
    "new_flow_burst",
    "panic_threshold",
    "circuit_breaker",
    "agent",
    "feedback",
    "slow_start",
    "on_down",
    "down_grace",
    "down_timeout",
    "max_flows",
    "health_check",
    "discovery",
    "backend",
];

fn detail_table(screen: &Screen, detail: &ServiceDetailView) -> String {
    let ServiceDetailView { service, options, backends, refusals } = detail;
    let traffic = &service.traffic;
    let addresses: Vec<_> = service.snat_addresses.iter().map(IpAddr::to_string).collect();
    let snat = match (service.mode, addresses.as_slice()) {
        (Mode::FullNat, []) => "this host's, towards each backend".into(),
        (Mode::FullNat, _) => addresses.join(", "),
        (Mode::Nat | Mode::Dsr, _) | (Mode::Ipip | Mode::Gue, []) => "the client's".into(),
        (Mode::Ipip | Mode::Gue, _) => {
            format!("the client's, in tunnel packets from {}", addresses.join(", "))
        }
    };
    let facts = [
        ("service", service.name.clone()),
        ("VIP", format!("{} {}", service.vip, service.protocol)),
        ("mode", service.mode.to_string()),
        ("source address", snat),
        ("affinity", service.affinity.to_string()),
        ("QUIC", service.quic.map_or_else(|| "connection IDs ignored".into(), |quic| quic.to_string())),
        ("allowed clients", clients(service)),
        ("new flows", new_flows(service, backends)),
        ("health check", check(&service.check())),
        ("discovery", service.discovery.as_ref().map_or_else(|| "none".into(), discovery::words)),
        ("serving", serving(service)),
        ("breaker", service.circuit_breaker.map_or_else(|| "none".into(), |breaker| breaker.to_string())),
        (
            "slow start",
            service
                .slow_start
                .map_or_else(|| "none".into(), |time| humantime::format_duration(time).to_string()),
        ),
        ("on down", on_down(service)),
        ("agent", service.agent.as_ref().map_or_else(|| "none".into(), Agent::to_string)),
        ("feedback", feedback(service)),
        ("tracking", service.flow_tracking.to_string()),
        ("no backends", format!("{} new flows", service.on_no_backends)),
        ("hairpin", service.hairpin.to_string()),
        ("ring", format!("{} slots{}", grouped(service.ring_slots.into()), rest(service))),
        ("admin", service.admin.name().to_owned()),
        ("origin", service.origin.name().to_owned()),
        ("in", format!("{} packets, {} bytes", grouped(traffic.packets_in), grouped(traffic.bytes_in))),
        ("out", format!("{} packets, {} bytes", grouped(traffic.packets_out), grouped(traffic.bytes_out))),
        ("total flows", grouped(traffic.new_flows)),
        (
            "now",
            format!(
                "{} packets, {}, {} new flows",
                rate(traffic.packets_per_second),
                byte_rate(traffic.bytes_per_second),
                rate(traffic.new_flows_per_second)
            ),
        ),
    ];
    let mut text: String = facts.iter().map(|(name, value)| format!("{name:<15} {value}\n")).collect();
    for (key, value) in options.iter().filter(|(key, _)| !IN_WORDS.contains(&key.as_str())) {
        text += &format!("{key:<15} {}\n", in_words(value));
    }
    for line in service.discovery.iter().flat_map(|it| discovery::troubles(&service.name, it)) {
        text += &format!("{line}\n");
    }
    text.push('\n');
    text.push_str(&backend::table(screen, backends));
    if !refusals.is_empty() {
        text +=
            &format!("\nnot forwarded since the daemon started:\n{}", counters::refused(screen, refusals));
    }
    text
}

/// What happens to flows of backends that are down.
fn on_down(service: &ServiceView) -> String {
    let span = |time: Duration| humantime::format_duration(time).to_string();
    match (service.on_down, service.down_grace, service.down_timeout) {
        (OnDown::Keep, ..) => "established flows are kept".into(),
        (OnDown::Reset, ..) => "established flows end at once".into(),
        (OnDown::Auto, Some(grace), _) => {
            format!("established flows end once the backend has been silent for {}", span(grace))
        }
        (OnDown::Auto, None, Some(timeout)) => format!("established flows end after {}", span(timeout)),
        (OnDown::Auto, None, None) => "auto".into(),
    }
}

/// How weights are adjusted.
fn feedback(service: &ServiceView) -> String {
    let policy = service.feedback.unwrap_or_default();
    match service.agent.is_some() || policy.latency {
        true => policy.to_string(),
        false => "none: weights as configured".into(),
    }
}

/// How many backends take new flows, and why backends that are down do.
fn serving(service: &ServiceView) -> String {
    let serving = format!("{} of {} backends", service.backends_serving, service.backends);
    match (&service.panic, service.panic_threshold) {
        (Some(why), _) => format!("{serving}; PANIC, backends that are down take flows too: {why}"),
        (None, 0) => serving,
        (None, threshold) => format!("{serving}; panic threshold {threshold} %"),
    }
}

/// The state of a ring's slots, in `service show`.
fn rest(service: &ServiceView) -> String {
    moving(service).map_or_else(|| ", settled".into(), |moving| format!("; {moving}"))
}

/// Which slots of a service have moved, and until when that matters. In full-nat it does not: each flow has a record.
pub(super) fn moving(service: &ServiceView) -> Option<String> {
    if service.mode == Mode::FullNat {
        return None;
    }
    let MovingView { moving_slots, recorded_slots, all_recorded_in_seconds } = service.moving;
    let move_on = all_recorded_in_seconds.map(|seconds| {
        let (moving, slots) = (grouped(moving_slots.into()), counted(service.ring_slots.into(), "slot"));
        format!("rebalancing: {moving} of {slots}; all their flows are tracked in {}", span(seconds))
    });
    let wait = (recorded_slots > 0).then(|| {
        let carry = if recorded_slots == 1 { "carries" } else { "carry" };
        format!("{} still {carry} flows of their previous backend", counted(recorded_slots.into(), "slot"))
    });
    let parts: Vec<String> = move_on.into_iter().chain(wait).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The allowed clients.
fn clients(service: &ServiceView) -> String {
    let list = |ranges: &[Prefix]| ranges.iter().map(Prefix::to_string).collect::<Vec<_>>().join(", ");
    match (service.allow.as_slice(), service.deny.as_slice()) {
        ([], []) => "all".into(),
        ([], deny) => format!("all except {}", list(deny)),
        (allow, []) => list(allow),
        (allow, deny) => format!("{}; denied: {}", list(allow), list(deny)),
    }
}

/// The limits of new flows per client, and of all flows.
fn new_flows(service: &ServiceView, backends: &[BackendView]) -> String {
    let rate = match (service.new_flow_rate, service.new_flow_burst) {
        (0, _) => "unlimited".into(),
        (rate, 0) => format!("{} a second per client", grouped(rate.into())),
        (rate, burst) => {
            format!("{} a second per client, bursts of {}", grouped(rate.into()), grouped(burst.into()))
        }
    };
    match service.max_flows {
        0 => rate,
        limit => {
            let flows = backends.iter().map(|backend| backend.flows).sum();
            format!("{rate}; at most {} flows ({} now)", grouped(limit.into()), grouped(flows))
        }
    }
}

fn check(check: &HealthCheck) -> String {
    match check.probe {
        Probe::None => "none: all backends are considered up".into(),
        _ => check.to_string(),
    }
}
