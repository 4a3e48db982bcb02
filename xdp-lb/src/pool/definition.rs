//! What follows from a service's definition alone.

use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_common::net::{Address, Endpoint, Protocol};
use xdp_lb_common::tables::SourceVerdict;

use crate::health::TargetId;
use crate::model::{self, Effective, EffectiveBackend, EffectiveService, FlowTracking, Via};
use crate::plan::wanted::Sources;

/// A first check that takes longer is not waited for.
const LONGEST_FIRST_CHECK: Duration = Duration::from_secs(15);

/// What a service's packets are addressed to.
pub fn vip(service: &EffectiveService) -> Endpoint {
    let protocol = match service.service.protocol {
        model::Protocol::Tcp => Protocol::TCP,
        model::Protocol::Udp => Protocol::UDP,
    };
    let vip = service.service.vip;
    let first = Endpoint::from_socket(vip.first(), protocol);
    if vip.is_range() { first.range() } else { first }
}

/// By what name a backend is known.
pub fn target_id(service: &EffectiveService, backend: &EffectiveBackend) -> TargetId {
    TargetId { service: service.service.name.clone(), backend: backend.backend.address }
}

pub(super) fn pairs(effective: &Effective) -> impl Iterator<Item = (&EffectiveService, &EffectiveBackend)> {
    effective
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(move |backend| (service, backend)))
}

/// The endpoint whose packets answer its checks, where those go to the VIP.
pub(super) fn checked_at(service: &model::Service) -> Option<Endpoint> {
    let check = service.check();
    let protocol = match check.probe.transport()? {
        model::Protocol::Tcp => Protocol::TCP,
        model::Protocol::Udp => Protocol::UDP,
    };
    let first = service.vip.first();
    let at = SocketAddr::new(first.ip(), check.port.unwrap_or(first.port()));
    (check.via == Via::Vip).then(|| Endpoint::from_socket(at, protocol))
}

/// By when a backend's first check has ended, counted from when it came: its next hop is found out, it waits for its turn, and
/// times out.
pub(super) fn first_check(service: &model::Service) -> Duration {
    let check = service.check();
    (Duration::from_secs(2) + check.interval + check.timeout).min(LONGEST_FIRST_CHECK)
}

/// Whether its backends' weights follow anything.
pub(super) fn follows(service: &model::Service) -> bool {
    service.agent.is_some() || service.feedback.is_some_and(|feedback| feedback.latency)
}

/// Whether every flow is recorded: where the operator wants it, and where a packet has to be told from a flow's first
/// and UDP has nothing to tell it by.
pub(super) fn records_flows(service: &model::Service) -> bool {
    let is_rated = service.protocol == model::Protocol::Udp && service.new_flow_rate != 0;
    service.flow_tracking == FlowTracking::Always || is_rated
}

/// The bits of its affinity, of an address as the tables hold it: IPv4 is the last 32 bits of 128.
pub(super) fn affinity_bits(service: &model::Service) -> u8 {
    let is_v4 = service.vip.is_ipv4();
    match service.affinity.bits(is_v4) {
        0 => 0,
        bits if is_v4 => 96 + bits,
        bits => bits,
    }
}

/// Whom it lets in. With a list of those that are allowed, nobody else is.
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
