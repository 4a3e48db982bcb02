//! Properties that follow from a service's definition alone.

use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_common::net::{Address, Endpoint, Protocol};
use xdp_lb_common::tables::SourceVerdict;

use crate::health::TargetId;
use crate::model::{self, Effective, EffectiveBackend, EffectiveService, FlowTracking, Via};
use crate::plan::wanted::Sources;

/// The longest wait for a first check.
const LONGEST_FIRST_CHECK: Duration = Duration::from_secs(15);

/// The destination of a service's packets: its key in the tables.
pub fn vip(service: &EffectiveService) -> Endpoint {
    endpoint(service.service.vip, service.service.protocol)
}

/// The same by VIP and protocol.
pub fn endpoint(vip: model::Vip, protocol: model::Protocol) -> Endpoint {
    let first = Endpoint::from_socket(vip.first(), number(protocol));
    if vip.is_range() { first.range() } else { first }
}

/// A protocol's number in packets.
pub const fn number(protocol: model::Protocol) -> Protocol {
    match protocol {
        model::Protocol::Tcp => Protocol::TCP,
        model::Protocol::Udp => Protocol::UDP,
    }
}

/// The identity of a backend.
pub fn target_id(service: &EffectiveService, backend: &EffectiveBackend) -> TargetId {
    TargetId { service: service.service.name.clone(), vip: vip(service), backend: backend.backend.address }
}

pub(super) fn pairs(effective: &Effective) -> impl Iterator<Item = (&EffectiveService, &EffectiveBackend)> {
    effective
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(move |backend| (service, backend)))
}

/// The endpoint whose packets answer its checks, if it is checked through the VIP.
pub(super) fn checked_at(service: &model::Service) -> Option<Endpoint> {
    let check = service.check();
    let protocol = number(check.probe.transport()?);
    let first = service.vip.first();
    let at = SocketAddr::new(first.ip(), check.port.unwrap_or(first.port()));
    (check.via == Via::Vip).then(|| Endpoint::from_socket(at, protocol))
}

/// The time in which a new backend's first check ends: its next hop is resolved, and the check waits for its turn and times out.
pub(super) fn first_check(service: &model::Service) -> Duration {
    let check = service.check();
    (Duration::from_secs(2) + check.interval + check.timeout).min(LONGEST_FIRST_CHECK)
}

/// Whether its backends' weights are adjusted.
pub(super) fn follows(service: &model::Service) -> bool {
    service.agent.is_some() || service.feedback.is_some_and(|feedback| feedback.latency)
}

/// Whether every flow is recorded: if the operator requests it, and for rate limits of UDP, whose packets do not show whether
/// they are a flow's first.
pub(super) fn records_flows(service: &model::Service) -> bool {
    let is_rated = service.protocol == model::Protocol::Udp && service.new_flow_rate != 0;
    service.flow_tracking == FlowTracking::Always || is_rated
}

/// The prefix length of its affinity, for addresses as in the tables: IPv4 is the last 32 bits of 128.
pub(super) fn affinity_bits(service: &model::Service) -> u8 {
    let is_v4 = service.vip.is_ipv4();
    match service.affinity.bits(is_v4) {
        0 => 0,
        bits if is_v4 => 96 + bits,
        bits => bits,
    }
}

/// Its allowed and denied clients. With a list of allowed ones, all others are denied.
pub(super) fn sources(service: &model::Service) -> Sources {
    let verdicts = [(&service.allow, SourceVerdict::Allow), (&service.deny, SourceVerdict::Deny)];
    let mut sources: Sources = verdicts
        .into_iter()
        .flat_map(|(ranges, verdict)| ranges.iter().map(move |range| (range, verdict)))
        .map(|(range, verdict)| {
            let bits = if range.address.is_ipv4() { 96 + range.bits } else { range.bits };
            ((range.address.into(), bits), verdict)
        })
        .collect();
    if !service.allow.is_empty() {
        sources.entry((Address::default(), 0)).or_insert(SourceVerdict::Deny);
    }
    sources
}
