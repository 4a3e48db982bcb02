use std::net::IpAddr;
use std::time::{Duration, Instant};

use xdp_lb_common::tables as datapath;

use super::*;
use crate::datapath::Sizes;
use crate::health::{AgentAdmin, AgentOperation, AgentReply, Report};
use crate::model::{self, Backend, Effective, Limits, OnDown, Probe, Service};
use crate::net::NoNextHop;
use crate::plan::planner::Planner;
use crate::pool::testing::*;
use crate::tables::Tables;

/// The state of a backend whose flows have ended.
const ENDED: datapath::BackendState = datapath::BackendState::Ending;

#[test]
fn what_keeps_packets_from_a_backend_comes_first() {
    use AdminState::{Draining, Enabled};
    use BackendState as State;
    let missing = || Some(Hop::Missing(NoNextHop::Here("no route".into()), None));
    for (hop, health, weight, admin, probe, state, reason) in [
        (None, Health::Up, 1, Enabled, Probe::Tcp, State::Unresolved, "resolving the next hop"),
        (
            missing(),
            Health::Down,
            1,
            Draining,
            Probe::Tcp,
            State::Unresolved,
            "no next hop: no route; drained by the operator",
        ),
        (
            Some(known()),
            Health::Down,
            1,
            Draining,
            Probe::Tcp,
            State::Down,
            "health check: why; drained by the operator",
        ),
        (Some(known()), Health::Up, 1, Draining, Probe::Tcp, State::Draining, "drained by the operator"),
        (Some(known()), Health::Unknown, 0, Draining, Probe::Tcp, State::Draining, "drained by the operator"),
        (Some(known()), Health::Up, 0, Enabled, Probe::Tcp, State::Draining, "weight 0"),
        (
            Some(known()),
            Health::Unknown,
            1,
            Enabled,
            Probe::Tcp,
            State::Checking,
            "first health check pending",
        ),
        (Some(known()), Health::Down, 1, Enabled, Probe::None, State::Up, "not checked"),
        (Some(known()), Health::Up, 1, Enabled, Probe::Tcp, State::Up, "health check: why"),
    ] {
        let known = Known { why: Some("why".into()), ..Known::new(health, true, Instant::now()) };
        let decided = condition(&service(probe), &backend(weight, admin), &known, hop.as_ref(), None);
        assert_eq!(decided, Condition { state, reason: reason.into() });
    }
}

#[test]
fn a_dsr_backend_behind_a_router_is_unresolved() {
    let Hop::Known(hop) = known() else { unreachable!() };
    let behind = Hop::Known(NextHop { router: Some("198.51.100.254".parse().unwrap()), ..hop });
    for (mode, hop, state) in [
        (Mode::Dsr, known(), BackendState::Up),
        (Mode::Dsr, behind.clone(), BackendState::Unresolved),
        (Mode::Ipip, behind, BackendState::Up),
    ] {
        let mut service = service(Probe::None);
        service.service.mode = mode;
        let known = Known::new(Health::Up, true, Instant::now());
        let decided = condition(&service, &backend(100, AdminState::Enabled), &known, Some(&hop), None);
        assert_eq!(decided.state, state, "{mode}: {}", decided.reason);
        assert_eq!(decided.reason.contains("198.51.100.254"), state == BackendState::Unresolved);
    }
}

#[test]
fn a_backup_keeps_its_flows_and_takes_new_ones_only_while_no_other_is_up() {
    use datapath::BackendState as Tables;
    use {BackendState as State, Health::Down, Health::Up};
    let mut pool = pool_of(0, &[(false, Up), (true, Up)]);
    assert_eq!(states(&pool), [(State::Up, Tables::Up), (State::Standby, Tables::Draining)]);
    set_health(&mut pool, &[(false, Down), (true, Up)]);
    assert_eq!(states(&pool), [(State::Down, Tables::Failing), (State::Up, Tables::Up)]);
    let backup = pool.known(&pool.targets()[1].0.id).unwrap();
    assert_eq!(backup.condition.reason, "health check: it said so; backup, in use because no other is up");
    set_health(&mut pool, &[(false, Up), (true, Up)]);
    assert_eq!(states(&pool), [(State::Up, Tables::Up), (State::Standby, Tables::Draining)]);
}

