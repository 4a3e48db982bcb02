//! Services and backends for tests of decisions.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use xdp_lb_common::net::MacAddress;
use xdp_lb_common::tables::{self as datapath, Traffic};

use super::covered::Covered;
use super::decide::Transition;
use super::known::Hop;
use super::pool::Pool;
use crate::health::{AgentAdmin, AgentReply, AgentReport, Health, Report, TargetId};
use crate::model::state::{AdminState, BackendState, Origin};
use crate::model::{
    self, Backend, Effective, EffectiveBackend, EffectiveService, HealthCheck, Probe, Service,
};
use crate::net::NextHop;
use crate::plan::wanted::WantedBackend;
use crate::tables::Tables;

impl Pool {
    /// Decides without randomness.
    pub(super) fn decide_at(&mut self, now: Instant) -> Vec<Transition> {
        self.decide(now, &mut || 0.0)
    }
}

pub(super) fn service(probe: Probe) -> EffectiveService {
    let service = Service {
        health_check: Some(HealthCheck::new(probe)),
        ..Service::new("web", "192.0.2.10:80".parse().unwrap())
    };
    EffectiveService {
        service,
        admin: AdminState::Enabled,
        origin: Origin::File,
        backends: vec![],
        refused: vec![],
        is_leaving: false,
    }
}

pub(super) fn backend(weight: u16, admin: AdminState) -> EffectiveBackend {
    let backend = Backend::new("198.51.100.11:8080".parse().unwrap(), weight);
    EffectiveBackend { backend, admin, origin: Origin::File, is_leaving: false }
}

pub(super) fn known() -> Hop {
    Hop::Known(NextHop {
        interface: "eth0".into(),
        ifindex: 2,
        vlan: None,
        source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        router: None,
        source: "198.51.100.1".parse().unwrap(),
        on_link_bits: Some(24),
        mtu: 1500,
    })
}

/// A service with this threshold whose backends, of which some are backups, have this health.
pub(super) fn pool_of(threshold: u8, backends: &[(bool, Health)]) -> Pool {
    pool_with(|service| service.panic_threshold = threshold, backends)
}

pub(super) fn pool_with(policy: impl Fn(&mut Service), backends: &[(bool, Health)]) -> Pool {
    let mut pool = Pool::new(&Tables::default());
    let mut web = service(Probe::Tcp);
    policy(&mut web.service);
    for (place, (backup, _)) in backends.iter().enumerate() {
        let address = format!("198.51.100.{}:80", 11 + place).parse().unwrap();
        let backend = Backend { backup: *backup, ..Backend::new(address, 100) };
        web.backends.push(EffectiveBackend {
            backend,
            admin: AdminState::Enabled,
            origin: Origin::File,
            is_leaving: false,
        });
    }
    pool.set_effective(Effective { services: vec![web] }, &Tables::default(), Instant::now());
    let Hop::Known(hop) = known() else { unreachable!() };
    for address in pool.addresses() {
        pool.set_next_hop(address, Ok(hop.clone()));
    }
    pool.set_covered(Covered { names: [hop.interface].into(), ..Covered::default() });
    set_health(&mut pool, backends);
    pool
}

pub(super) fn set_health(pool: &mut Pool, backends: &[(bool, Health)]) {
    let targets = pool.targets();
    for ((target, _), (_, health)) in targets.into_iter().zip(backends) {
        let transition = Some("it said so".to_owned());
        pool.report(
            Report { id: target.id, health: *health, transition, latency: None, trouble: None },
            Instant::now(),
        );
    }
    pool.decide_at(Instant::now());
}

pub(super) fn states(pool: &Pool) -> Vec<(BackendState, datapath::BackendState)> {
    let wanted = &pool.wanted()[0];
    let state = |backend: &WantedBackend| {
        let id = TargetId::of_web(backend.address);
        (pool.known(&id).unwrap().condition.state, backend.state)
    };
    wanted.backends.iter().map(state).collect()
}

/// Sets the first backend's counters in the datapath.
pub(super) fn answers(pool: &mut Pool, packets_out: u64, asked: u64, now: Instant) -> bool {
    pool.record_answers(|_, _| Some(Traffic { packets_out, asked, ..Traffic::default() }), now)
}

/// Passes these counters to the breakers: new flows, accepted, reset, of each backend.
pub(super) fn count(pool: &mut Pool, counted: &[[u64; 3]], now: Instant) -> bool {
    let counted = |_: &EffectiveService, backend: &EffectiveBackend| {
        let IpAddr::V4(address) = backend.backend.address.ip() else { unreachable!() };
        let [new_flows, accepted, resets] = counted[usize::from(address.octets()[3]) - 11];
        Some(Traffic { new_flows, accepted, resets, ..Traffic::default() })
    };
    pool.record_flows(counted, now)
}

/// Reports this health for the second backend.
pub(super) fn set_health_at(pool: &mut Pool, health: Health, now: Instant) {
    let id = pool.targets()[1].0.id.clone();
    pool.report(
        Report { id, health, transition: Some("so".into()), latency: None, trouble: None },
        Instant::now(),
    );
    pool.decide_at(now);
}

pub(super) fn ids(pool: &Pool) -> Vec<TargetId> {
    pool.targets().into_iter().map(|(target, _)| target.id).collect()
}

/// Reports these replies of the agents. `None`: the query fails.
pub(super) fn agents_say(pool: &mut Pool, lines: &[Option<AgentReply>], now: Instant) {
    for (id, line) in ids(pool).into_iter().zip(lines) {
        let result = line.clone().ok_or_else(|| "connection refused".to_owned());
        pool.on_agent_report(AgentReport { id, result }, now);
    }
    pool.decide_at(now);
}

pub(super) fn part(percent: u16) -> Option<AgentReply> {
    Some(AgentReply { percent: Some(percent), ..AgentReply::default() })
}

pub(super) fn says(admin: AgentAdmin) -> Option<AgentReply> {
    Some(AgentReply { admin: Some(admin), ..AgentReply::default() })
}

pub(super) fn weights(pool: &Pool) -> Vec<u16> {
    pool.wanted()[0].backends.iter().map(|backend| backend.weight).collect()
}

pub(super) fn with_agent(service: &mut Service) {
    service.agent = Some(model::Agent::at(8081));
}

/// Reports this number of checks of each backend that took these milliseconds.
pub(super) fn checks_take(pool: &mut Pool, milliseconds: &[u64], checks: u32) {
    for (id, took) in ids(pool).into_iter().zip(milliseconds) {
        for _ in 0..checks {
            let latency = Some(Duration::from_millis(*took));
            pool.report(
                Report { id: id.clone(), health: Health::Up, transition: None, latency, trouble: None },
                Instant::now(),
            );
        }
    }
}
