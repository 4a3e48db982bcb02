//! The recorded flows, as the API tells them.

use std::collections::HashMap;
use std::net::SocketAddr;

use xdp_lb_common::flow::Stage;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::tables::{Book, FlowKey, FlowRecord};

use super::fleet::vip;
use super::handle::{Answer, Refusal};
use super::kernel::Kernel;
use super::owner::Owner;
use crate::api::types::{FlowQuery, FlowStage, FlowView, FlowsView};
use crate::config;
use crate::datapath::monotonic_seconds;

impl<K: Kernel> Owner<K> {
    /// The recorded flows that match, up to the query's limit, and how many match in all.
    pub(super) fn flows(&mut self, query: &FlowQuery) -> Answer<FlowsView> {
        let services = &self.fleet.effective().services;
        if let Some(name) = &query.service
            && !services.iter().any(|service| service.service.name == *name)
        {
            let known = services.iter().map(|service| service.service.name.clone()).collect();
            return Err(config::unknown_service(name, known));
        }
        let tables = self.planner.tables();
        let names: HashMap<_, _> = services
            .iter()
            .filter_map(|service| Some((tables.services.get(&vip(service))?.index, &service.service.name)))
            .collect();
        let now = monotonic_seconds().map_err(|error| Refusal::Failed(format!("{error:#}")))?;
        let mut view = FlowsView::default();
        let visit = &mut |book: Book, key: &FlowKey, record: &FlowRecord| {
            let backend = tables.backends.get(&record.backend).filter(|_| !record.life.is_reply());
            let Some((backend, name)) = backend.and_then(|found| Some((found, names.get(&found.service)?)))
            else {
                return false;
            };
            let client = key.source_endpoint().socket();
            let address = SocketAddr::new(backend.address.into(), backend.port.get());
            let sent_to = backend.endpoint_for(&key.destination_endpoint()).socket();
            let matches = query.service.as_ref().is_none_or(|wanted| wanted == *name)
                && query.backend.is_none_or(|wanted| wanted == address || wanted == sent_to)
                && query.client.is_none_or(|wanted| wanted == client.ip());
            if !matches {
                return false;
            }
            view.matching += 1;
            if view.flows.len() < query.limit as usize {
                view.flows.push(FlowView {
                    service: (*name).clone(),
                    protocol: match key.protocol {
                        Protocol::UDP => config::Protocol::Udp,
                        _ => config::Protocol::Tcp,
                    },
                    client,
                    vip: key.destination_endpoint().socket(),
                    backend: sent_to,
                    seen_from: SocketAddr::new(record.source.into(), record.source_port.get()),
                    stage: match (record.life.stage(key.protocol), book) {
                        (Stage::Closing, _) => FlowStage::Closing,
                        (_, Book::HalfOpen) => FlowStage::HalfOpen,
                        (_, Book::Flows) => FlowStage::Established,
                    },
                    idle_seconds: now.saturating_sub(record.life.last_seen()),
                });
            }
            false
        };
        self.kernel
            .sweep_flows(visit)
            .map_err(|error| Refusal::Failed(format!("the flows cannot be read: {error:#}")))?;
        view.flows.sort_unstable_by(|one, other| {
            (&one.service, one.backend, one.client).cmp(&(&other.service, other.backend, other.client))
        });
        Ok(view)
    }
}
