//! What must hold of a config beyond its form: the same rules for a file, for what the API is
//! given, and for what the state file holds.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use xdp_lb_common::tables::PortRanges;

use super::check::{HealthCheck, Probe, Via};
use super::discovery::Discovery;
use super::feedback::FeedbackDraft;
use super::place::{Place, Problems};
use super::policy::{Affinity, GuardsDraft, Quic, ServerId, max_flows};
use super::recovery::RecoveryDraft;
use super::schema::{
    Backend, FlowTracking, Hairpin, Limits, Mode, OnNoBackends, PortRange, Protocol, Remote, Service,
};
use super::state::Origin;
use super::text::{grouped, quoted};
use super::vip::Vip;

/// Checks a service by itself, with its backends.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn validate_service(service: &Service) -> Result<(), Vec<String>> {
    let draft = ServiceDraft::of(service, Origin::File);
    let mut problems = Problems::default();
    draft.check(&Place::Root.item("service", 0, &draft.label(0)), &mut problems);
    problems.into_result()
}

/// Checks a backend by itself, and that it fits its service.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn validate_backend(service: &Service, backend: &Backend) -> Result<(), Vec<String>> {
    let draft = ServiceDraft::of(service, Origin::File);
    let backend = BackendDraft::of(backend, Origin::File);
    let mut problems = Problems::default();
    let label = draft.label(0);
    let place = Place::Root.item("service", 0, &label);
    draft.check_backend(&backend, &place.item("backend", 0, &backend.label(0)), &mut problems);
    problems.into_result()
}

/// Why a service may not have a backend, in words; `None` where it may, as far as the service alone can tell.
pub fn refusal(service: &Service, backend: &Backend) -> Option<String> {
    ServiceDraft::of(service, Origin::File).refusal(backend)
}

/// A service of which some values may have been unreadable, so that the rest is checked still.
#[derive(Clone, Debug)]
pub(crate) struct ServiceDraft {
    pub name: Option<String>,
    pub vip: Option<Vip>,
    pub protocol: Option<Protocol>,
    pub mode: Option<Mode>,
    pub snat_addresses: Vec<Option<IpAddr>>,
    pub affinity: Affinity,
    pub flow_tracking: Option<FlowTracking>,
    pub on_no_backends: Option<OnNoBackends>,
    pub hairpin: Option<Hairpin>,
    /// `None` where it could not be read.
    pub quic: Option<Option<Quic>>,
    pub guards: GuardsDraft,
    pub recovery: RecoveryDraft,
    pub feedback: FeedbackDraft,
    pub health_check: Option<HealthCheck>,
    pub discovery: Option<Discovery>,
    pub backends: Vec<BackendDraft>,
    pub origin: Origin,
}

/// A backend of which some values may have been unreadable.
#[derive(Clone, Debug)]
pub(crate) struct BackendDraft {
    pub address: Option<SocketAddr>,
    pub weight: Option<u16>,
    /// `None` where it could not be read.
    pub server_id: Option<Option<ServerId>>,
    pub backup: bool,
    pub max_flows: u32,
    pub origin: Origin,
}

const MOST_SNAT_ADDRESSES: usize = 16;
const LONGEST_NAME: usize = 63;

impl ServiceDraft {
    pub(crate) fn of(service: &Service, origin: Origin) -> Self {
        Self {
            name: Some(service.name.clone()),
            vip: Some(service.vip),
            protocol: Some(service.protocol),
            mode: Some(service.mode),
            snat_addresses: service.snat_addresses.iter().copied().map(Some).collect(),
            affinity: service.affinity,
            flow_tracking: Some(service.flow_tracking),
            on_no_backends: Some(service.on_no_backends),
            hairpin: Some(service.hairpin),
            quic: Some(service.quic),
            guards: GuardsDraft {
                allow: service.allow.iter().copied().map(Some).collect(),
                deny: service.deny.iter().copied().map(Some).collect(),
                new_flow_rate: service.new_flow_rate,
                new_flow_burst: service.new_flow_burst,
                max_flows: service.max_flows,
            },
            recovery: RecoveryDraft::of(service),
            feedback: FeedbackDraft::of(service),
            health_check: service.health_check.clone(),
            discovery: service.discovery.clone(),
            backends: service.backends.iter().map(|backend| BackendDraft::of(backend, origin)).collect(),
            origin,
        }
    }

