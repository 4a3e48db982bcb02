//! Which VIPs are to be addresses of this host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::definition::{first_check, target_id};
use super::pool::Pool;
use crate::model::state::{AdminState, BackendState};
use crate::model::{Config, EffectiveBackend, EffectiveService, Withdraw};
use crate::net::vips::Wish;

/// What is wanted of each VIP, by its address.
pub type Wishes = BTreeMap<IpAddr, Wish>;

/// Of each VIP that the daemon sees to, whether it is to be there.
pub fn wishes(pool: &Pool, config: &Config, node: AdminState, now: Instant) -> Wishes {
    let withdraw = config.vips.withdraw;
    let mut wishes = Wishes::new();
    if config.vips.interface.is_none() {
        return wishes;
    }
    let services = &pool.effective().services;
    for service in services {
        let wish = match node {
            AdminState::Draining => Wish::Absent,
            AdminState::Enabled => pool.wish(service, withdraw),
        };
        // A VIP is wanted where one of its services wants it.
        let present = wishes.entry(service.service.vip.ip()).or_insert(wish);
        *present = match (*present, wish) {
            (Wish::Present, _) | (_, Wish::Present) => Wish::Present,
            (Wish::Undecided, _) | (_, Wish::Undecided) => Wish::Undecided,
            (Wish::Absent, Wish::Absent) => Wish::Absent,
        };
    }
    if withdraw != Withdraw::Never {
        // A VIP waits for the first checks of all its services.
        for service in services {
            if let Some(wish @ Wish::Present) = wishes.get_mut(&service.service.vip.ip())
                && pool.awaits_first_checks(service, now)
            {
                *wish = Wish::Undecided;
            }
        }
    }
    wishes
}

impl Pool {
    /// Whether a first check of a service's backends is pending that should end soon. Until then nobody knows which of them
    /// will serve: with a VIP that came with the first that is up, all clients would be its own.
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

    /// Whether a service wants its VIP to be an address of this host, by the states decided last.
    fn wish(&self, service: &EffectiveService, withdraw: Withdraw) -> Wish {
        if service.admin == AdminState::Draining {
            return Wish::Absent;
        }
        // In panic, those that are down take flows, too.
        if withdraw == Withdraw::Never || self.panic(&service.service.name).is_some() {
            return Wish::Present;
        }
        let state = |backend: &EffectiveBackend| {
            let state = self.known.get(&target_id(service, backend))?.condition.state;
            // One of which nothing was heard yet may be well.
            let is_out = !self.next_hops.contains_key(&backend.backend.address.ip());
            Some(if is_out { BackendState::Checking } else { state })
        };
        let states: Vec<_> = service.backends.iter().filter_map(state).collect();
        let keeps_flows = |state: &BackendState| {
            state.takes_new_flows()
                || matches!(state, BackendState::Draining | BackendState::Standby | BackendState::Ejected)
        };
        if states.iter().any(keeps_flows) {
            Wish::Present
        } else if states.contains(&BackendState::Checking) {
            Wish::Undecided
        } else {
            Wish::Absent
        }
    }
}