#[test]
fn flows_of_a_down_backend_stay_while_it_answers_and_end_once_it_is_silent() {
    use datapath::BackendState as Tables;
    use {BackendState as State, Health::Down, Health::Up};
    let now = Instant::now();
    let at = |millis: u64| now + Duration::from_millis(millis);
    let mut pool = pool_of(0, &[(false, Up), (false, Up)]);
    assert!(!pool.watches_answers());
    set_health(&mut pool, &[(false, Down), (false, Up)]);
    assert!(pool.watches_answers());
    for round in 0..400 {
        assert!(!answers(&mut pool, round, round, at(250 * round)), "{round}");
    }
    pool.decide_at(at(100_000));
    assert_eq!(states(&pool)[0], (State::Down, Tables::Failing));
    let silent: Vec<u64> =
        (0..12).filter(|round| answers(&mut pool, 399, 400 + round, at(100_000 + 250 * round))).collect();
    assert_eq!(silent, [8, 9, 10, 11], "two seconds after the first question");
    let told = pool.decide_at(at(103_000));
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].before, told[0].now.state), (Some(State::Down), State::Down));
    assert_eq!(
        told[0].now.reason,
        "health check: it said so; established flows have ended: it was silent for 2s"
    );
    assert_eq!(states(&pool)[0], (State::Down, ENDED));
    assert!(!pool.watches_answers() && pool.decide_at(at(104_000)).is_empty());
    set_health(&mut pool, &[(false, Up), (false, Up)]);
    assert_eq!(states(&pool)[0], (State::Up, Tables::Up));
}

#[test]
fn a_drain_whose_check_fails_is_treated_the_same() {
    use datapath::BackendState as Tables;
    use {BackendState as State, Health::Down, Health::Up};
    let now = Instant::now();
    let mut pool = pool_with(|service| service.on_down = OnDown::Reset, &[(false, Up), (false, Up)]);
    pool.effective.services[0].backends[0].admin = AdminState::Draining;
    pool.decide_at(now);
    assert_eq!(states(&pool)[0], (State::Draining, Tables::Draining));
    set_health(&mut pool, &[(false, Down), (false, Up)]);
    assert_eq!(states(&pool)[0], (State::Down, ENDED));
    pool.effective.services[0].service.on_down = OnDown::Keep;
    set_health(&mut pool, &[(false, Up), (false, Up)]);
    assert_eq!(states(&pool)[0], (State::Draining, Tables::Draining));
    set_health(&mut pool, &[(false, Down), (false, Up)]);
    assert_eq!(states(&pool)[0], (State::Down, Tables::Failing));
}

#[test]
fn a_backend_without_a_route_keeps_its_path_and_flows() {
    use BackendState as State;
    use datapath::BackendState as Tables;
    let mut pool = pool_with(|service| service.on_down = OnDown::Reset, &[(false, Health::Up); 2]);
    let path = pool.wanted()[0].backends[0].path;
    let address: IpAddr = "198.51.100.11".parse().unwrap();
    pool.set_next_hop(address, Err(NoNextHop::Here("eth1 is down".into())));
    pool.decide_at(Instant::now());
    assert_eq!(states(&pool)[0], (State::Unresolved, Tables::Failing));
    assert_eq!(pool.wanted()[0].backends[0].path, path);
    // A neighbour that does not answer is another case.
    pool.set_next_hop(address, Err(NoNextHop::Silent("198.51.100.11 on eth1 does not answer ARP".into())));
    pool.decide_at(Instant::now());
    assert_eq!(states(&pool)[0], (State::Unresolved, ENDED));
}

