//! A query, and its answer.

use std::collections::HashMap;
use std::net::SocketAddr;

use xdp_lb_common::net::{Endpoint, MacAddress};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::{Kind, Reason};
use xdp_lb_common::tables::{Backend, BackendIndex, FlowKey, Service, ServiceIndex};

use super::document::{ExplainView, SentView, TunnelView};
use super::frame::{self, Packet};
use crate::datapath::explain::{Lookup, Processed};
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::ExplainRequest;
use crate::model::{Protocol, TcpFlag, unknown};
use crate::net::ingress;
use crate::pool::definition::{number, vip};
use crate::report::documents::InterfaceView;
use crate::report::snapshot::Snapshot;

/// The data for the answer besides the tables.
pub(super) struct Asker<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The services' names.
    names: HashMap<ServiceIndex, &'a str>,
    pub(super) request: &'a ExplainRequest,
    pub(super) interface: &'a InterfaceView,
    mac: [u8; 6],
}

impl Snapshot {
    /// What would happen to a packet, and to those of other clients.
    ///
    /// # Errors
    /// If such a packet or interface cannot exist, or the tables cannot be read.
    pub fn explain(&self, request: &ExplainRequest) -> Answer<ExplainView> {
        check(request)?;
        let interface = self.ingress_of(request)?;
        let mac = ingress::mac(&interface.name).ok_or_else(|| {
            Refusal::Failed(format!("{} has no Ethernet address: name another interface", interface.name))
        })?;
        let names = self.pool.effective().services.iter().filter_map(|service| {
            Some((self.tables.services.get(&vip(service))?.index, service.service.name.as_str()))
        });
        let asker = Asker { snapshot: self, names: names.collect(), request, interface, mac };
        let processed = asker.process(request.client)?;
        let mut view = asker.view(&processed);
        if request.clients > 1 {
            view.spread = asker.spread(&processed)?;
        }
        Ok(view)
    }

    /// The interface on which the packet arrives.
    fn ingress_of(&self, request: &ExplainRequest) -> Answer<&InterfaceView> {
        let mut attached = self.interfaces.iter().filter(|it| it.mode.is_some());
        let named = |name: &str| self.interfaces.iter().find(|it| it.name == name && it.mode.is_some());
        match &request.interface {
            Some(name) => named(name).ok_or_else(|| {
                let known = attached.map(|it| it.name.clone()).collect();
                unknown::unknown_interface(name, known)
            }),
            None => ingress::towards(request.client.ip())
                .and_then(|name| named(&name))
                .or_else(|| attached.next())
                .ok_or_else(|| Refusal::Failed("the program is not attached to any interface".into())),
        }
    }
}

/// Checks whether such a packet is possible.
fn check(request: &ExplainRequest) -> Answer<()> {
    let ExplainRequest { client, vip, protocol, flags, clients, .. } = request;
    if client.is_ipv4() != vip.is_ipv4() {
        let words =
            format!("{client} and {vip} are not of one address family: both must be IPv4, or both IPv6");
        return Err(Refusal::Invalid(words));
    }
    if *protocol == Protocol::Udp && flags.as_slice() != [TcpFlag::Syn] && !flags.is_empty() {
        return Err(Refusal::Invalid("UDP has no flags: leave `flags` out".into()));
    }
    if !(1..=ExplainRequest::MOST_CLIENTS).contains(clients) {
        let most = ExplainRequest::MOST_CLIENTS;
        return Err(Refusal::Invalid(format!("`clients` must be between 1 and {most}, not {clients}")));
    }
    Ok(())
}

impl<'a> Asker<'a> {
    /// What would happen to this client's packet.
    pub(super) fn process(&self, client: SocketAddr) -> Answer<Processed> {
        let ExplainRequest { vip, protocol: of, flags, .. } = self.request;
        let packet = Packet { client, vip: *vip, protocol: *of, flags };
        let frame = frame::frame(&packet, self.mac)
            .ok_or_else(|| Refusal::Invalid(format!("there is no packet from {client} to {vip}")))?;
        let protocol = number(*of);
        let flow =
            FlowKey::new(Endpoint::from_socket(client, protocol), Endpoint::from_socket(*vip, protocol));
        let processed = self.snapshot.live.process(&frame, self.interface.index, &flow);
        processed.map_err(|error| Refusal::Failed(format!("{error:#}")))
    }

