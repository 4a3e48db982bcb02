//! The wanted contents of the tables, by the states decided last.

use xdp_lb_common::net::Port;
use xdp_lb_common::tables as datapath;

use super::definition::{affinity_bits, checked_at, records_flows, sources, target_id, vip};
use super::feedback::scaled;
use super::known::Hop;
use super::pool::Pool;
use crate::model::state::BackendState;
use crate::model::{EffectiveBackend, EffectiveService, FlowTracking, Hairpin, Mode, OnNoBackends};
use crate::plan::wanted::{WantedBackend, WantedService};
use crate::ring;

impl Pool {
    /// The wanted contents of the tables, by the states decided last.
    pub fn wanted(&self) -> Vec<WantedService> {
        self.effective.services.iter().map(|service| self.wanted_service(service)).collect()
    }

    fn wanted_service(&self, service: &EffectiveService) -> WantedService {
        let known = |backend| self.known.get(&target_id(service, backend));
        let parts: Vec<(u16, u16)> = service
            .backends
            .iter()
            .map(|backend| (backend.backend.weight, known(backend).map_or(100, |known| known.percent)))
            .collect();
        let weights = scaled(&parts);
        let configured: Vec<u16> = parts.iter().map(|(weight, _)| *weight).collect();
        let path = |backend: &EffectiveBackend| {
            self.next_hops.get(&backend.backend.address.ip()).and_then(Hop::path)
        };
        let backends = service.backends.iter().zip(weights).map(|(backend, weight)| WantedBackend {
            address: backend.backend.address,
            weight,
            portion: known(backend).map_or(100, |known| known.portion),
            max_flows: backend.backend.max_flows,
            server_id: backend.backend.server_id.map(|id| datapath::ServerId::new(id.padded())),
            state: known(backend)
                .map_or(datapath::BackendState::Down, |known| known.datapath_state(path(backend).is_some())),
            path: path(backend),
        });
        let mode = match service.service.mode {
            Mode::Nat => datapath::Mode::Nat,
            Mode::FullNat => datapath::Mode::FullNat,
            Mode::Dsr => datapath::Mode::Dsr,
            Mode::Ipip => datapath::Mode::Ipip,
            Mode::Gue => datapath::Mode::Gue,
        };
        let snat_addresses = &service.service.snat_addresses;
        WantedService {
            vip: vip(service),
            last_port: Port::new(service.service.vip.last_port()),
            mode,
            records_flows: records_flows(&service.service),
            only_recorded: service.service.flow_tracking == FlowTracking::Always,
            rejects: service.service.on_no_backends == OnNoBackends::Reject && !self.is_undecided(service),
            snat_addresses: snat_addresses.iter().map(|address| (*address).into()).collect(),
            affinity_bits: affinity_bits(&service.service),
            quic: service.service.quic.map(|quic| (quic.config_id, quic.server_id_length)),
            sources: sources(&service.service),
            new_flow_rate: service.service.new_flow_rate,
            max_flows: service.service.max_flows,
            new_flow_burst: match (service.service.new_flow_rate, service.service.new_flow_burst) {
                (0, _) => 0,
                (rate, 0) => rate,
                (_, burst) => burst,
            },
            checked_at: checked_at(&service.service),
            ring_len: ring::length(&configured),
            has_ring: false,
            hairpin: service.service.hairpin == Hairpin::Auto,
            backends: backends.collect(),
        }
    }

    /// Whether a service may soon have a backend that is up: a first check, a next hop or the first answer of its discovery is
    /// pending.
    fn is_undecided(&self, service: &EffectiveService) -> bool {
        let is_out = |backend: &EffectiveBackend| {
            let known = self.known.get(&target_id(service, backend));
            !self.next_hops.contains_key(&backend.backend.address.ip())
                || known.is_none_or(|known| known.condition.state == BackendState::Checking)
        };
        let finds_none_yet = service.service.discovery.is_some() && service.backends.is_empty();
        finds_none_yet || service.backends.iter().any(is_out)
    }
}
