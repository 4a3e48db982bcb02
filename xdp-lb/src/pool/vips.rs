//! Which VIPs should be addresses of this host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::definition::{first_check, target_id};
use super::pool::Pool;
use crate::model::state::{AdminState, BackendState};
use crate::model::{Config, EffectiveBackend, EffectiveService, Withdraw};
use crate::net::vips::VipIntent;

/// The intent for each VIP, by its address.
pub type VipIntents = BTreeMap<IpAddr, VipIntent>;

/// Whether each VIP that the daemon manages should be present.
pub fn intents(pool: &Pool, config: &Config, node: AdminState, now: Instant) -> VipIntents {
    let withdraw = config.vips.withdraw;
    let mut intents = VipIntents::new();
    if config.vips.interface.is_none() {
        return intents;
    }
    let services = &pool.effective().services;
    for service in services {
        let intent = match node {
            AdminState::Draining => VipIntent::Absent,
            AdminState::Enabled => pool.intent(service, withdraw),
        };
        // A VIP is wanted if one of its services wants it.
        let present = intents.entry(service.service.vip.ip()).or_insert(intent);
        *present = match (*present, intent) {
            (VipIntent::Present, _) | (_, VipIntent::Present) => VipIntent::Present,
            (VipIntent::Undecided, _) | (_, VipIntent::Undecided) => VipIntent::Undecided,
            (VipIntent::Absent, VipIntent::Absent) => VipIntent::Absent,
        };
    }
    if withdraw != Withdraw::Never {
        // A VIP waits for the first checks of all its services.
        for service in services {
            if let Some(intent @ VipIntent::Present) = intents.get_mut(&service.service.vip.ip())
                && pool.awaits_first_checks(service, now)
            {
                *intent = VipIntent::Undecided;
            }
        }
    }
    intents
}

impl Pool {
    /// Whether a first check of a service's backends is pending and should end soon. If the VIP were added before that, the first
    /// backend that is up would get all clients.
    fn awaits_first_checks(&self, service: &EffectiveService, now: Instant) -> bool {
        let patience = first_check(&service.service);
        let is_awaited = |backend: &EffectiveBackend| {
            let is_out = !self.next_hops.contains_key(&backend.backend.address.ip());
            self.known.get(&target_id(service, backend)).is_some_and(|known| {
                (is_out || known.condition.state == BackendState::Checking)
                    && now.duration_since(known.since) < patience
            })
        };
        service.backends.iter().any(is_awaited)
    }

    /// Whether a service wants its VIP as an address of this host, by the states decided last.
    fn intent(&self, service: &EffectiveService, withdraw: Withdraw) -> VipIntent {
        if service.admin == AdminState::Draining {
            return VipIntent::Absent;
        }
        // In panic, backends that are down take flows, too.
        if withdraw == Withdraw::Never || self.panic(&service.service.name).is_some() {
            return VipIntent::Present;
        }
        let state = |backend: &EffectiveBackend| {
            let state = self.known.get(&target_id(service, backend))?.condition.state;
            // A backend whose first check is pending may be up.
            let is_out = !self.next_hops.contains_key(&backend.backend.address.ip());
            Some(if is_out { BackendState::Checking } else { state })
        };
        let states: Vec<_> = service.backends.iter().filter_map(state).collect();
        let keeps_flows = |state: &BackendState| {
            state.takes_new_flows()
                || matches!(state, BackendState::Draining | BackendState::Standby | BackendState::Ejected)
        };
        if states.iter().any(keeps_flows) {
            VipIntent::Present
        } else if states.contains(&BackendState::Checking) {
            VipIntent::Undecided
        } else {
            VipIntent::Absent
        }
    }
}