#[test]
fn a_new_daemon_keeps_the_flows_of_a_failing_backend_until_its_first_check() {
    use datapath::BackendState as Datapath;
    let mut before = pool_of(0, &[(false, Health::Up), (false, Health::Up)]);
    set_health(&mut before, &[(false, Health::Down), (false, Health::Up)]);
    let limits = Limits {
        services: 1,
        backends: 2,
        slots: 100_000,
        flows: 1,
        source_ranges: 1,
        source_rates: 1,
        fragments: 1,
    };
    let mut planner = Planner::new(Tables::default(), Sizes { limits, snat_addresses: 1 });
    let plan = planner.plan(&before.wanted(), 1).unwrap();
    planner.commit(&plan);
    let mut pool = Pool::new(planner.tables());
    pool.set_effective(before.effective().clone(), planner.tables(), Instant::now());
    pool.decide_at(Instant::now());
    assert_eq!(states(&pool)[0], (BackendState::Checking, Datapath::Failing));
    assert_eq!(states(&pool)[1], (BackendState::Up, Datapath::Up));
    // Its next hop disappears and returns before its first check has ended.
    let address: IpAddr = "198.51.100.11".parse().unwrap();
    let Hop::Known(next_hop) = known() else { unreachable!("it is known") };
    pool.set_next_hop(address, Err(NoNextHop::Here("eth1 is down".into())));
    pool.decide_at(Instant::now());
    assert_eq!(states(&pool)[0], (BackendState::Unresolved, Datapath::Failing));
    pool.set_next_hop(address, Ok(next_hop));
    pool.decide_at(Instant::now());
    assert_eq!(states(&pool)[0], (BackendState::Checking, Datapath::Failing));
    set_health(&mut pool, &[(false, Health::Down), (false, Health::Up)]);
    assert_eq!(states(&pool)[0], (BackendState::Down, Datapath::Failing));
}

#[test]
fn a_backend_that_never_served_has_no_words_about_flows() {
    let mut pool = pool_of(0, &[(false, Health::Unknown)]);
    let id = ids(&pool)[0].clone();
    let said = |pool: &Pool| pool.known(&id).unwrap().condition.reason.clone();
    pool.set_next_hop(id.backend.ip(), Err(NoNextHop::Silent("it does not answer ARP".into())));
    pool.decide_at(Instant::now());
    assert_eq!(said(&pool), "no next hop: it does not answer ARP");
    assert_eq!(states(&pool)[0], (BackendState::Unresolved, datapath::BackendState::Down));
    let Hop::Known(next_hop) = known() else { unreachable!("it is known") };
    pool.set_next_hop(id.backend.ip(), Ok(next_hop));
    set_health(&mut pool, &[(false, Health::Down)]);
    assert_eq!(states(&pool)[0], (BackendState::Down, datapath::BackendState::Down));
    set_health(&mut pool, &[(false, Health::Up)]);
    set_health(&mut pool, &[(false, Health::Down)]);
    assert_eq!(states(&pool)[0], (BackendState::Down, datapath::BackendState::Failing));
    assert!(said(&pool).contains("established flows"), "{}", said(&pool));
}

#[test]
fn a_check_that_could_not_run_is_reported_and_changes_nothing_else() {
    let mut pool = pool_of(0, &[(false, Health::Up)]);
    let id = pool.targets()[0].0.id.clone();
    let trouble = |why: Option<&str>| Report {
        id: id.clone(),
        health: Health::Up,
        transition: None,
        latency: None,
        trouble: why.map(str::to_owned),
    };
    let reason = |pool: &mut Pool| {
        pool.decide_at(Instant::now());
        let known = pool.known(&pool.targets()[0].0.id).unwrap().condition.clone();
        assert_eq!(known.state, BackendState::Up);
        known.reason
    };
    let before = reason(&mut pool);
    assert!(pool.report(trouble(Some("eth1 is down")), Instant::now()));
    assert!(!pool.report(trouble(Some("eth1 is down")), Instant::now()), "it is not news");
    assert_eq!(reason(&mut pool), format!("{before}; the check could not be run: eth1 is down"));
    assert!(pool.report(trouble(None), Instant::now()));
    assert_eq!(reason(&mut pool), before);
}