    /// The service, where all of it could be read.
    pub(crate) fn finish(self) -> Option<Service> {
        Some(Service {
            name: self.name?,
            vip: self.vip?,
            protocol: self.protocol?,
            mode: self.mode?,
            snat_addresses: self.snat_addresses.into_iter().collect::<Option<_>>()?,
            affinity: self.affinity,
            flow_tracking: self.flow_tracking?,
            on_no_backends: self.on_no_backends?,
            hairpin: self.hairpin?,
            quic: self.quic?,
            allow: self.guards.allow.into_iter().collect::<Option<_>>()?,
            deny: self.guards.deny.into_iter().collect::<Option<_>>()?,
            new_flow_rate: self.guards.new_flow_rate,
            new_flow_burst: self.guards.new_flow_burst,
            panic_threshold: self.recovery.panic_threshold,
            slow_start: self.recovery.slow_start,
            on_down: self.recovery.on_down,
            down_grace: self.recovery.down_grace,
            down_timeout: self.recovery.down_timeout,
            circuit_breaker: self.recovery.circuit_breaker,
            agent: self.feedback.agent,
            feedback: self.feedback.feedback,
            max_flows: self.guards.max_flows,
            health_check: self.health_check,
            discovery: self.discovery,
            backends: self
                .backends
                .into_iter()
                .map(|backend| {
                    Some(Backend {
                        address: backend.address?,
                        weight: backend.weight?,
                        server_id: backend.server_id?,
                        backup: backend.backup,
                        max_flows: backend.max_flows,
                    })
                })
                .collect::<Option<_>>()?,
        })
    }

    /// What errors call it.
    pub(crate) fn label(&self, index: usize) -> String {
        service_label(self.name.as_deref(), index) + origin_words(self.origin)
    }

    /// The rules that look at this service alone.
    pub(crate) fn check(&self, place: &Place, problems: &mut Problems) {
        if let Some(name) = &self.name {
            problems.take(&place.key("name"), service_name(name));
        }
        if let Some(vip) = self.vip {
            problems.take(&place.key("vip"), served(vip));
            problems.take(&place.key("affinity"), self.affinity.check(vip.is_ipv4()));
        }
        self.check_snat_addresses(place, problems);
        self.guards.check(self.vip, place, problems);
        self.recovery.check(self.protocol, self.mode, place, problems);
        if self.hairpin == Some(Hairpin::Off) && self.mode.is_some_and(|mode| mode != Mode::Nat) {
            problems.add(&place.key("hairpin"), "is for mode \"nat\"; remove it");
        }
        let is_checked = match &self.health_check {
            Some(check) => check.probe != Probe::None,
            None => self.protocol != Some(Protocol::Udp) && !self.vip.is_some_and(|vip| vip.is_range()),
        };
        self.feedback.check(is_checked, place, problems);
        if let Some(check) = &self.health_check {
            let place = place.key("health_check");
            check.validate(&place, problems);
            if check.via == Via::Vip {
                self.check_vip_check(check, &place, problems);
            }
            if let Some(vip) = self.vip.filter(Vip::is_range)
                && !matches!(check.probe, Probe::None | Probe::Icmp)
                && check.port.is_none()
            {
                problems.add(
                    &place.key("port"),
                    format!("is missing, and the VIP {vip} has more than one port; write port = 8080, the one to check"),
                );
            }
        }
        if let Some(discovery) = &self.discovery {
            discovery.check(self, &place.key("discovery"), problems);
        }
        if let Some(Some(quic)) = self.quic {
            quic.check(self.protocol, &place.key("quic"), problems);
        }
        let mut ids = HashMap::new();
        let mut seen = HashSet::new();
        for (index, backend) in self.backends.iter().enumerate() {
            let label = backend.label(index);
            let place = place.item("backend", index, &label);
            self.check_backend(backend, &place, problems);
            if let Some(Some(id)) = backend.server_id
                && let Some(first) = ids.insert(id, backend.label(index))
            {
                problems.add(
                    &place.key("server_id"),
                    format!("\"{id}\" is the id of {first}, too; give each backend of the service its own"),
                );
            }
            if let Some(address) = backend.address
                && !seen.insert(address)
            {
                problems.add(
                    &place.key("address"),
                    format!(
                        "\"{address}\" is listed twice; remove one of them, and give the other the weight"
                    ),
                );
            }
        }
    }

