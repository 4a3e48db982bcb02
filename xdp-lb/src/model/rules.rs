//! Validation of services: the same rules for the config file, the API and the state file.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use xdp_lb_common::tables::PortRanges;

use super::check::{HealthCheck, Probe, Via};
use super::choices::{Hairpin, Mode, OnDown, Protocol};
use super::config::Limits;
use super::place::{Place, Problems};
use super::policy::Quic;
use super::recovery::{DOWN_GRACE, DOWN_TIMEOUT, SLOW_START};
use super::service::{Backend, MAX_FLOWS, PERCENT, RATE, Service, backend_label};
use super::state::Origin;
use super::text::{grouped, print_duration, quoted};
use super::values::{endpoint, host, service_name, unicast, within};
use super::vip::{PortRange, Vip};

/// Validates a service by itself, with its backends.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn validate_service(service: &Service) -> Result<(), Vec<String>> {
    let mut problems = Problems::default();
    check_service(service, &mut problems);
    problems.into_result()
}

/// The same, for a service of which some values could not be read.
pub(crate) fn check_service(service: &Service, problems: &mut Problems) {
    let subject = Subject::of(service);
    let label = subject.label(0, problems);
    let place = Place::Root.item("service", 0, &label);
    Known::of(&subject, &place, problems).check(&place, problems);
}

/// Validates a backend by itself, and that it fits its service.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn validate_backend(service: &Service, backend: &Backend) -> Result<(), Vec<String>> {
    let subject = Subject::of(service);
    let mut problems = Problems::default();
    let label = subject.label(0, &problems);
    let place = Place::Root.item("service", 0, &label);
    let known = Known::of(&subject, &place, &problems);
    let label = backend_label(Some(backend.address), 0);
    known.check_backend(backend, &place.item("backend", 0, &label), &mut problems);
    problems.into_result()
}

/// Why a service may not have a backend; `None` if it may, judging by the service alone.
pub fn refusal(service: &Service, backend: &Backend) -> Option<String> {
    let subject = Subject::of(service);
    let mut problems = Problems::default();
    Known::of(&subject, &Place::Root, &problems).check_backend(backend, &Place::Root, &mut problems);
    problems.all.into_iter().next().map(|problem| problem.what)
}

/// A service to validate.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    /// Its definition.
    pub service: &'a Service,
    /// Where it comes from.
    pub origin: Origin,
    /// Its backends, and where they come from.
    pub backends: Vec<(&'a Backend, Origin)>,
    /// The keys changed at runtime.
    pub changed: Vec<&'a str>,
}

impl<'a> Subject<'a> {
    /// A service of the config file, with the backends that it lists.
    pub(crate) fn of(service: &'a Service) -> Self {
        let backends = service.backends.iter().map(|backend| (backend, Origin::File)).collect();
        Self { service, origin: Origin::File, backends, changed: Vec::new() }
    }

    /// Its label in errors.
    fn label(&self, index: usize, problems: &Problems) -> String {
        let place = Place::Root.item("service", index, "");
        let name = problems.known(&place, "name", self.service.name.as_str());
        let label = service_label(name, index) + origin_words(self.origin);
        match self.changed.as_slice() {
            [] => label,
            keys => format!("{label} (with {} changed at runtime)", keys.join(", ")),
        }
    }

    /// The label of one of its backends in errors.
    fn backend_label(&self, index: usize, place: &Place, problems: &Problems) -> String {
        let (backend, origin) = self.backends[index];
        let place = place.item("backend", index, "");
        backend_label(problems.known(&place, "address", backend.address), index) + origin_words(origin)
    }
}

/// A service, with the keys that several rules need, as far as they could be read.
struct Known<'a> {
    service: &'a Service,
    backends: &'a [(&'a Backend, Origin)],
    subject: &'a Subject<'a>,
    vip: Option<Vip>,
    protocol: Option<Protocol>,
    mode: Option<Mode>,
    quic: Option<Option<Quic>>,
}

const MOST_SNAT_ADDRESSES: usize = 16;