#[test]
fn if_too_few_are_up_those_that_are_down_take_flows_and_say_why() {
    use datapath::BackendState as Tables;
    use {BackendState as State, Health::Down, Health::Up};
    let mut pool = pool_of(50, &[(false, Up), (false, Up), (false, Down), (false, Down)]);
    // It has not had any flows yet.
    assert_eq!(states(&pool)[2], (State::Down, Tables::Down));
    assert_eq!(pool.panic("web"), None);
    set_health(&mut pool, &[(false, Up), (false, Down), (false, Down), (false, Down)]);
    assert_eq!(states(&pool)[0], (State::Up, Tables::Up));
    assert_eq!(states(&pool)[1..], [(State::Panic, Tables::Up); 3]);
    let why = "1 of 4 backends are up, but panic_threshold = 50 needs 2";
    assert_eq!(pool.panic("web"), Some(why));
    let kept = pool.known(&pool.targets()[1].0.id).unwrap();
    let reason = format!("health check: it said so; takes flows anyway: {why}");
    assert_eq!(kept.condition.reason, reason);
    // Without a path to it, it cannot be kept.
    pool.set_next_hop("198.51.100.12".parse().unwrap(), Err(NoNextHop::Here("no route".into())));
    pool.decide_at(Instant::now());
    assert_eq!(states(&pool)[1], (State::Unresolved, Tables::Failing));
    set_health(&mut pool, &[(false, Up), (false, Down), (false, Up), (false, Down)]);
    assert_eq!(states(&pool)[3], (State::Down, Tables::Failing));
    assert_eq!(pool.panic("web"), None);
}

#[test]
fn returning_backends_start_slowly_and_those_of_a_new_service_do_not() {
    use {BackendState as State, Health::Down, Health::Up};
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let slow = |service: &mut Service| service.slow_start = Some(Duration::from_secs(90));
    let mut pool = pool_with(slow, &[(false, Up), (false, Up), (false, Down)]);
    let portions = |pool: &Pool| -> Vec<u8> {
        pool.wanted()[0].backends.iter().map(|backend| backend.portion).collect()
    };
    pool.decide_at(now);
    assert_eq!(portions(&pool), [100, 100, 100], "the service is new");
    assert!(!pool.is_due(at(1000)), "nothing is on its way");

    let ids: Vec<TargetId> = pool.targets().into_iter().map(|(target, _)| target.id).collect();
    let report = |id: &TargetId, health| {
        let transition = Some("it said so".to_owned());
        Report { id: id.clone(), health, transition, latency: None, trouble: None }
    };
    pool.report(report(&ids[2], Up), Instant::now());
    pool.decide_at(now);
    assert_eq!(portions(&pool), [100, 100, 10], "it had been down");
    let reason = &pool.known(&ids[2]).unwrap().condition.reason;
    assert_eq!(reason, "health check: it said so; slow start, 10 %");
    assert!(!pool.is_due(at(9)));
    assert!(pool.is_due(at(10)));
    assert_eq!(pool.decide_at(at(45)), [], "a step is not another state");
    assert_eq!(portions(&pool), [100, 100, 50]);
    assert!(!pool.is_due(at(49)) && pool.is_due(at(50)));

    // A backend that fails during its slow start begins anew. One that the operator drained is cold, too.
    pool.report(report(&ids[2], Down), Instant::now());
    pool.effective.services[0].backends[1].admin = AdminState::Draining;
    pool.decide_at(at(50));
    assert_eq!(states(&pool)[1].0, State::Draining);
    pool.report(report(&ids[2], Up), Instant::now());
    pool.effective.services[0].backends[1].admin = AdminState::Enabled;
    pool.decide_at(at(60));
    assert_eq!(portions(&pool), [100, 10, 10]);
    pool.decide_at(at(150));
    assert_eq!(portions(&pool), [100, 100, 100]);
    assert!(!pool.is_due(at(1000)));

    // A backend that is added to an existing service. Without slow start, it has its full share at once.
    for (slow_start, portion) in [(Some(Duration::from_secs(90)), 10), (None, 100)] {
        let mut pool = pool.clone();
        let mut effective = pool.effective().clone();
        effective.services[0].service.slow_start = slow_start;
        let address = "198.51.100.19:80".parse().unwrap();
        let backend = Backend::new(address, 100);
        let added = EffectiveBackend {
            backend,
            admin: AdminState::Enabled,
            origin: Origin::Runtime,
            is_leaving: false,
        };
        effective.services[0].backends.push(added);
        pool.set_effective(effective, &Tables::default(), at(200));
        let Hop::Known(hop) = known() else { unreachable!() };
        pool.set_next_hop(address.ip(), Ok(hop));
        pool.decide_at(at(200));
        pool.report(report(&TargetId::of_web(address), Up), Instant::now());
        pool.decide_at(at(201));
        assert_eq!(portions(&pool), [100, 100, 100, portion]);
    }
}