    /// The first rule that a backend breaks, in words.
    pub(crate) fn refusal(&self, backend: &Backend) -> Option<String> {
        let mut problems = Problems::default();
        self.check_backend(&BackendDraft::of(backend, Origin::File), &Place::Root, &mut problems);
        problems.0.into_iter().next().map(|problem| problem.what)
    }

    /// What must hold of a check that goes to the VIP.
    fn check_vip_check(&self, check: &HealthCheck, place: &Place, problems: &mut Problems) {
        if let Some(mode) = self.mode.filter(|mode| !mode.keeps_destination()) {
            problems.add(
                &place.key("via"),
                format!(
                    "\"vip\" is for modes \"dsr\", \"ipip\" and \"gue\", whose backends have the VIP, and this service's mode \
                     is \"{mode}\"; remove it, or write \"backend\""
                ),
            );
        }
        let Some(vip) = self.vip else { return };
        let is_other = |is_v4: bool| is_v4 != vip.is_ipv4();
        match check.source {
            Some(source) if is_other(source.is_ipv4()) => problems.add(
                &place.key("source"),
                format!("{source} is not of the family of the VIP {vip}, which the checks go to; write one that is"),
            ),
            None if self.backends.iter().filter_map(|backend| backend.address).any(|it| is_other(it.is_ipv4())) => {
                problems.add(
                    &place.key("source"),
                    format!(
                        "is missing: a backend is not of the family of the VIP {vip}, which the checks go to; write an \
                         address of this host that is"
                    ),
                );
            }
            _ => {}
        }
    }

    fn check_backend(&self, backend: &BackendDraft, place: &Place, problems: &mut Problems) {
        problems.take(&place.key("max_flows"), max_flows(backend.max_flows));
        if let (Some(quic), Some(id)) = (self.quic, backend.server_id) {
            problems.take(&place.key("server_id"), Quic::check_server_id(quic, id));
        }
        let Some(address) = backend.address else { return };
        let place = place.key("address");
        let is_kept = self.vip.is_some_and(|vip| vip.is_range());
        if let Err(what) = if is_kept { host(address) } else { endpoint(address) } {
            problems.add(&place, what);
            return;
        }
        let own = self.health_check.as_ref().filter(|check| check.via == Via::Backend);
        let sources = [
            ("health_check", "checks come", own.and_then(|check| check.source)),
            ("agent", "agent is asked", self.feedback.agent.as_ref().and_then(|agent| agent.source)),
        ];
        for (key, what, source) in sources {
            if let Some(source) = source
                && source.is_ipv4() != address.is_ipv4()
            {
                problems.add(
                    &place,
                    format!(
                        "\"{address}\" is not of the family of {key}.source ({source}), which its {what} from; write a \
                         source of that family, or none"
                    ),
                );
            }
        }
        let Some(vip) = self.vip else { return };
        if is_kept && address.port() != 0 {
            problems.add(
                &place,
                format!(
                    "\"{address}\" has port {} and the VIP {vip} more than one, so packets keep theirs; write \"{}\"",
                    address.port(),
                    SocketAddr::new(address.ip(), 0),
                ),
            );
            return;
        }
        if vip.is_ipv4() != address.is_ipv4() && !self.mode.is_some_and(Mode::encapsulates) {
            let family = |ipv4| if ipv4 { "IPv4" } else { "IPv6" };
            problems.add(
                &place,
                format!(
                    "\"{address}\" is {} and the VIP {vip} is {}; a service and its backends are of one \
                     family (but for modes \"ipip\" and \"gue\"), so give the other family a service of its own",
                    family(address.is_ipv4()),
                    family(vip.is_ipv4())
                ),
            );
        } else if vip.ip() == address.ip() && self.mode.is_some_and(Mode::keeps_destination) {
            problems.add(
                &place,
                format!(
                    "{} is the VIP, by which no one backend can be reached; write the real server's own address",
                    address.ip()
                ),
            );
        } else if vip == address.into() || is_kept && vip.ip() == address.ip() {
            problems.add(
                &place,
                format!(
                    "\"{address}\" is the VIP of this service, so its packets would come back here; \
                     write the real server's own address"
                ),
            );
        } else if self.snat_addresses.contains(&Some(address.ip())) {
            problems.add(
                &place,
                format!(
                    "{} is one of snat_addresses, which are this host's own; \
                     write the real server's own address",
                    address.ip()
                ),
            );
        } else if let Some(mode) = self.mode
            && mode.keeps_destination()
            && vip.port() != address.port()
            && !is_kept
        {
            problems.add(
                &place,
                format!(
                    "\"{address}\" has port {} and the VIP {vip} has {}; mode \"{mode}\" leaves the port as it is, so \
                     write \"{}\", and let the real server listen there",
                    address.port(),
                    vip.port(),
                    SocketAddr::new(address.ip(), vip.port()),
                ),
            );
        } else if self.mode.is_some_and(Mode::encapsulates)
            && let Some(outer) = self.snat_addresses.iter().flatten().next()
            && outer.is_ipv4() != address.is_ipv4()
        {
            problems.add(
                &place,
                format!(
                    "\"{address}\" is not of the family of snat_addresses ({outer}), which packets to it leave from; \
                     write snat_addresses of that family, or none"
                ),
            );
        }
    }