impl<'a> Known<'a> {
    fn of(subject: &'a Subject<'a>, place: &Place, problems: &Problems) -> Self {
        let service = subject.service;
        Self {
            service,
            backends: &subject.backends,
            subject,
            vip: problems.known(place, "vip", service.vip),
            protocol: problems.known(place, "protocol", service.protocol),
            mode: problems.known(place, "mode", service.mode),
            quic: problems.known(place, "quic", service.quic),
        }
    }

    /// The rules about this service alone.
    fn check(&self, place: &Place, problems: &mut Problems) {
        let service = self.service;
        if let Some(name) = problems.known(place, "name", &service.name) {
            problems.take(&place.key("name"), service_name(name));
        }
        if let Some(vip) = self.vip {
            problems.take(&place.key("vip"), served(vip));
            problems.take(&place.key("affinity"), service.affinity.check(vip.is_ipv4()));
        }
        self.check_snat_addresses(place, problems);
        self.check_guards(place, problems);
        self.check_recovery(place, problems);
        if service.hairpin == Hairpin::Off && self.mode.is_some_and(|mode| mode != Mode::Nat) {
            problems.add(&place.key("hairpin"), "applies only to mode \"nat\"; remove it");
        }
        if let Some(agent) = &service.agent {
            agent.check(&place.key("agent"), problems);
        }
        if let Some(feedback) = service.feedback {
            let is_checked = match &service.health_check {
                Some(check) => check.probe != Probe::None,
                None => self.protocol != Some(Protocol::Udp) && !self.vip.is_some_and(|vip| vip.is_range()),
            };
            let has_agent = service.agent.is_some() || problems.is_unreadable(&place.key("agent"));
            feedback.check(is_checked, has_agent, &place.key("feedback"), problems);
        }
        self.check_health_check(place, problems);
        if let Some(discovery) = &service.discovery {
            let has_quic = matches!(self.quic, Some(Some(_)));
            discovery.check((self.vip, self.mode), has_quic, &place.key("discovery"), problems);
        }
        if let Some(Some(quic)) = self.quic {
            quic.check(self.protocol, &place.key("quic"), problems);
        }
        self.check_backends(place, problems);
    }

    /// The rules about clients and limits.
    fn check_guards(&self, place: &Place, problems: &mut Problems) {
        let service = self.service;
        let mut seen = HashMap::new();
        for (key, list) in [("allow", &service.allow), ("deny", &service.deny)] {
            for (index, prefix) in list.iter().enumerate() {
                let place = place.item(key, index, key);
                if problems.is_unreadable(&place) {
                    continue;
                }
                if let Some(vip) = self.vip
                    && vip.is_ipv4() != prefix.address.is_ipv4()
                {
                    problems.add(
                        &place,
                        format!(
                            "\"{prefix}\" is not of the VIP's family ({vip}), so it cannot match; remove it"
                        ),
                    );
                } else if let Some(other) = seen.insert(prefix, key) {
                    let what = if other == key {
                        format!("\"{prefix}\" is listed twice; remove one of them")
                    } else {
                        format!("\"{prefix}\" is also in allow; remove one of them")
                    };
                    problems.add(&place, what);
                }
            }
        }
        let number = |number: u32| grouped(number.into());
        for (key, value, range) in [
            ("new_flow_rate", service.new_flow_rate, RATE),
            ("new_flow_burst", service.new_flow_burst, RATE),
            ("max_flows", service.max_flows, MAX_FLOWS),
        ] {
            problems.take(&place.key(key), within(value, &range, number));
        }
    }

