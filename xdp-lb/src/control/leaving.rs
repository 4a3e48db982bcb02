//! Leaving services and backends: they drain, and are removed when their flows have ended or their time is over.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_common::tables::{self as datapath, BackendIndex};

use super::census::FlowCount;
use super::sync::TableSync;
use crate::model::change::{BackendChange, ChangeKind, FlowsLeft, Former, ServiceChange};
use crate::model::state::{BackendState, Origin};
use crate::model::{self, Backend, Config, Effective, EffectiveBackend, EffectiveService, Limits, Timeouts};
use crate::overlay::{self, BootTime, Leave, Overlay};
use crate::plan::places::{Identity, identities, identity};
use crate::pool::definition::{target_id, vip};
use crate::pool::pool::Pool;
use crate::tables::Tables;

/// The previous daemon's configuration, according to its tables: the backends of services in `wanted` that may have flows.
/// `wanted` includes leaving ones.
pub(super) fn left_in(tables: &Tables, wanted: Effective) -> Effective {
    let services = wanted.services.into_iter().filter_map(|service| {
        let present = tables.services.get(&vip(&service))?;
        let is_its = |backend: &&datapath::Backend| {
            backend.service == present.index && backend.state != datapath::BackendState::Down
        };
        let backend = |it: &datapath::Backend| {
            let address = SocketAddr::new(it.address.into(), it.port.get());
            let listed = service.backends.iter().find(|listed| listed.backend.address == address);
            listed.copied().unwrap_or(EffectiveBackend {
                backend: Backend {
                    max_flows: it.max_flows,
                    ..Backend::new(address, model::default_weight())
                },
                admin: model::state::AdminState::Enabled,
                origin: Origin::File,
                is_leaving: service.is_leaving,
            })
        };
        let backends = tables.backends.values().filter(is_its).map(backend).collect();
        Some(EffectiveService { backends, ..service })
    });
    Effective { services: services.collect() }
}

/// The flows of backends, by the tables.
pub(super) struct BackendFlows<'a> {
    sync: &'a TableSync,
    census: &'a FlowCount,
    /// Computed on first use, for all backends.
    indices: OnceCell<HashMap<Identity, BackendIndex>>,
}

impl<'a> BackendFlows<'a> {
    /// From these tables and this count.
    pub(super) fn new(sync: &'a TableSync, census: &'a FlowCount) -> Self {
        Self { sync, census, indices: OnceCell::new() }
    }

    /// A service's record and a backend's index.
    fn place(
        &self,
        service: &EffectiveService,
        address: SocketAddr,
    ) -> Option<(&datapath::Service, BackendIndex)> {
        let tables = self.sync.tables();
        let present = tables.services.get(&vip(service))?;
        let indices = self.indices.get_or_init(|| identities(tables));
        Some((present, *indices.get(&identity(present.index, address))?))
    }

    /// A backend's flows. `None` if it is not in the tables.
    pub(super) fn left(&self, service: &EffectiveService, address: SocketAddr) -> Option<FlowsLeft> {
        let (_, index) = self.place(service, address)?;
        Some(FlowsLeft {
            recorded: self.census.live(index),
            packets_per_second: self.sync.rates().backends.get(&index).map_or(0.0, |rates| rates.packets),
        })
    }

    /// The same of all backends of a service.
    pub(super) fn left_of_all(&self, service: &EffectiveService) -> Option<FlowsLeft> {
        let backends = service.backends.iter();
        backends.filter_map(|it| self.left(service, it.backend.address)).reduce(FlowsLeft::plus)
    }

    /// The changes between two states, with the flows of removed backends.
    pub(super) fn changes(&self, before: &Effective, after: &Effective) -> Vec<ServiceChange> {
        let mut changes = overlay::diff(before, after);
        for change in &mut changes {
            let Some(service) = before.services.iter().find(|it| it.service.name == change.old_name()) else {
                continue;
            };
            change.former = self.former(change, service, after);
            for BackendChange { address, kind, flows, .. } in &mut change.backends {
                if *kind == ChangeKind::Removed {
                    let left = self.left(service, *address);
                    // Removing a drained backend does not end a flow.
                    let has_drained = service.backend(*address).is_some_and(|it| it.is_leaving)
                        && left.is_some_and(|left| left.recorded == 0);
                    *flows = left.filter(|_| !has_drained);
                }
            }
        }
        changes
    }