    fn check_snat_addresses(&self, place: &Place, problems: &mut Problems) {
        let whole = place.key("snat_addresses");
        if !self.snat_addresses.is_empty()
            && let Some(mode) = self.mode
            && matches!(mode, Mode::Nat | Mode::Dsr)
        {
            problems.add(
                &whole,
                format!(
                    "mode \"{mode}\" keeps the client's address; remove snat_addresses, \
                 or write mode = \"full-nat\""
                ),
            );
            return;
        }
        if self.snat_addresses.len() > MOST_SNAT_ADDRESSES {
            problems.add(
                &whole,
                format!(
                    "{} addresses are too many; write at most {MOST_SNAT_ADDRESSES}",
                    self.snat_addresses.len()
                ),
            );
        }
        // Those of tunnels are of the backends' family, which each backend is checked for.
        let is_outer = self.mode.is_some_and(Mode::encapsulates);
        let first = self.snat_addresses.iter().flatten().next().copied();
        let mut seen = HashSet::new();
        for (index, address) in self.snat_addresses.iter().enumerate() {
            let Some(address) = *address else { continue };
            let place = place.item("snat_addresses", index, "snat_addresses");
            if let Err(what) = unicast(address, None) {
                problems.add(&place, what);
            } else if is_outer && first.is_some_and(|first| first.is_ipv4() != address.is_ipv4()) {
                problems.add(
                    &place,
                    format!("\"{address}\" is not of the first one's family; write addresses of one family"),
                );
            } else if let Some(vip) = self.vip
                && !is_outer
                && vip.is_ipv4() != address.is_ipv4()
            {
                problems.add(
                    &place,
                    format!(
                        "\"{address}\" is not of the VIP's family ({vip}); \
                         write an address of this host of that family"
                    ),
                );
            } else if !seen.insert(address) {
                problems.add(&place, format!("\"{address}\" is listed twice; remove one of them"));
            }
        }
    }
}

impl BackendDraft {
    pub(crate) fn of(backend: &Backend, origin: Origin) -> Self {
        Self {
            address: Some(backend.address),
            weight: Some(backend.weight),
            server_id: Some(backend.server_id),
            backup: backend.backup,
            max_flows: backend.max_flows,
            origin,
        }
    }