#[test]
fn a_backend_whose_flows_fail_is_ejected_tried_and_used_again() {
    use datapath::BackendState as Tables;
    use {BackendState as State, Health::Up};
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let breaker = model::CircuitBreaker {
        open: Duration::from_secs(10),
        window: Duration::from_secs(5),
        failure_percent: Some(50),
        ..model::CircuitBreaker::default()
    };
    let mut pool = pool_with(|service| service.circuit_breaker = Some(breaker), &[(false, Up); 3]);
    assert!(pool.watches_flows());
    assert!(!count(&mut pool, &[[0; 3]; 3], at(0)));
    assert!(count(&mut pool, &[[100, 100, 0], [100, 100, 90], [100, 0, 100]], at(1)));
    let told: Vec<_> =
        pool.decide_at(at(1)).into_iter().map(|it| (it.id.backend.ip(), it.now.state)).collect();
    assert_eq!(told, [("198.51.100.13".parse::<IpAddr>().unwrap(), State::Ejected)], "half of three is one");
    assert_eq!(states(&pool)[2], (State::Ejected, Tables::Failing));
    let ids: Vec<TargetId> = pool.targets().into_iter().map(|(target, _)| target.id).collect();
    let reason = |pool: &Pool, place: usize| pool.known(&ids[place]).unwrap().condition.reason.clone();
    assert!(
        reason(&pool, 2)
            .starts_with("circuit breaker: 100 % of 100 new flows were reset or not answered; open for ")
    );
    assert!(reason(&pool, 1).contains("90 % of 100 new flows were reset or not answered; not ejected"));

    // The second has recovered by now. The third gets its trial without further input.
    assert!(!pool.is_due(at(8)));
    assert!(pool.is_due(at(11)));
    count(&mut pool, &[[200, 200, 90], [200, 200, 90], [100, 0, 100]], at(11));
    pool.decide_at(at(11));
    assert!(!reason(&pool, 1).contains("ejected"));
    assert_eq!(states(&pool)[2], (State::HalfOpen, Tables::Up));
    assert_eq!(pool.wanted()[0].backends[2].portion, 10);
    count(&mut pool, &[[200, 200, 90], [200, 200, 90], [100, 0, 100]], at(11));
    count(&mut pool, &[[300, 300, 90], [300, 300, 90], [106, 0, 106]], at(12));
    pool.decide_at(at(12));
    assert_eq!(states(&pool)[2].0, State::Ejected, "it failed its trial");

    pool.decide_at(at(40));
    assert_eq!(states(&pool)[2].0, State::HalfOpen);
    assert!(pool.is_due(at(45)));
    pool.decide_at(at(45));
    assert_eq!(states(&pool)[2], (State::Up, Tables::Up));
    assert_eq!(pool.wanted()[0].backends[2].portion, 100);
}

#[test]
fn a_backend_whose_circuit_closes_continues_its_slow_start_from_its_trial() {
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let policy = |service: &mut Service| {
        service.slow_start = Some(Duration::from_secs(90));
        service.circuit_breaker = Some(model::CircuitBreaker {
            open: Duration::from_secs(10),
            window: Duration::from_secs(5),
            half_open_portion: 25,
            ..model::CircuitBreaker::default()
        });
    };
    let mut pool = pool_with(policy, &[(false, Health::Up); 2]);
    pool.decide_at(at(0));
    set_health_at(&mut pool, Health::Down, at(1));
    set_health_at(&mut pool, Health::Up, at(2));
    let portion = |pool: &Pool| pool.wanted()[0].backends[1].portion;
    pool.decide_at(at(12));
    assert_eq!((states(&pool)[1].0, portion(&pool)), (BackendState::HalfOpen, 25));
    pool.decide_at(at(17));
    assert_eq!((states(&pool)[1].0, portion(&pool)), (BackendState::Up, 30));
    assert!(pool.is_due(at(27)), "the next step comes by itself");
    pool.decide_at(at(27));
    assert_eq!(portion(&pool), 40);
    pool.decide_at(at(17 + 70));
    assert_eq!(portion(&pool), 100);
}