    /// The fate of a service's flows if its VIP or protocol changes.
    fn former(
        &self,
        change: &ServiceChange,
        service: &EffectiveService,
        after: &Effective,
    ) -> Option<Former> {
        let is_moved = change.keys.iter().any(|it| ["vip", "protocol"].contains(&it.key.as_str()));
        if change.kind != ChangeKind::Changed || !is_moved {
            return None;
        }
        let flows = self.left_of_all(service)?;
        let drains = after.services.iter().find(|it| it.is_leaving && vip(it) == vip(service));
        let drains_as = drains.map(|it| it.service.name.clone());
        Some(Former { vip: service.service.vip, protocol: service.service.protocol, drains_as, flows })
    }

    /// Why a leaving backend can be removed. `None` while it may have flows.
    fn is_over(
        &self,
        service: &EffectiveService,
        address: SocketAddr,
        pool: &Pool,
        timeouts: &Timeouts,
    ) -> Option<&'static str> {
        let Some(backend) = service.backends.iter().find(|it| it.backend.address == address) else {
            return Some("the config refuses it");
        };
        let tables = self.sync.tables();
        let (present, index) = self.place(service, address)?;
        let state = pool.known(&target_id(service, backend)).map(|known| known.condition.state);
        let is_cut = tables.backends.get(&index).is_some_and(|it| !it.state.keeps_flows());
        if is_cut && state != Some(BackendState::Draining) {
            return Some("it gets no packets");
        }
        let counted_at = self.census.of_now()?;
        // Earlier than that, a flow that is older than its slot's move may have no record yet.
        let known_at = self.sync.settling().known_at(&vip(service), present, tables, timeouts, counted_at);
        let is_known = !known_at.contains_key(&index);
        (is_known && self.census.live(index) == 0).then_some("its flows have ended")
    }
}

/// The services in effect with this config and these changes. What was in effect before and is no longer configured begins to
/// leave.
///
/// # Errors
/// Like [`overlay::effective`].
pub(super) fn effective_after(
    before: &Effective,
    config: &Config,
    room: Limits,
    overlay: &mut Overlay,
    leave: Leave,
    now: &BootTime,
) -> Result<Effective, Vec<String>> {
    overlay.depart(config, before, leave, now);
    overlay::effective_beside(config, overlay, room, |service, address| before.has(service, address))
}

/// Removes leaving services and backends that have no flows left, or whose time is over. `moment`: seconds since boot.
pub(super) fn release(
    overlay: &mut Overlay,
    pool: &Pool,
    config: &Config,
    flows: &BackendFlows<'_>,
    moment: u64,
) {
    for service in &pool.effective().services {
        let name = &service.service.name;
        let leaving: Vec<(SocketAddr, u64)> = overlay.leaving(name).collect();
        for (address, since) in leaving {
            let longest = overlay::longest_drain(config, service, address);
            let why = if moment.saturating_sub(since) >= longest.as_secs() {
                format!("drain_timeout of {} has passed", humantime::format_duration(longest))
            } else if let Some(why) = flows.is_over(service, address, pool, &config.timeouts) {
                why.to_owned()
            } else {
                continue;
            };
            tracing::info!("service {name}: backend {address} has drained and is removed: {why}");
            overlay.release(name, address);
        }
    }
}

/// The message for a removed service or backend: whether it drains, or which flows ended.
pub(super) fn end_of(
    service: &str,
    address: Option<SocketAddr>,
    ends: Option<FlowsLeft>,
    effective: &Effective,
    drain_timeout: Duration,
) -> String {
    let drains = |it: &EffectiveService| {
        it.service.name == service
            && match address {
                None => it.is_leaving,
                Some(address) => it.backends.iter().any(|it| it.backend.address == address && it.is_leaving),
            }
    };
    let is_there = |it: &EffectiveService| {
        it.service.name == service
            && address.is_some_and(|address| it.backends.iter().any(|it| it.backend.address == address))
    };
    if effective.services.iter().any(drains) {
        let longest = humantime::format_duration(drain_timeout);
        let flows = ends.unwrap_or_default();
        format!("; draining, with {flows}: removed once they have ended, after {longest} at the latest")
    } else if effective.services.iter().any(is_there) {
        // Discovery manages it.
        String::new()
    } else {
        ends.map_or(String::new(), |flows| format!("; this ended {flows}"))
    }
}