    fn label(&self, index: usize) -> String {
        backend_label(self.address, index) + origin_words(self.origin)
    }
}

/// What errors call the service of this name, or of this place where the name is not known.
pub(crate) fn service_label(name: Option<&str>, index: usize) -> String {
    match name {
        Some(name) => format!("service {}", quoted(name)),
        None => format!("service #{}", index + 1),
    }
}

/// What errors call the backend of this address, or of this place where the address is not known.
pub(crate) fn backend_label(address: Option<SocketAddr>, index: usize) -> String {
    match address {
        Some(address) => format!("backend {address}"),
        None => format!("backend #{}", index + 1),
    }
}

/// What errors say of where a service or a backend comes from; the file goes without saying.
fn origin_words(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "",
        Origin::Runtime => " (added at runtime)",
        Origin::Dns => " (found by DNS)",
        Origin::WatchedFile => " (of the watched file)",
    }
}

/// The rules that look at every service of a config together.
pub(crate) fn check_together(
    services: &[ServiceDraft],
    snat_ports: Option<PortRange>,
    limits: Option<Limits>,
    problems: &mut Problems,
) {
    let labels: Vec<String> =
        services.iter().enumerate().map(|(index, service)| service.label(index)).collect();
    let mut names = HashMap::new();
    let mut vips: HashMap<(Vip, Protocol), usize> = HashMap::new();
    let mut ranges: HashMap<(IpAddr, Protocol), Vec<(Vip, usize)>> = HashMap::new();
    let mut addresses: HashMap<(IpAddr, Protocol), usize> = HashMap::new();
    let mut snat: HashMap<IpAddr, usize> = HashMap::new();
    let place_of = |index: usize| Place::Root.item("service", index, &labels[index]);

    for (index, service) in services.iter().enumerate() {
        if let Some(name) = &service.name
            && let Some(first) = names.insert(name, index)
        {
            names.insert(name, first);
            problems.add(
                &place_of(index).key("name"),
                format!("{} is the name of another service; give each a name of its own", quoted(name)),
            );
        }
        if let (Some(vip), Some(protocol)) = (service.vip, service.protocol) {
            let first = *vips.entry((vip, protocol)).or_insert(index);
            if first != index {
                problems.add(
                    &place_of(index).key("vip"),
                    format!(
                        "{vip} {protocol} is the VIP of {} already; \
                         change the address, the port or the protocol of one",
                        labels[first]
                    ),
                );
            }
            addresses.entry((vip.ip(), protocol)).or_insert(index);
            if vip.is_range() && first == index {
                let others = ranges.entry((vip.ip(), protocol)).or_default();
                check_range(vip, others, &labels, &place_of(index).key("vip"), problems);
                others.push((vip, index));
            }
        }
        let sees = if service.mode == Some(Mode::FullNat) { &service.snat_addresses[..] } else { &[] };
        for address in sees.iter().flatten() {
            snat.entry(*address).or_insert(index);
        }
    }

    for (index, service) in services.iter().enumerate() {
        let place = place_of(index);
        if let (Some(vip), Some(ports)) = (service.vip, snat_ports)
            && vip.meets(ports.first, ports.last)
            && let Some(&other) = snat.get(&vip.ip())
        {
            problems.add(
                &place.key("vip"),
                format!(
                    "{} is in snat_addresses of {} and port {} in snat_ports ({ports}), so replies to that \
                     service \
                     would be taken for this one's packets; change the VIP, that snat address, or snat_ports",
                    vip.ip(),
                    labels[other],
                    vip.port(),
                ),
            );
        }
        for (number, backend) in service.backends.iter().enumerate() {
            let (Some(address), Some(protocol)) = (backend.address, service.protocol) else { continue };
            let in_range = || {
                let others = ranges.get(&(address.ip(), protocol))?;
                let other = others.iter().find(|(vip, _)| vip.meets(address.port(), address.port()))?;
                Some(&other.1)
            };
            let other = match address.port() {
                // Packets to every port that a service has.
                0 => addresses.get(&(address.ip(), protocol)),
                _ => vips.get(&(address.into(), protocol)).or_else(in_range),
            };
            if let Some(&other) = other
                && other != index
                && service.vip != Some(address.into())
            {
                let label = backend.label(number);
                problems.add(
                    &place.item("backend", number, &label).key("address"),
                    format!(
                        "\"{address}\" is the VIP of {}, so its packets would loop through this host; \
                         write the real server's own address",
                        labels[other]
                    ),
                );
            }
        }
    }

    let Some(limits) = limits else { return };
    let backends = services.iter().map(|service| service.backends.len()).sum();
    let ranges = services.iter().map(|service| service.guards.ranges()).sum();
    for (key, what, count, limit) in [
        ("services", "services", services.len(), limits.services),
        ("backends", "backends", backends, limits.backends),
        ("source_ranges", "ranges in allow and deny", ranges, limits.source_ranges),
    ] {
        if count as u64 > u64::from(limit) {
            problems.add(
                &Place::Root.key("limits").key(key),
                format!(
                    "there are {} {what} and room for {}; raise it to {} or more (tables that are loaded keep their \
                     size until `xdp-lb unload`)",
                    grouped(count as u64),
                    grouped(limit.into()),
                    count
                ),
            );
        }
    }
}

