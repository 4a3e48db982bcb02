//! Packets that somebody follows: which ones, and what became of each, in words.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use etherparse::{LaxPacketHeaders, LaxPayloadSlice, TransportHeader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xdp_lb_common::net::{Address, MacAddress, Port};
use xdp_lb_common::process::GUE_PORT;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::Backend;
use xdp_lb_common::trace::{FORWARDED, TraceFilter};

use super::explain::frame::{self, Sent};
use super::snapshot::Snapshot;
use crate::datapath::{Trace, Traced};
use crate::model::policy::Prefix;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::TraceRequest;
use crate::model::{EffectiveService, unknown};
use crate::net::ingress;

/// How many packets each CPU notes in a second: as many as somebody can read, and few for the machine.
const PER_SECOND: u32 = 1_000;

/// A packet that was followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraceView {
    /// When it came, in UTC (RFC 3339).
    pub time: String,
    /// The interface that it came in by.
    pub interface: String,
    /// `forward`, `pass` (to this host), `drop` or `answer`.
    pub verdict: String,
    /// Why it was not forwarded, as `counters` names it; null if it was.
    pub reason: Option<String>,
    /// What became of it, in words.
    pub decision: String,
    /// The service that it belongs to, if its VIP tells.
    pub service: Option<String>,
    /// The backend that it went to, or came from.
    pub backend: Option<SocketAddr>,
    /// How many packets that match were not shown before it, because there were too many at once.
    pub skipped: u64,
    /// The frame as it came.
    pub before: FrameView,
    /// As it left; null if it did not.
    pub after: Option<FrameView>,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FrameView {
    /// The interface that it came in by, or left by.
    pub interface: String,
    /// Its length, bytes.
    pub length: u32,
    /// Source and destination, in words; in a tunnel, those of the inner packet, too.
    pub summary: String,
    /// Its beginning, hexadecimal: its headers, or with `payload` up to 2,048 bytes.
    pub bytes: String,
}

impl Snapshot {
    /// Which packets a request asks for.
    ///
    /// # Errors
    /// If it names what there is not, or asks for too many.
    pub fn trace(&self, request: &TraceRequest) -> Answer<Trace> {
        let TraceRequest { client, service, backend, reason, count, seconds, payload } = request;
        for (key, value, most) in
            [("count", count, TraceRequest::MOST_PACKETS), ("seconds", seconds, TraceRequest::LONGEST)]
        {
            if !(1..=most).contains(value) {
                let words = format!("`{key}` must be between 1 and {most}, not {value}");
                return Err(Refusal::Invalid(words));
            }
        }
        let mut filter = TraceFilter::default();
        if let Some(client) = client {
            let prefix =
                Prefix::from_str(client).map_err(|error| Refusal::Invalid(format!("client: {error}")))?;
            let bits = prefix.bits + if prefix.address.is_ipv4() { 96 } else { 0 };
            filter.client = Address::from(prefix.address).first_bits(bits);
            filter.client_bits = u32::from(bits);
        }
        let of_service = service.as_ref().map(|name| self.effective_service(name)).transpose()?;
        if let Some(service) = of_service {
            let vip = service.service.vip;
            filter.vip = vip.ip().into();
            filter.ports = [vip.port(), vip.last_port()];
        }
        if let Some(address) = backend {
            self.aim_at(&mut filter, *address)?;
        }
        if let Some(name) = reason {
            let found = Reason::ALL.iter().find(|reason| reason.name() == name);
            let known = || Reason::ALL.iter().map(|reason| reason.name().to_owned()).collect();
            filter.reason = *found.ok_or_else(|| unknown::unknown_reason(name, known()))? as u32 + 1;
        }
        let time = Duration::from_secs((*seconds).into());
        Ok(Trace { filter, time, count: *count, per_second: PER_SECOND, payload: *payload })
    }

    fn effective_service(&self, name: &str) -> Answer<&EffectiveService> {
        let services = &self.pool.effective().services;
        let found = services.iter().find(|it| it.service.name == name);
        found.ok_or_else(|| {
            let known = services.iter().map(|it| it.service.name.clone());
            unknown::unknown_service(name, known.collect())
        })
    }

    /// Asks for packets to and from a backend: in modes that keep addresses, they are told by its Ethernet address.
    fn aim_at(&self, filter: &mut TraceFilter, address: SocketAddr) -> Answer<()> {
        let backends = self.pool.effective().services.iter().flat_map(|service| {
            service.backends.iter().map(move |backend| (service.service.mode, backend.backend.address))
        });
        let mut modes =
            backends.clone().filter(|(_, known)| *known == address).map(|(mode, _)| mode).peekable();
        if modes.peek().is_none() {
            let known = backends.map(|(_, address)| address.to_string()).collect();
            return Err(unknown::unknown_backend("of any name", address, known));
        }
        let keeps = modes.any(|mode| mode.keeps_destination());
        filter.backend = address.ip().into();
        // The outer packet of a tunnel is to another port, or has none.
        filter.backend_port = if keeps { Port::default() } else { Port::new(address.port()) };
        if let Some(hop) = self.pool.next_hop(address.ip()).filter(|_| keeps) {
            filter.backend_mac = hop.destination_mac;
        }
        Ok(())
    }