    fn view(&self, processed: &Processed) -> ExplainView {
        let ExplainRequest { client, vip, protocol, flags, .. } = self.request;
        let outcome = Outcome::of(processed);
        let backend = outcome.backend.map(|(_, backend)| self.address(&backend));
        let service = processed.service().and_then(|(_, service)| self.name(&service));
        let message = match (backend, outcome.reason) {
            (Some(backend), None) => {
                format!(
                    "{client} -> {vip}: {} sends it to {backend}",
                    service.as_deref().unwrap_or("a service")
                )
            }
            (_, Some(reason)) => {
                format!("{client} -> {vip}: {}: {}", kind_in_words(reason.kind()), reason.words())
            }
            (None, None) => format!("{client} -> {vip}: forwarded"),
        };
        let is_tcp = *protocol == Protocol::Tcp;
        ExplainView {
            message,
            verdict: outcome.reason.map_or("forward", |reason| reason.kind().name()).into(),
            client: *client,
            vip: *vip,
            protocol: *protocol,
            flags: if is_tcp { flags.clone() } else { Vec::new() },
            interface: self.interface.name.clone(),
            service,
            backend: backend.filter(|_| outcome.reason.is_none()),
            reason: outcome.reason.map(|reason| reason.name().into()),
            steps: self.steps(processed, &outcome),
            sent: self.sent(processed),
            spread: Vec::new(),
        }
    }

    /// The frame that would leave.
    pub(super) fn sent(&self, processed: &Processed) -> Option<SentView> {
        let interface = match processed.verdict {
            Verdict::Transmit => self.interface.name.clone(),
            Verdict::Redirect(index) => self.interface_name(index),
            Verdict::Pass(_) | Verdict::Drop(_) => return None,
        };
        let frame::Sent { macs, tunnel, packet: [source, destination] } = frame::read(&processed.frame)?;
        let [source_mac, destination_mac] = macs.map(|mac| MacAddress::new(mac).to_string());
        let tunnel = tunnel.map(|[source, destination]| TunnelView { source, destination });
        Some(SentView { interface, source_mac, destination_mac, tunnel, source, destination })
    }

    fn interface_name(&self, index: u32) -> String {
        let known = self.snapshot.interfaces.iter().find(|it| it.index == index);
        known.map_or_else(|| ingress::name(index), |it| it.name.clone())
    }

    pub(super) fn name(&self, service: &Service) -> Option<String> {
        self.names.get(&service.index).map(|name| (*name).to_owned())
    }

    /// A backend's address for the packet.
    pub(super) fn address(&self, backend: &Backend) -> SocketAddr {
        backend.endpoint_for(&Endpoint::from_socket(self.request.vip, number(self.request.protocol))).socket()
    }
}

/// A packet's outcome, in short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Why it is not forwarded.
    pub(super) reason: Option<Reason>,
    /// The backend to which it is sent, or from which it is.
    pub(super) backend: Option<(BackendIndex, Backend)>,
}

impl Outcome {
    pub(super) fn of(processed: &Processed) -> Self {
        let counted = processed.lookups.iter().rev().find_map(|lookup| match lookup {
            Lookup::Reason(reason) => Some(*reason),
            _ => None,
        });
        let reason = match processed.verdict {
            Verdict::Pass(reason) | Verdict::Drop(reason) => Some(reason),
            Verdict::Transmit | Verdict::Redirect(_) => counted,
        };
        let sent_to = processed.lookups.iter().rev().find_map(|lookup| match lookup {
            Lookup::Traffic(index) => Some(*index),
            _ => None,
        });
        let backend = sent_to.and_then(|index| Some((index, processed.backend(index)?)));
        Self { reason, backend }
    }
}

impl Processed {
    /// The service that was found, and its key.
    pub(super) fn service(&self) -> Option<(Endpoint, Service)> {
        self.lookups.iter().find_map(|lookup| match lookup {
            Lookup::Service(vip, Some(service)) => Some((*vip, *service)),
            _ => None,
        })
    }

    /// A backend that was looked up.
    pub(super) fn backend(&self, index: BackendIndex) -> Option<Backend> {
        self.lookups.iter().find_map(|lookup| match lookup {
            Lookup::Backend(of, backend) if *of == index => Some(*backend),
            _ => None,
        })
    }
}

/// What happens to a packet that is not forwarded.
pub(super) const fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Pass => "passed to this host",
        Kind::Drop => "dropped",
        Kind::Answer => "answered",
    }
}