/// The rules of all the services of a config, each by itself and together.
pub(crate) fn check_all(
    services: &[ServiceDraft],
    snat_ports: Option<PortRange>,
    limits: Option<Limits>,
    allow_exec_checks: bool,
    problems: &mut Problems,
) {
    for (index, service) in services.iter().enumerate() {
        let label = service.label(index);
        let place = Place::Root.item("service", index, &label);
        service.check(&place, problems);
        if let Some(check) = &service.health_check {
            check.validate_leave(allow_exec_checks, service.origin, &place.key("health_check"), problems);
        }
    }
    check_together(services, snat_ports, limits, problems);
}

/// A service's name: it stands in metrics, in the CLI's arguments and in URLs.
fn service_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty; write a name".into());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!(
            "{} has {} characters; write at most {LONGEST_NAME}",
            quoted(name),
            name.chars().count()
        ));
    }
    if name == "." || name == ".." {
        return Err(format!("{} is no name; write one with a letter or a digit", quoted(name)));
    }
    match name.chars().find(|&c| !c.is_ascii_alphanumeric() && !"-_.".contains(c)) {
        Some(stray) => Err(format!(
            "{} has {:?} in it; write letters, digits, \"-\", \"_\" and \".\" only",
            quoted(name),
            stray
        )),
        None => Ok(()),
    }
}

/// The rules for a range of ports beside the others of its address and protocol.
fn check_range(vip: Vip, others: &[(Vip, usize)], labels: &[String], place: &Place, problems: &mut Problems) {
    let meets =
        |other: &&(Vip, usize)| !other.0.has_all_ports() && other.0.meets(vip.port(), vip.last_port());
    if !vip.has_all_ports()
        && let Some((other, index)) = others.iter().find(meets)
    {
        problems.add(
            place,
            format!(
                "{vip} has ports that {} has, too ({other}), and neither goes before the other; write ranges that do not \
                 meet",
                labels[*index]
            ),
        );
    }
    if others.len() == PortRanges::LIMIT {
        problems.add(
            place,
            format!(
                "{} has {} ranges of ports already, the most that there may be for an address and protocol; join some, \
                 or use another address",
                vip.ip(),
                PortRanges::LIMIT
            ),
        );
    }
}

/// An address and ports that clients can send packets to.
fn served(vip: Vip) -> Result<(), String> {
    host(vip.first())?;
    if vip.port() == 0 && !vip.is_range() {
        let text = vip.to_string();
        let host = text.strip_suffix('0').unwrap_or(&text);
        return Err(format!("\"{vip}\" has port 0; write 1 to 65535, or \"{host}*\" for all ports"));
    }
    Ok(())
}

/// An address and port that packets can be sent to.
fn endpoint(endpoint: SocketAddr) -> Result<(), String> {
    host(endpoint)?;
    if endpoint.port() == 0 {
        return Err(format!("\"{endpoint}\" has port 0; write 1 to 65535"));
    }
    Ok(())
}