#[test]
fn an_ejected_backend_does_not_count_as_up_and_takes_flows_in_panic() {
    use datapath::BackendState as Tables;
    use {BackendState as State, Health::Down, Health::Up};
    let now = Instant::now();
    let policy = |service: &mut Service| {
        service.panic_threshold = 50;
        let failure_percent = Some(50);
        let default = model::CircuitBreaker::default();
        service.circuit_breaker = Some(model::CircuitBreaker { failure_percent, ..default });
    };
    let mut pool = pool_with(policy, &[(false, Up); 4]);
    count(&mut pool, &[[0; 3]; 4], now);
    count(&mut pool, &[[100, 0, 0]; 4], now + Duration::from_secs(1));
    count(&mut pool, &[[100, 0, 0]; 4], now + Duration::from_secs(2));
    pool.decide_at(now + Duration::from_secs(2));
    let ejected = states(&pool).iter().filter(|state| state.0 == State::Ejected).count();
    assert_eq!(ejected, 2, "as many as the threshold lets go");
    set_health(&mut pool, &[(false, Up), (false, Up), (false, Down), (false, Up)]);
    assert!(states(&pool).iter().all(|state| state.1 == Tables::Up), "{:?}", states(&pool));
    assert!(pool.panic("web").is_some());
}

#[test]
fn a_backup_that_is_needed_takes_its_whole_share_at_once() {
    use {Health::Down, Health::Up};
    let slow = |service: &mut Service| service.slow_start = Some(Duration::from_secs(90));
    let mut pool = pool_with(slow, &[(false, Up), (true, Up)]);
    set_health(&mut pool, &[(false, Down), (true, Up)]);
    let portions: Vec<u8> = pool.wanted()[0].backends.iter().map(|backend| backend.portion).collect();
    assert_eq!(portions, [100, 100]);
}

#[test]
fn a_new_backend_waits_for_its_agent_and_one_that_cannot_be_asked_changes_nothing() {
    use {BackendState as State, Health::Up};
    let now = Instant::now();
    let mut pool = pool_with(with_agent, &[(false, Up); 2]);
    assert_eq!(states(&pool)[0].0, State::Checking);
    assert!(pool.is_pending());
    agents_say(&mut pool, &[None, part(50)], now);
    assert_eq!(states(&pool), [(State::Up, datapath::BackendState::Up); 2]);
    let reason = |pool: &Pool, place: usize| pool.known(&ids(pool)[place]).unwrap().condition.reason.clone();
    let words = "health check: it said so; its agent is unreachable: connection refused";
    assert_eq!(reason(&pool, 0), words);
    pool.weigh(now);
    assert_eq!(weights(&pool), [10_000, 5_000]);

    // Nor does a backend that no longer exists.
    agents_say(&mut pool, &[None, None], now + Duration::from_secs(60));
    assert_eq!(pool.weigh(now + Duration::from_secs(60)), []);
    assert_eq!(weights(&pool), [10_000, 5_000]);
    assert_eq!(states(&pool)[1].0, State::Up);
}