    /// The rules about its backends' health.
    fn check_recovery(&self, place: &Place, problems: &mut Problems) {
        let service = self.service;
        let percent = within(service.panic_threshold, &PERCENT, |percent| percent.to_string());
        problems.take(&place.key("panic_threshold"), percent);
        if let Some(breaker) = service.circuit_breaker {
            breaker.check(self.protocol, self.mode, &place.key("circuit_breaker"), problems);
        }
        if let Some(time) = service.slow_start {
            problems.take(&place.key("slow_start"), within(time, &SLOW_START, print_duration));
        }
        let passes = self.mode.map(|mode| !mode.keeps_destination());
        for (key, time, range, is_of) in [
            ("down_grace", service.down_grace, DOWN_GRACE, "\"nat\" or \"full-nat\""),
            ("down_timeout", service.down_timeout, DOWN_TIMEOUT, "\"dsr\", \"ipip\" or \"gue\""),
        ] {
            let Some(time) = time else { continue };
            let place = place.key(key);
            problems.take(&place, within(time, &range, print_duration));
            if service.on_down != OnDown::Auto {
                problems.add(&place, "requires on_down = \"auto\"; write that, or remove it");
            } else if passes == Some(key == "down_timeout") {
                problems.add(&place, format!("applies only to mode {is_of}; remove it"));
            }
        }
    }