/// An address that packets can be sent to, whatever the port.
fn host(endpoint: SocketAddr) -> Result<(), String> {
    unicast(endpoint.ip(), Some(endpoint.port()))?;
    if let SocketAddr::V6(v6) = endpoint
        && v6.scope_id() != 0
    {
        return Err(format!("\"{endpoint}\" has a scope; write an address that needs none"));
    }
    Ok(())
}

/// An address of one host on a network.
pub(crate) fn unicast(address: IpAddr, port: Option<u16>) -> Result<(), String> {
    let written = |address: IpAddr| match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let said = written(address);
    let kind = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
            return Err(format!(
                "\"{said}\" is an IPv4 address in IPv6 form; write \"{}\"",
                written(v4.into())
            ));
        }
        IpAddr::V4(v4) if v4.is_unspecified() => "stands for every address",
        IpAddr::V6(v6) if v6.is_unspecified() => "stands for every address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is of 0.0.0.0/8, which no host may have (RFC 1122)",
        _ if address.is_loopback() => "is a loopback address, whose packets never reach a network interface",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local, so it means nothing without an interface"
        }
        _ => return Ok(()),
    };
    Err(format!("\"{said}\" {kind}; write the address of one host on the network"))
}

/// A value in its range.
pub(crate) fn within<T: PartialOrd + Copy>(
    value: T,
    range: &RangeInclusive<T>,
    print: impl Fn(T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "{} is out of range; write {} to {}",
        print(value),
        print(*range.start()),
        print(*range.end())
    ))
}

/// An interface's name, as the kernel takes it (`dev_valid_name` in net/core/dev.c).
pub(crate) fn interface_name(name: &str) -> Result<(), String> {
    let good = (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if good {
        return Ok(());
    }
    Err(format!(
        "{} is not an interface's name; write 1 to 15 bytes without \"/\", \":\" or spaces, \
         as \"ip link\" shows it",
        quoted(name)
    ))
}

/// The path of a file or directory that does not depend on where the daemon was started.
pub(crate) fn absolute_path(path: &str) -> Result<(), String> {
    if path.contains('\0') {
        return Err(format!("{} has a zero byte in it; remove it", quoted(path)));
    }
    if !Path::new(path).is_absolute() {
        return Err(format!("{} is not absolute; write it from the \"/\" on", quoted(path)));
    }
    if Path::new(path).file_name().is_none() || path.ends_with('/') {
        return Err(format!("{} has no last part; write the whole path", quoted(path)));
    }
    Ok(())
}

/// The name of a group of this host, which only a host can tell whether it has.
pub(crate) fn group_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',');
    match name {
        "" => Err("is empty; write the name of a group, such as \"netops\"".into()),
        name if name.chars().all(is_plain) => Ok(()),
        name => Err(format!("{} is no group's name; write one, such as \"netops\"", quoted(name))),
    }
}

/// A name of the certificates whose holders may do everything.
pub(crate) fn admin_certificate(name: &str) -> Result<(), String> {
    if name == Remote::ANY {
        let words =
            "\"*\" would let everybody do everything whose certificate client_ca signed; name those who may";
        return Err(words.into());
    }
    certificate_name(name)
}

/// A name that stands in a certificate, or what stands for all of them.
pub(crate) fn certificate_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("is empty; write a name that stands in the certificate, such as \"alice\"".into()),
        name if name.trim() != name || name.contains(char::is_control) => Err(format!(
            "{} begins or ends with a blank, or has a control character; write a name as it stands in the certificate",
            quoted(name)
        )),
        _ => Ok(()),
    }
}

/// The path of a Unix socket: what `sockaddr_un` can hold (unix(7)).
pub(crate) fn socket_path(path: &str) -> Result<(), String> {
    const LONGEST: usize = 107;
    absolute_path(path)?;
    if path.len() > LONGEST {
        return Err(format!(
            "{} has {} bytes; a socket's path has at most {LONGEST}, so write a shorter one",
            quoted(path),
            path.len()
        ));
    }
    Ok(())
}