    /// What became of a packet that was read at this time.
    pub fn traced(&self, traced: &Traced, payload: bool, now: SystemTime) -> TraceView {
        let event = &traced.event;
        let reason = Reason::ALL.iter().find(|reason| **reason as u32 == event.reason).copied();
        let ingress = ingress::name(event.ingress);
        let egress = if event.egress == 0 { ingress.clone() } else { ingress::name(event.egress) };
        let [before, after] = [&traced.before, &traced.after].map(|frame| frame::read(frame));
        let service = before.as_ref().and_then(|it| self.service_at(it.packet[1]));
        let service = service.or_else(|| after.as_ref().and_then(|it| self.service_at(it.packet[0])));
        let backend = self.backend_of(before.as_ref(), after.as_ref());
        let leaves = event.reason == FORWARDED || reason.is_some_and(|it| it.kind().name() == "answer");
        let shown = |interface: String, frame: &[u8], length| FrameView {
            interface,
            length,
            summary: summary(frame),
            bytes: hex::encode(if payload { frame } else { &frame[..headers(frame).min(frame.len())] }),
        };
        let decision = match (reason, backend) {
            (Some(reason), _) => reason.words().to_owned(),
            (None, Some(backend)) if service.is_some() && is_to(after.as_ref(), backend) => {
                format!("sent to {backend}")
            }
            (None, Some(backend)) => format!("forwarded; backend {backend}"),
            (None, None) => "forwarded".to_owned(),
        };
        TraceView {
            time: humantime::format_rfc3339_micros(now - traced.age).to_string(),
            interface: ingress.clone(),
            verdict: reason.map_or("forward", |reason| reason.kind().name()).into(),
            reason: reason.map(|reason| reason.name().into()),
            decision,
            service: service.map(|it| it.service.name.clone()),
            backend,
            skipped: event.skipped,
            before: shown(ingress, &traced.before, event.before),
            after: leaves.then(|| shown(egress, &traced.after, event.after)),
        }
    }

    fn service_at(&self, end: SocketAddr) -> Option<&EffectiveService> {
        let is_its = |service: &&EffectiveService| {
            let vip = service.service.vip;
            vip.ip() == end.ip() && vip.meets(end.port(), end.port())
        };
        self.pool.effective().services.iter().find(is_its)
    }

    /// The backend that a packet went to, or came from: by its addresses, or by where the frame goes.
    fn backend_of(&self, before: Option<&Sent>, after: Option<&Sent>) -> Option<SocketAddr> {
        let socket = |backend: &Backend| SocketAddr::new(backend.address.into(), backend.port.get());
        let mut backends = self.tables.backends.values();
        let is_its = |backend: &&Backend| {
            let at = |end: SocketAddr| {
                socket(backend) == end || backend.port.get() == 0 && socket(backend).ip() == end.ip()
            };
            let to = after.is_some_and(|it| match it.tunnel {
                Some([_, outer]) => IpAddr::from(backend.address) == outer,
                None => {
                    at(it.packet[1])
                        || it.macs[1] != [0; 6]
                            && backend.destination_mac == MacAddress::new(it.macs[1])
                            && before.is_some_and(|before| before.packet == it.packet)
                }
            });
            to || before.is_some_and(|it| at(it.packet[0]))
        };
        backends.find(is_its).map(socket)
    }
}

/// Whether the packet went to this backend, not from it.
fn is_to(after: Option<&Sent>, backend: SocketAddr) -> bool {
    after.is_some_and(|it| it.packet[0] != backend)
}

/// Source and destination.
fn summary(frame: &[u8]) -> String {
    match frame::read(frame) {
        Some(Sent { tunnel: Some([from, to]), packet: [source, destination], .. }) => {
            format!("{from} > {to}: {source} > {destination}")
        }
        Some(Sent { packet: [source, destination], .. }) => format!("{source} > {destination}"),
        None => "not TCP or UDP".to_owned(),
    }
}

/// How many bytes of a frame are headers, those in a tunnel included.
fn headers(frame: &[u8]) -> usize {
    let Ok(outer) = LaxPacketHeaders::from_ethernet(frame) else { return frame.len() };
    let payload = match &outer.payload {
        LaxPayloadSlice::Ip(inner) => inner_payload(inner.payload),
        LaxPayloadSlice::Udp { payload, .. } if is_gue(&outer) => {
            inner_payload(payload.get(4..).unwrap_or_default())
        }
        other => other.slice().len(),
    };
    frame.len().saturating_sub(payload)
}

fn is_gue(outer: &LaxPacketHeaders<'_>) -> bool {
    matches!(&outer.transport, Some(TransportHeader::Udp(udp)) if udp.destination_port == GUE_PORT)
}

/// How many bytes of the payload in an inner packet.
fn inner_payload(packet: &[u8]) -> usize {
    LaxPacketHeaders::from_ip(packet).map_or(packet.len(), |inner| inner.payload.slice().len())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn headers_end_where_the_payload_begins_also_in_a_tunnel() {
        let payload = [7; 100];
        let build = |builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>| {
            let mut packet = Vec::new();
            builder.write(&mut packet, &payload).unwrap();
            packet
        };
        let plain = build(
            PacketBuilder::ethernet2([1; 6], [2; 6])
                .ipv4([192, 0, 2, 2], [203, 0, 113, 10], 60)
                .tcp(1234, 80, 1, 1),
        );
        assert_eq!(headers(&plain), 14 + 20 + 20);
        let inner = &plain[14..];
        let mut outer = plain[..14].to_vec();
        let ip = etherparse::Ipv4Header::new(
            inner.len() as u16,
            60,
            etherparse::IpNumber::IPV4,
            [198, 51, 100, 2],
            [198, 51, 100, 11],
        );
        outer.extend(ip.unwrap().to_bytes());
        outer.extend(inner);
        assert_eq!(headers(&outer), 14 + 20 + 20 + 20);
        assert_eq!(summary(&outer), "198.51.100.2 > 198.51.100.11: 192.0.2.2:1234 > 203.0.113.10:80");
        // Cut off in the payload, as it comes without it.
        assert_eq!(headers(&plain[..60]), 54);
    }
}