#[test]
fn an_agent_takes_its_backend_out_and_back_independently_of_operator_and_check() {
    use {BackendState as State, Health::Down, Health::Up};
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let mut pool = pool_with(with_agent, &[(false, Up); 2]);
    let second = |pool: &Pool| states(pool)[1];
    agents_say(&mut pool, &[part(100), says(AgentAdmin::Drain)], now);
    assert_eq!(second(&pool), (State::Draining, datapath::BackendState::Draining));
    // A failed check has precedence, and the panic threshold does not affect drained backends.
    set_health(&mut pool, &[(false, Up), (false, Down)]);
    assert_eq!(second(&pool).0, State::Down);
    set_health(&mut pool, &[(false, Up), (false, Up)]);
    assert_eq!(second(&pool).0, State::Draining);

    let down = AgentReply { operation: Some(AgentOperation::Down), ..AgentReply::default() };
    agents_say(&mut pool, &[part(100), Some(down)], at(20));
    assert_eq!(second(&pool), (State::Down, datapath::BackendState::Failing));
    // A backend that the operator drains keeps its flows, whatever the agent reports.
    pool.effective.services[0].backends[1].admin = AdminState::Draining;
    pool.decide_at(at(20));
    assert_eq!(second(&pool), (State::Draining, datapath::BackendState::Draining));
    let well = AgentReply {
        admin: Some(AgentAdmin::Ready),
        operation: Some(AgentOperation::Up),
        ..AgentReply::default()
    };
    agents_say(&mut pool, &[part(100), Some(well)], at(40));
    assert_eq!(second(&pool).0, State::Draining, "the operator wins");
    pool.effective.services[0].backends[1].admin = AdminState::Enabled;
    pool.decide_at(at(40));
    assert_eq!(second(&pool).0, State::Up);
}

#[test]
fn a_backend_drained_by_its_agent_is_not_used_in_panic_and_starts_slowly_afterwards() {
    use {BackendState as State, Health::Down, Health::Up};
    let now = Instant::now();
    let policy = |service: &mut Service| {
        with_agent(service);
        service.panic_threshold = 50;
        service.slow_start = Some(Duration::from_secs(90));
    };
    let mut pool = pool_with(policy, &[(false, Up); 3]);
    agents_say(&mut pool, &[part(100), part(100), says(AgentAdmin::Maint)], now);
    set_health(&mut pool, &[(false, Down), (false, Down), (false, Down)]);
    let panic = [State::Panic, State::Panic, State::Down];
    assert_eq!(states(&pool).iter().map(|state| state.0).collect::<Vec<_>>(), panic);
    set_health(&mut pool, &[(false, Up); 3]);

    let back = Instant::now() + Duration::from_secs(20);
    pool.decide_at(back);
    agents_say(&mut pool, &[part(100), part(100), says(AgentAdmin::Ready)], back);
    let known = pool.known(&ids(&pool)[2]).unwrap();
    assert_eq!((known.condition.state, known.portion), (State::Up, 10));
}

#[test]
fn a_transition_is_reported_once() {
    let now = Instant::now();
    let mut pool = Pool::new(&Tables::default());
    let mut web = service(Probe::Tcp);
    web.backends.push(backend(100, AdminState::Enabled));
    pool.set_effective(Effective { services: vec![web] }, &Tables::default(), now);
    let states = |transitions: Vec<Transition>| {
        transitions.into_iter().map(|it| (it.before, it.now.state)).collect::<Vec<_>>()
    };
    assert_eq!(states(pool.decide_at(now)), [(None, BackendState::Unresolved)]);
    assert_eq!(states(pool.decide_at(now)), []);
    let Hop::Known(next_hop) = known() else { unreachable!() };
    pool.set_next_hop("198.51.100.11".parse().unwrap(), Ok(next_hop));
    assert_eq!(states(pool.decide_at(now)), [(Some(BackendState::Unresolved), BackendState::Checking)]);
    assert_eq!(states(pool.decide_at(now)), []);
}

#[test]
fn a_backend_whose_packets_would_be_lost_is_not_up_and_says_why() {
    let up = Known::new(Health::Up, false, Instant::now());
    let service = service(Probe::None);
    let backend = backend(100, AdminState::Enabled);
    let decided = |hop: Option<Hop>, loses| condition(&service, &backend, &up, hop.as_ref(), loses);
    let lost = decided(Some(known()), Some("eth1 takes no redirected frames"));
    assert_eq!(lost.state, BackendState::Unresolved);
    assert_eq!(lost.reason, "packets to it are lost: eth1 takes no redirected frames");
    assert_eq!(decided(Some(known()), None).state, BackendState::Up);
}