    fn check_health_check(&self, place: &Place, problems: &mut Problems) {
        let Some(check) = &self.service.health_check else { return };
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
                format!("is missing, but the VIP {vip} has more than one port; write the one to check, such as port \
                         = 8080"),
            );
        }
    }

    fn check_backends(&self, place: &Place, problems: &mut Problems) {
        let mut ids = HashMap::new();
        let mut seen = HashSet::new();
        for (index, (backend, _)) in self.backends.iter().enumerate() {
            let label = self.subject.backend_label(index, place, problems);
            let place = place.item("backend", index, &label);
            self.check_backend(backend, &place, problems);
            if let Some(Some(id)) = problems.known(&place, "server_id", backend.server_id)
                && let Some(first) = ids.insert(id, label.clone())
            {
                problems.add(
                    &place.key("server_id"),
                    format!("\"{id}\" is also the ID of {first}; give each backend of the service its own"),
                );
            }
            if let Some(address) = problems.known(&place, "address", backend.address)
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

    /// The rules about a check of the VIP.
    fn check_vip_check(&self, check: &HealthCheck, place: &Place, problems: &mut Problems) {
        if let Some(mode) = self.mode.filter(|mode| !mode.keeps_destination()) {
            problems.add(
                &place.key("via"),
                format!(
                    "\"vip\" needs mode \"dsr\", \"ipip\" or \"gue\", whose backends have the VIP, but this \
                     service's mode is \"{mode}\"; remove it, or write \"backend\""
                ),
            );
        }
        let Some(vip) = self.vip else { return };
        let is_other = |is_v4: bool| is_v4 != vip.is_ipv4();
        match check.source {
            Some(source) if is_other(source.is_ipv4()) => problems.add(
                &place.key("source"),
                format!("{source} is not of the family of the VIP {vip}, which the checks go to; write an address \
                         of that family"),
            ),
            None if self.backends.iter().any(|(backend, _)| {
                !backend.address.ip().is_unspecified() && is_other(backend.address.is_ipv4())
            }) =>
            {
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

    fn check_backend(&self, backend: &Backend, place: &Place, problems: &mut Problems) {
        let limit = within(backend.max_flows, &MAX_FLOWS, |number| grouped(number.into()));
        problems.take(&place.key("max_flows"), limit);
        if let (Some(quic), Some(id)) = (self.quic, problems.known(place, "server_id", backend.server_id)) {
            problems.take(&place.key("server_id"), Quic::check_server_id(quic, id));
        }
        let Some(address) = problems.known(place, "address", backend.address) else { return };
        let place = place.key("address");
        let is_kept = self.vip.is_some_and(|vip| vip.is_range());
        if let Err(what) = if is_kept { host(address) } else { endpoint(address) } {
            problems.add(&place, what);
            return;
        }
        self.check_sources(address, &place, problems);
        if let Some(what) = self.vip.and_then(|vip| self.misfit(address, vip)) {
            problems.add(&place, what);
        }
    }

    /// The source addresses of its checks and of its agent's queries have its family.
    fn check_sources(&self, address: SocketAddr, place: &Place, problems: &mut Problems) {
        let own = self.service.health_check.as_ref().filter(|check| check.via == Via::Backend);
        let sources = [
            ("health_check", "checks come", own.and_then(|check| check.source)),
            ("agent", "agent is queried", self.service.agent.as_ref().and_then(|agent| agent.source)),
        ];
        for (key, what, source) in sources {
            if let Some(source) = source
                && source.is_ipv4() != address.is_ipv4()
            {
                problems.add(
                    place,
                    format!(
                        "\"{address}\" is not of the family of {key}.source ({source}), which its {what} from; \
                         write a source of that family, or remove it"
                    ),
                );
            }
        }
    }

    /// Why a backend cannot have this address in a service of this VIP.
    fn misfit(&self, address: SocketAddr, vip: Vip) -> Option<String> {
        let is_kept = vip.is_range();
        if is_kept && address.port() != 0 {
            Some(format!(
                "\"{address}\" has port {}, but the VIP {vip} has more than one, so packets keep their port; \
                     write \"{}\"",
                address.port(),
                SocketAddr::new(address.ip(), 0),
            ))
        } else if vip.is_ipv4() != address.is_ipv4() && !self.mode.is_some_and(Mode::encapsulates) {
            let family = |ipv4| if ipv4 { "IPv4" } else { "IPv6" };
            Some(format!(
                "\"{address}\" is {} but the VIP {vip} is {}; a service and its backends must be of one family \
                     (except in modes \"ipip\" and \"gue\"), so give the other family its own service",
                family(address.is_ipv4()),
                family(vip.is_ipv4())
            ))
        } else if vip.ip() == address.ip() && self.mode.is_some_and(Mode::keeps_destination) {
            Some(format!(
                "{} is the VIP, which does not identify a single backend; write the real server's own address",
                address.ip()
            ))
        } else if vip == address.into() || is_kept && vip.ip() == address.ip() {
            Some(format!(
                "\"{address}\" is the VIP of this service, so its packets would come back here; \
                     write the real server's own address"
            ))
        } else if self.service.snat_addresses.contains(&address.ip()) {
            Some(format!(
                "{} is one of snat_addresses, which are this host's own; \
                     write the real server's own address",
                address.ip()
            ))
        } else if let Some(mode) = self.mode
            && mode.keeps_destination()
            && vip.port() != address.port()
            && !is_kept
        {
            Some(format!(
                "\"{address}\" has port {} but the VIP {vip} has {}; mode \"{mode}\" does not change ports, so \
                     write \"{}\", and let the real server listen there",
                address.port(),
                vip.port(),
                SocketAddr::new(address.ip(), vip.port()),
            ))
        } else if self.mode.is_some_and(Mode::encapsulates)
            && let Some(outer) = self.service.snat_addresses.iter().find(|it| !it.is_unspecified())
            && outer.is_ipv4() != address.is_ipv4()
        {
            Some(format!(
                "\"{address}\" is not of the family of snat_addresses ({outer}), the source of packets to it; \
                     write snat_addresses of that family, or remove them"
            ))
        } else {
            None
        }
    }

    fn check_snat_addresses(&self, place: &Place, problems: &mut Problems) {
        let whole = place.key("snat_addresses");
        let addresses = &self.service.snat_addresses;
        if !addresses.is_empty()
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
        if addresses.len() > MOST_SNAT_ADDRESSES {
            problems.add(
                &whole,
                format!("{} addresses are too many; write at most {MOST_SNAT_ADDRESSES}", addresses.len()),
            );
        }
        // Those of tunnels are of the backends' family, which each backend is checked for.
        let is_outer = self.mode.is_some_and(Mode::encapsulates);
        let first = addresses.iter().find(|it| !it.is_unspecified()).copied();
        let mut seen = HashSet::new();
        for (index, &address) in addresses.iter().enumerate() {
            let place = place.item("snat_addresses", index, "snat_addresses");
            if problems.is_unreadable(&place) {
                continue;
            }
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

/// The label of a service in errors: by name, or by position if the name is unknown.
pub(crate) fn service_label(name: Option<&str>, index: usize) -> String {
    match name {
        Some(name) => format!("service {}", quoted(name)),
        None => format!("service #{}", index + 1),
    }
}

/// The origin of a service or backend in errors; nothing for the config file.
fn origin_words(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "",
        Origin::Runtime => " (added at runtime)",
        Origin::Dns => " (found by DNS)",
        Origin::WatchedFile => " (of the watched file)",
    }
}

/// The rules about all services of a config together.
pub(crate) fn check_together(
    services: &[Subject<'_>],
    snat_ports: Option<PortRange>,
    limits: Option<Limits>,
    problems: &mut Problems,
) {
    let labels: Vec<String> =
        services.iter().enumerate().map(|(index, service)| service.label(index, problems)).collect();
    let place_of = |index: usize| Place::Root.item("service", index, &labels[index]);
    let known: Vec<Known> =
        services.iter().enumerate().map(|(index, it)| Known::of(it, &place_of(index), problems)).collect();
    let mut together = Together::of(&labels);
    for (index, service) in known.iter().enumerate() {
        together.add(index, service, &place_of(index), problems);
    }
    for (index, service) in known.iter().enumerate() {
        together.check_snat_ports(service, snat_ports, &place_of(index), problems);
        together.check_backends(index, service, &place_of(index), problems);
    }
    if let Some(limits) = limits {
        check_limits(services, limits, problems);
    }
}

/// What must be unique among services: each with the first service that has it.
struct Together<'a> {
    labels: &'a [String],
    names: HashMap<&'a str, usize>,
    vips: HashMap<(Vip, Protocol), usize>,
    /// The VIPs of more than one port.
    ranges: HashMap<(IpAddr, Protocol), Vec<(Vip, usize)>>,
    /// The addresses of all VIPs.
    addresses: HashMap<(IpAddr, Protocol), usize>,
    /// The source addresses that backends see in mode `full-nat`.
    snat: HashMap<IpAddr, usize>,
}

impl<'a> Together<'a> {
    fn of(labels: &'a [String]) -> Self {
        Self {
            labels,
            names: HashMap::new(),
            vips: HashMap::new(),
            ranges: HashMap::new(),
            addresses: HashMap::new(),
            snat: HashMap::new(),
        }
    }

    /// Adds a service, and reports conflicts with earlier ones.
    fn add(&mut self, index: usize, service: &Known<'a>, place: &Place, problems: &mut Problems) {
        if let Some(name) = problems.known(place, "name", service.service.name.as_str())
            && *self.names.entry(name).or_insert(index) != index
        {
            problems.add(
                &place.key("name"),
                format!("{} is the name of another service; give each its own name", quoted(name)),
            );
        }
        if let (Some(vip), Some(protocol)) = (service.vip, service.protocol) {
            self.add_vip(index, vip, protocol, &place.key("vip"), problems);
        }
        if service.mode == Some(Mode::FullNat) {
            for address in &service.service.snat_addresses {
                self.snat.entry(*address).or_insert(index);
            }
        }
    }

    fn add_vip(
        &mut self,
        index: usize,
        vip: Vip,
        protocol: Protocol,
        place: &Place,
        problems: &mut Problems,
    ) {
        let first = *self.vips.entry((vip, protocol)).or_insert(index);
        if first != index {
            problems.add(
                place,
                format!(
                    "{vip} {protocol} is already the VIP of {}; change the address, the port or the protocol of \
                     one",
                    self.labels[first]
                ),
            );
        }
        self.addresses.entry((vip.ip(), protocol)).or_insert(index);
        if vip.is_range() && first == index {
            let others = self.ranges.entry((vip.ip(), protocol)).or_default();
            check_range(vip, others, self.labels, place, problems);
            others.push((vip, index));
        }
    }

    /// No VIP may be among the addresses and ports that another service's replies are sent to.
    fn check_snat_ports(
        &self,
        service: &Known<'_>,
        snat_ports: Option<PortRange>,
        place: &Place,
        problems: &mut Problems,
    ) {
        if let (Some(vip), Some(ports)) = (service.vip, snat_ports)
            && vip.meets(ports.first, ports.last)
            && let Some(&other) = self.snat.get(&vip.ip())
        {
            problems.add(
                &place.key("vip"),
                format!(
                    "{} is in snat_addresses of {} and port {} in snat_ports ({ports}), so replies to that \
                     service \
                     would be taken for this one's packets; change the VIP, that snat address, or snat_ports",
                    vip.ip(),
                    self.labels[other],
                    vip.port(),
                ),
            );
        }
    }

    /// The service at this address.
    fn served_at(&self, address: SocketAddr, protocol: Protocol) -> Option<usize> {
        let host = (address.ip(), protocol);
        // Packets to every port that a service has.
        if address.port() == 0 {
            return self.addresses.get(&host).copied();
        }
        let in_range = || {
            let others = self.ranges.get(&host)?;
            others.iter().find(|(vip, _)| vip.meets(address.port(), address.port())).map(|(_, index)| *index)
        };
        self.vips.get(&(address.into(), protocol)).copied().or_else(in_range)
    }

    /// No backend may be the VIP of another service.
    fn check_backends(&self, index: usize, service: &Known<'_>, place: &Place, problems: &mut Problems) {
        for (number, (backend, _)) in service.backends.iter().enumerate() {
            let of_backend = place.item("backend", number, "");
            let address = problems.known(&of_backend, "address", backend.address);
            let (Some(address), Some(protocol)) = (address, service.protocol) else { continue };
            if let Some(other) = self.served_at(address, protocol)
                && other != index
                && service.vip != Some(address.into())
            {
                let label = service.subject.backend_label(number, place, problems);
                problems.add(
                    &place.item("backend", number, &label).key("address"),
                    format!(
                        "\"{address}\" is the VIP of {}, so its packets would loop through this host; \
                         write the real server's own address",
                        self.labels[other]
                    ),
                );
            }
        }
    }
}

fn check_limits(services: &[Subject<'_>], limits: Limits, problems: &mut Problems) {
    let backends = services.iter().map(|service| service.backends.len()).sum();
    let ranges = services.iter().map(|it| it.service.allow.len() + it.service.deny.len()).sum();
    for (key, what, count, limit) in [
        ("services", "services", services.len(), limits.services),
        ("backends", "backends", backends, limits.backends),
        ("source_ranges", "ranges in allow and deny", ranges, limits.source_ranges),
    ] {
        if count as u64 > u64::from(limit) {
            problems.add(
                &Place::Root.key("limits").key(key),
                format!(
                    "there are {} {what} but room for {}; raise it to {} or more (loaded tables keep their size \
                     until `xdp-lb unload`)",
                    grouped(count as u64),
                    grouped(limit.into()),
                    count
                ),
            );
        }
    }
}

/// All rules, for each service by itself and for all together.
pub(crate) fn check_all(
    services: &[Subject<'_>],
    snat_ports: Option<PortRange>,
    limits: Option<Limits>,
    allow_exec_checks: bool,
    problems: &mut Problems,
) {
    for (index, service) in services.iter().enumerate() {
        let label = service.label(index, problems);
        let place = Place::Root.item("service", index, &label);
        Known::of(service, &place, problems).check(&place, problems);
        if let Some(check) = &service.service.health_check {
            check.validate_leave(allow_exec_checks, service.origin, &place.key("health_check"), problems);
        }
    }
    check_together(services, snat_ports, limits, problems);
}

/// The rules for a range of ports with others of its address and protocol.
fn check_range(vip: Vip, others: &[(Vip, usize)], labels: &[String], place: &Place, problems: &mut Problems) {
    let meets =
        |other: &&(Vip, usize)| !other.0.has_all_ports() && other.0.meets(vip.port(), vip.last_port());
    if !vip.has_all_ports()
        && let Some((other, index)) = others.iter().find(meets)
    {
        problems.add(
            place,
            format!(
                "the ports of {vip} overlap those of {} ({other}), and neither takes precedence; write ranges that \
                 do not overlap",
                labels[*index]
            ),
        );
    }
    if others.len() == PortRanges::LIMIT {
        problems.add(
            place,
            format!(
                "{} already has {} port ranges, the maximum for an address and protocol; merge some, or use another \
                 address",
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
