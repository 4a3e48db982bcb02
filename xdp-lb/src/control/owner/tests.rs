use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_common::net::Address;
use xdp_lb_common::tables::BackendIndex;

use super::*;
use crate::config;
use crate::control::census;
use crate::control::testing::{Daemon, InMemory, TWO_SERVICES, address, write_config};
use crate::health::{AgentAdmin, AgentReply, Health};
use crate::model::request::{BackendPatch, ServicePatch};
use crate::model::state::{AdminState, BackendState};
use crate::model::{self, Attach};
use crate::net::vips::VipIntent;
use crate::report::documents::{BackendView, ConfigQuery, StatusView, TroubleView};
use crate::tables::{Tables, Write};

#[tokio::test]
async fn a_backend_takes_flows_once_it_is_resolved_and_checked() {
    let daemon = Daemon::start(TWO_SERVICES);
    let first = &daemon.until("web", |_| true).await[0];
    assert_eq!(first.state, BackendState::Unresolved);
    daemon.next_hop("198.51.100.11", Ok(11)).await;
    daemon.until("web", |backends| backends[0].state == BackendState::Checking).await;
    assert!(daemon.kernel.lock().tables.rings.is_empty());
    daemon.report("web", "198.51.100.11:8080", Health::Up, "the first check succeeded").await;
    let backends = daemon.until("web", |backends| backends[0].state == BackendState::Up).await;
    assert_eq!((backends[0].share, backends[1].share), (1.0, 0.0));
    assert_eq!(backends[0].reason, "health check: the first check succeeded");
    assert_eq!(backends[0].next_hop.as_ref().unwrap().interface, "eth0");
    assert_eq!(daemon.watched.lock().unwrap().len(), 3);
    assert_eq!(daemon.targets.lock().unwrap().len(), 3);
    assert_eq!(daemon.kernel.lock().zeroed.len(), 3, "counters of new places begin at zero");
}

#[tokio::test]
async fn a_backend_goes_down_with_its_check_or_its_next_hop_and_says_why() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    daemon.report("web", "198.51.100.11:8080", Health::Down, "connection refused, 3 in a row").await;
    let backends = daemon.until("web", |backends| backends[0].state == BackendState::Down).await;
    assert_eq!(
        backends[0].reason,
        "health check: connection refused, 3 in a row; established flows are kept while it answers"
    );
    assert_eq!((backends[0].share, backends[1].share), (0.0, 1.0));
    daemon.next_hop("198.51.100.12", Err("no route to 198.51.100.12")).await;
    let backends = daemon.until("web", |backends| backends[1].state == BackendState::Unresolved).await;
    assert_eq!(backends[1].reason, "no next hop: no route to 198.51.100.12; established flows are kept");
    let status = daemon.handle.status().await.unwrap();
    let web = status.services.iter().find(|service| service.name == "web").unwrap();
    assert_eq!((web.backends, web.backends_serving, web.ring_slots), (2, 0, 1016));
}

#[tokio::test]
async fn a_service_s_counters_are_its_backends_and_keep_those_of_backends_that_are_gone() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let carried = async || {
        let services = daemon.handle.services().await.unwrap();
        services.iter().find(|service| service.name == "web").unwrap().traffic.packets_in
    };
    // Each backend has counted as many packets as its number.
    let indices: Vec<u64> = {
        let memory = daemon.kernel.lock();
        let web = memory.tables.services.values().find(|service| service.ring_len > 1).unwrap().index;
        let of_web = memory.tables.backends.iter().filter(|(_, backend)| backend.service == web);
        of_web.map(|(index, _)| index.0.into()).collect()
    };
    let sum = indices.iter().sum::<u64>();
    assert_eq!((indices.len(), carried().await), (2, sum));
    daemon.handle.remove_backend("web".into(), address("198.51.100.11:8080"), Leave::Now).await.unwrap();
    assert_eq!(daemon.until("web", |_| true).await.len(), 1);
    assert_eq!(carried().await, sum);
}

#[tokio::test]
async fn a_restart_writes_nothing_where_nothing_changed() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let before = daemon.kernel.lock().tables.clone();
    let daemon = daemon.restart(TWO_SERVICES).await;
    let backends = daemon.until("web", |_| true).await;
    assert!(backends.iter().all(|backend| backend.state == BackendState::Up), "{backends:?}");
    // The resolver and the checks find what the earlier daemon had found.
    daemon.all_up().await;
    tokio::time::sleep(TICK + Duration::from_millis(100)).await;
    daemon.until("web", |_| true).await;
    assert_eq!(daemon.kernel.lock().applied, Vec::<Vec<Write>>::new());
    assert_eq!(daemon.kernel.lock().tables, before);
    assert!(daemon.targets.lock().unwrap().iter().all(|(_, health)| *health == Health::Up));
}

#[tokio::test]
async fn a_backend_that_was_down_before_a_restart_is_checked_first() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    daemon.report("web", "198.51.100.11:8080", Health::Down, "connection refused").await;
    daemon.until("web", |backends| backends[0].state == BackendState::Down).await;
    let daemon = daemon.restart(TWO_SERVICES).await;
    daemon.until("web", |backends| backends[0].state == BackendState::Checking).await;
    assert_eq!(daemon.kernel.slots_written(), []);
}

#[tokio::test]
async fn a_backend_drained_by_its_agent_stays_drained_over_a_restart_until_the_agent_changes_it() {
    let config = TWO_SERVICES.replacen(
        "vip = \"192.0.2.10:80\"",
        "vip = \"192.0.2.10:80\"\nagent = { port = 8081 }\nfeedback = { hold = \"1s\" }",
        1,
    );
    let daemon = Daemon::start(&config);
    let (first, second) = ("198.51.100.11:8080", "198.51.100.12:8080");
    let drain = AgentReply { admin: Some(AgentAdmin::Drain), ..AgentReply::default() };
    let half = AgentReply { admin: Some(AgentAdmin::Ready), percent: Some(50), ..AgentReply::default() };
    daemon.agent(first, AgentReply::default()).await;
    daemon.agent(second, AgentReply::default()).await;
    daemon.all_up().await;
    daemon.agent(first, drain).await;
    let is_draining = |backends: &[BackendView]| backends[0].state == BackendState::Draining;
    let backends = daemon.until("web", is_draining).await;
    assert_eq!((backends[0].share, backends[0].reason.as_str()), (0.0, "agent: drain"));
    assert_eq!(backends[0].agent.as_ref().unwrap().admin, AgentAdmin::Drain);

    let daemon = daemon.restart(&config).await;
    let backends = daemon.until("web", |_| true).await;
    assert_eq!(
        (backends[0].state, backends[0].share),
        (BackendState::Draining, 0.0),
        "{}",
        backends[0].reason
    );
    assert_eq!(daemon.kernel.lock().applied, Vec::<Vec<Write>>::new());
    for number in 11..=13 {
        daemon.next_hop(&format!("198.51.100.{number}"), Ok(number)).await;
    }
    let events = daemon.handle.watch(None).unwrap();
    daemon.agent(first, half.clone()).await;
    daemon.agent(second, AgentReply::default()).await;
    let backends = daemon.until("web", |backends| (0.3..0.4).contains(&backends[0].share)).await;
    assert_eq!((backends[0].weight, backends[0].weight_ratio), (100, 0.5));
    // And more later, once in a while, which is told.
    daemon.agent(first, AgentReply { percent: Some(25), ..half }).await;
    daemon.until("web", |backends| (0.15..0.25).contains(&backends[0].share)).await;
    let mut events = events;
    let weight = loop {
        let event = events.next().await.unwrap();
        if event.event.name() == "weight" && event.event.to_string().contains(" 25 % ") {
            break event.event.to_string();
        }
    };
    assert_eq!(
        weight,
        "service web: backend 198.51.100.11:8080: 25 % of its weight 100: agent: ready up 25%"
    );
}

#[tokio::test]
async fn a_drain_keeps_flows_survives_a_restart_and_reports_how_many_are_left() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let patch = BackendPatch::admin(AdminState::Draining);
    let first = address("198.51.100.11:8080");
    daemon.handle.patch_backend("web".into(), first, patch).await.unwrap();
    let backends = daemon.until("web", |backends| backends[0].state == BackendState::Draining).await;
    assert_eq!(backends[0].reason, "drained by the operator");
    assert_eq!((backends[0].share, backends[1].share), (0.0, 1.0));
    let index = {
        let memory = daemon.kernel.lock();
        let draining = |backend: &xdp_lb_common::tables::Backend| {
            backend.state == xdp_lb_common::tables::BackendState::Draining
        };
        *memory.tables.backends.iter().find(|(_, backend)| draining(backend)).unwrap().0
    };
    daemon.kernel.lock().live.insert(index, 5);
    daemon.until("web", |backends| backends[0].flows == 5).await;
    daemon.kernel.lock().live.clear();
    let begin = Instant::now();
    daemon.until("web", |backends| backends[0].flows == 0).await;
    assert!(begin.elapsed() < 5 * census::FRESH, "whoever waits for a drain hears of it soon");

    let daemon = daemon.restart(TWO_SERVICES).await;
    daemon.until("web", |backends| backends[0].state == BackendState::Draining).await;
    assert_eq!(daemon.kernel.slots_written(), []);
}

#[tokio::test]
async fn a_drain_counts_the_flows_again_and_a_failed_count_is_not_zero() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let drain = BackendPatch::admin(AdminState::Draining);
    let (first, second) = (address("198.51.100.11:8080"), address("198.51.100.12:8080"));
    // A drain of another backend has the flows counted, a moment before.
    daemon.handle.patch_backend("web".into(), second, drain.clone()).await.unwrap();
    daemon.until("web", |backends| backends[1].flows == 0).await;
    let indices: Vec<_> = daemon.kernel.lock().tables.backends.keys().copied().collect();
    daemon.kernel.lock().live.extend(indices.iter().map(|index| (*index, 3)));
    daemon.handle.patch_backend("web".into(), first, drain).await.unwrap();
    let backends = daemon.handle.backends(Some("web".into())).await.unwrap();
    assert_eq!(backends[0].flows, 3, "the count is not that of before the drain");

    daemon.kernel.lock().counts = false;
    tokio::time::sleep(census::FRESH).await;
    let refused = daemon.handle.backends(Some("web".into())).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Failed(why) if why.contains("the kernel is busy")), "{refused}");
    daemon.kernel.lock().counts = true;
    // The next count is a moment later.
    let counted = async || loop {
        match daemon.handle.backends(Some("web".into())).await {
            Ok(backends) => break backends,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let backends = tokio::time::timeout(Duration::from_secs(20), counted()).await.expect("a count");
    assert_eq!(backends[0].flows, 3);
}

#[tokio::test]
async fn a_long_count_of_flows_delays_no_request_and_no_drain_ends_before_it() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    daemon.until("web", |_| daemon.kernel.lock().censuses > 0).await;
    daemon.kernel.lock().count_takes = Duration::from_secs(2);
    let first = address("198.51.100.11:8080");
    let began = Instant::now();
    daemon
        .handle
        .patch_backend("web".into(), first, BackendPatch::admin(AdminState::Draining))
        .await
        .unwrap();
    let backends = daemon.handle.backends(Some("web".into())).await.unwrap();
    assert_eq!((backends[0].flows, backends[0].flows_known_in_seconds), (0, Some(1)));
    assert_eq!(daemon.kernel.lock().censuses, 2, "it is under way");
    // What fails meanwhile is out at once.
    daemon.report("web", "198.51.100.12:8080", Health::Down, "connection refused").await;
    daemon.until("web", |backends| backends[1].state == BackendState::Down).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    daemon.until("web", |backends| backends[0].flows_known_in_seconds.is_none()).await;
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_a_drain_has_the_flows_counted_more_often() {
    let daemon = Daemon::start(TWO_SERVICES);
    let asked = async || {
        let before = daemon.kernel.lock().censuses;
        tokio::time::sleep(census::FRESH).await;
        daemon.handle.backends(None).await.unwrap();
        daemon.handle.is_pending().await.unwrap();
        daemon.kernel.lock().censuses - before
    };
    daemon.handle.backends(None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let first = address("198.51.100.11:8080");
    daemon.handle.patch_backend("web".into(), first, BackendPatch::of("weight", 0)).await.unwrap();
    assert_eq!(asked().await, 0, "weight 0 is not a drain");
    daemon
        .handle
        .patch_backend("web".into(), first, BackendPatch::admin(AdminState::Draining))
        .await
        .unwrap();
    assert_eq!(asked().await, 1);
}

#[tokio::test]
async fn the_first_checks_are_pending_until_all_have_ended() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.next_hop("198.51.100.11", Ok(11)).await;
    daemon.until("web", |backends| backends[0].state == BackendState::Checking).await;
    assert_eq!(daemon.handle.is_pending().await, Ok(true));
    daemon.all_up().await;
    assert_eq!(daemon.handle.is_pending().await, Ok(false));
}

#[tokio::test]
async fn first_checks_that_end_one_after_another_make_one_ring_that_is_settled() {
    // On a busy machine they may end further apart than they are waited for: that says nothing.
    for _ in 0..20 {
        let begin = Instant::now();
        let daemon = Daemon::start(TWO_SERVICES);
        for number in [11, 12] {
            daemon.next_hop(&format!("198.51.100.{number}"), Ok(number)).await;
            daemon.report("web", &format!("198.51.100.{number}:8080"), Health::Up, "it answers").await;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let is_in_time = begin.elapsed() < GATHERING;
        daemon
            .until("web", |backends| backends.iter().all(|backend| backend.state == BackendState::Up))
            .await;
        if is_in_time {
            let tables = daemon.kernel.clone().read().unwrap();
            assert!(tables.rings.values().flatten().all(|slot| !slot.is_tracked()), "a slot moves");
            return;
        }
    }
    panic!("never were two checks told of within {GATHERING:?}");
}

#[tokio::test]
async fn a_change_that_cannot_be_saved_does_not_happen() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    // A directory where the file is to be: renaming onto it fails, for root too.
    fs::create_dir_all(daemon.directory.path().join("state.json/x")).unwrap();
    let patch = BackendPatch::of("weight", 7);
    let first = address("198.51.100.11:8080");
    let refused = daemon.handle.patch_backend("web".into(), first, patch).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Failed(why) if why.contains("nothing was changed")), "{refused}");
    assert_eq!(daemon.until("web", |_| true).await[0].weight, 100);
    assert_eq!(daemon.kernel.lock().applied.len(), 0);
}

#[tokio::test]
async fn a_change_that_does_not_fit_is_refused_and_not_saved() {
    let daemon = Daemon::start_with(tempfile::tempdir().unwrap(), InMemory::new(370), TWO_SERVICES).unwrap();
    daemon.all_up().await;
    let mut service = config::load(&daemon.config_file()).unwrap().services.remove(0);
    service.name = "more".into();
    service.vip = address("192.0.2.11:80").into();
    service.health_check = Some(model::HealthCheck::new(model::Probe::None));
    let refused = daemon.handle.add_service(service).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Conflict(why) if why.contains("limits.slots = 370")), "{refused}");
    assert!(!daemon.directory.path().join("state.json").exists());
    assert_eq!(daemon.handle.services().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_bad_config_file_changes_nothing() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    for bad in [
        "interfaces = 3",
        &TWO_SERVICES.replace("[[service.backend]]\naddress = \"198.51.100.13:8443\"", "port = 1"),
    ] {
        write_config(&daemon.config_file(), bad);
        let refused = daemon.handle.reload(Leave::Drain).await.unwrap_err();
        assert!(matches!(refused, Refusal::Invalid(_)), "{refused}");
    }
    write_config(
        &daemon.config_file(),
        &TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"eth1\", \"missing\"]"),
    );
    let planned = daemon.handle.plan_reload(Leave::Drain).await.map(drop);
    for refused in [planned, daemon.handle.reload(Leave::Drain).await.map(drop)] {
        assert_eq!(
            refused,
            Err(Refusal::Invalid(
                "nothing was changed: interface missing does not exist: create it, or correct `interfaces`"
                    .into()
            ))
        );
    }
    // One that is there, and refuses the program, is known by trying.
    daemon.kernel.lock().foreign.insert("eth1".into());
    write_config(&daemon.config_file(), &TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]"));
    let refused = daemon.handle.reload(Leave::Drain).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Failed(why) if why.contains("eth1")), "{refused}");
    assert_eq!(daemon.kernel.lock().attached_names(), ["eth0"]);
    assert_eq!(daemon.kernel.lock().applied.len(), 0);
    assert_eq!(daemon.handle.backends(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_reload_changes_what_changed_and_no_slot_of_another_service() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let api = daemon
        .kernel
        .lock()
        .tables
        .services
        .iter()
        .find(|(vip, _)| vip.port.get() == 443)
        .map(|(_, api)| *api)
        .unwrap();
    let new = TWO_SERVICES
        .replace("address = \"198.51.100.12:8080\"", "address = \"198.51.100.12:8080\"\nweight = 300")
        .replace("[\"eth0\"]", "[\"eth1\"]\nattach = \"tc\"\ntimeouts.udp_idle = \"5s\"");
    write_config(&daemon.config_file(), &new);
    let reloaded = daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(reloaded.needs_restart, ["attach"]);
    let changes = reloaded.changes.join("\n");
    for change in ["weight 100 -> 300", "interfaces eth0 -> eth1", "timeouts.udp_idle 1m -> 5s"] {
        assert!(changes.contains(change), "{changes}");
    }
    assert_eq!(daemon.kernel.lock().attached_names(), ["eth1"]);
    assert_eq!(daemon.kernel.lock().policy.as_ref().unwrap().timeouts.udp_idle, Duration::from_secs(5));
    let backends = daemon.until("web", |_| true).await;
    assert!((backends[1].share - 0.75).abs() < 0.01, "{}", backends[1].share);
    let slots = daemon.kernel.slots_written();
    let of_api = api.ring_offset.0..api.ring_offset.0 + api.ring_len;
    assert!(!slots.is_empty() && slots.iter().all(|(at, _)| !of_api.contains(at)), "{slots:?}");
    assert_eq!(daemon.handle.reload(Leave::Drain).await.unwrap().changes, Vec::<String>::new());
}

#[tokio::test]
async fn a_plan_changes_nothing_and_tells_the_slots_that_the_reload_moves() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let owners = |daemon: &Daemon| -> Vec<BackendIndex> {
        let memory = daemon.kernel.lock();
        let (_, web) = memory.tables.services.iter().find(|(vip, _)| vip.port.get() == 80).unwrap();
        memory.tables.ring(web).iter().map(|slot| slot.owner()).collect()
    };
    let before = owners(&daemon);
    let new = TWO_SERVICES
        .replace("address = \"198.51.100.12:8080\"", "address = \"198.51.100.12:8080\"\nweight = 300")
        .replace("port = 1", "")
        .replace(
            "198.51.100.11:8080\"",
            "198.51.100.11:8080\"\n[[service.backend]]\naddress = \"198.51.100.14:8080\"",
        );
    write_config(&daemon.config_file(), &new);
    let planned = daemon.handle.plan_reload(Leave::Drain).await.unwrap();
    assert_eq!(
        planned.changes,
        [
            "service web: backend 198.51.100.12:8080 weight 100 -> 300",
            "service web: backend 198.51.100.14:8080 added, weight 100",
        ]
    );
    assert_eq!(planned.services.len(), 1, "{planned:?}");
    assert_eq!(daemon.kernel.lock().applied.len(), 0, "a plan is not a change");
    assert_eq!(daemon.handle.backends(None).await.unwrap().len(), 3);

    let reloaded = daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(reloaded.changes, planned.changes);
    daemon.next_hop("198.51.100.14", Ok(14)).await;
    daemon.report("web", "198.51.100.14:8080", Health::Up, "the first check succeeded").await;
    daemon.until("web", |backends| backends.iter().all(|backend| backend.state == BackendState::Up)).await;
    let after = owners(&daemon);
    // A longer ring inherits slot by slot.
    let stretch = after.len() / before.len();
    let moved =
        after.iter().enumerate().filter(|(place, owner)| before[place / stretch] != **owner).count() as u32;
    let slots = planned.services[0].slots.unwrap();
    assert_eq!((slots.moving, slots.of), (moved, after.len() as u32));
    assert!(moved > 0);
    assert_eq!(
        daemon.handle.plan_reload(Leave::Drain).await.unwrap(),
        crate::report::documents::ReloadView::default()
    );
}

#[tokio::test]
async fn only_a_restart_allows_checks_by_programs() {
    let daemon = Daemon::start(TWO_SERVICES);
    let allowed = format!("allow_exec_checks = true\n{TWO_SERVICES}");
    write_config(&daemon.config_file(), &allowed);
    let reloaded = daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(reloaded.needs_restart, ["allow_exec_checks"]);
    write_config(
        &daemon.config_file(),
        &format!("{allowed}[service.health_check]\ntype = \"exec\"\ncommand = [\"/bin/check\"]\n"),
    );
    for refused in [
        daemon.handle.reload(Leave::Drain).await.unwrap_err(),
        daemon.handle.plan_reload(Leave::Drain).await.unwrap_err(),
    ] {
        let refused = refused.to_string();
        assert!(refused.contains("nothing was changed") && refused.contains("restart it"), "{refused}");
    }
}

#[tokio::test]
async fn a_plan_that_a_reload_would_refuse_is_refused() {
    let daemon = Daemon::start(TWO_SERVICES);
    let backends: String = (20..100)
        .map(|host| format!("[[service.backend]]\naddress = \"198.51.100.{host}:8443\"\n"))
        .collect();
    let larger = TWO_SERVICES.replace("backends = 64", "backends = 640");
    write_config(&daemon.config_file(), &format!("{larger}{backends}"));
    let planned = daemon.handle.plan_reload(Leave::Drain).await.unwrap_err();
    assert!(planned.to_string().contains("limits.backends = 64"), "{planned}");
    assert_eq!(daemon.handle.reload(Leave::Drain).await.unwrap_err(), planned);
    write_config(&daemon.config_file(), "interfaces = 3");
    assert!(matches!(daemon.handle.plan_reload(Leave::Drain).await.unwrap_err(), Refusal::Invalid(_)));
}

#[tokio::test]
async fn a_service_under_another_name_keeps_serving() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    write_config(&daemon.config_file(), &TWO_SERVICES.replace("name = \"web\"", "name = \"www\""));
    daemon.handle.reload(Leave::Drain).await.unwrap();
    let backends = daemon.until("www", |_| true).await;
    assert!(backends.iter().all(|backend| backend.state == BackendState::Up), "{backends:?}");
    assert_eq!(backends[0].reason, "health check: the first check succeeded", "what was known is known");
    assert_eq!(daemon.kernel.slots_written(), []);
}

#[tokio::test]
async fn a_changed_protocol_is_a_new_service_and_the_former_one_drains_under_an_announced_name() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let other = "name = \"web\"\nprotocol = \"udp\"\nhealth_check = { type = \"dns\" }";
    write_config(&daemon.config_file(), &TWO_SERVICES.replace("name = \"web\"", other));
    let line =
        "service web: 192.0.2.10:80 tcp drains as service web-leaving, with 0 recorded flows, 0 packets/s";
    let planned = daemon.handle.plan_reload(Leave::Drain).await.unwrap();
    assert!(planned.changes.iter().any(|it| it == line), "{:?}", planned.changes);
    let at_once = daemon.handle.plan_reload(Leave::Now).await.unwrap();
    let ends = "service web: 192.0.2.10:80 tcp removed at once: this ends 0 recorded flows, 0 packets/s";
    assert!(at_once.changes.iter().any(|it| it == ends), "{:?}", at_once.changes);
    daemon.handle.reload(Leave::Drain).await.unwrap();
    for backend in &daemon.until("web", |_| true).await {
        assert_eq!((backend.state, &*backend.reason), (BackendState::Checking, "first health check pending"));
    }
    let former = daemon.until("web-leaving", |_| true).await;
    assert!(former.iter().all(|backend| backend.state == BackendState::Draining), "{former:?}");
    daemon.report("web", "198.51.100.11:8080", Health::Up, "the first check succeeded").await;
    daemon
        .until("web", |all| all[0].state == BackendState::Up && all[1].state == BackendState::Checking)
        .await;
}

#[tokio::test]
async fn a_write_that_fails_half_way_is_completed_after_reading_the_tables_back() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    daemon.kernel.lock().fails = true;
    let first = address("198.51.100.11:8080");
    let outcome = daemon.handle.remove_backend("web".into(), first, Leave::Now).await.unwrap();
    assert!(outcome.changed);
    assert!(
        outcome.message.contains("saved") && outcome.message.contains("no memory"),
        "{}",
        outcome.message
    );
    let trouble = daemon.handle.status().await.unwrap().trouble;
    assert!(trouble.as_ref().is_some_and(|trouble| trouble.contains("no memory")), "{trouble:?}");
    daemon.kernel.lock().fails = false;
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if daemon.handle.status().await.unwrap().trouble.is_none() {
            let memory = daemon.kernel.lock();
            assert_eq!(memory.tables.backends.len(), 2);
            let named = memory.tables.rings.values().flatten();
            assert!(named.into_iter().all(|slot| memory.tables.backends.contains_key(&slot.owner())));
            return;
        }
    }
    panic!("the tables were never made good");
}

#[tokio::test]
async fn a_change_undone_after_a_partial_write_leaves_no_trace() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let first = address("198.51.100.11:8080");
    let patch = BackendPatch::admin;
    daemon.kernel.lock().fails = true;
    daemon.handle.patch_backend("web".into(), first, patch(AdminState::Draining)).await.unwrap();
    daemon.kernel.lock().fails = false;
    daemon.handle.patch_backend("web".into(), first, patch(AdminState::Enabled)).await.unwrap();
    let memory = daemon.kernel.lock();
    let vip = memory.tables.services.keys().find(|vip| vip.port.get() == 80).unwrap();
    let ring = memory.tables.ring(&memory.tables.services[vip]);
    let owners: BTreeSet<BackendIndex> = ring.iter().map(|slot| slot.owner()).collect();
    let counts = owners.iter().map(|owner| ring.iter().filter(|slot| slot.owner() == *owner).count());
    assert!(
        counts.clone().all(|count| count.abs_diff(ring.len() / 2) <= 1),
        "{:?}",
        counts.collect::<Vec<_>>()
    );
}

/// The troubles' kinds.
async fn troubles(daemon: &Daemon) -> Vec<TroubleKind> {
    daemon.handle.status().await.unwrap().troubles.iter().map(|trouble| trouble.kind).collect()
}

/// Waits until this holds of the status.
async fn until_status(daemon: &Daemon, holds: impl Fn(&StatusView) -> bool) -> StatusView {
    for _ in 0..800 {
        let status = daemon.handle.status().await.unwrap();
        if holds(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came: {:?}", daemon.handle.status().await.unwrap());
}

#[tokio::test]
async fn a_recreated_interface_gets_the_program_again_and_its_old_link_is_removed() {
    let daemon = Daemon::start(TWO_SERVICES);
    let tell = |name: &str, index| Event::Interface { name: name.into(), index, up: true };
    daemon.events.send(tell("eth0", Some(1))).await.unwrap();
    daemon.kernel.lock().attached.clear();
    for event in [tell("eth0", None), tell("other", Some(4)), tell("eth0", Some(9))] {
        daemon.events.send(event).await.unwrap();
    }
    until_status(&daemon, |_| daemon.kernel.lock().attached == [(2, "eth0".to_owned())]).await;
    // Flows whose replies left by the old one go on.
    until_status(&daemon, |_| daemon.kernel.lock().moved == [(1, 2)]).await;
}

#[tokio::test]
async fn interfaces_that_swap_their_names_keep_the_program() {
    let daemon = Daemon::start(&TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]"));
    daemon.kernel.lock().attached = vec![(1, "eth1".into()), (2, "eth0".into())];
    for (name, index) in [("eth0", 2), ("eth1", 1)] {
        let event = Event::Interface { name: name.into(), index: Some(index), up: true };
        daemon.events.send(event).await.unwrap();
    }
    let indices = |status: &StatusView| -> Vec<_> { status.interfaces.iter().map(|it| it.index).collect() };
    until_status(&daemon, |status| indices(status) == [2, 1]).await;
    assert_eq!(daemon.kernel.lock().next_index, 2, "none was attached anew");
    assert_eq!(daemon.kernel.lock().moved, []);
}

#[tokio::test]
async fn a_renamed_interface_keeps_the_program_until_a_reload_without_it() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.kernel.lock().attached = vec![(1, "back0".into())];
    daemon.kernel.lock().missing.insert("eth0".into());
    daemon.events.send(Event::Interface { name: "eth0".into(), index: None, up: false }).await.unwrap();
    let status = until_status(&daemon, |status| status.interfaces[0].mode.is_none()).await;
    let note = status.interfaces[0].note.clone().unwrap();
    assert!(note.contains("renamed to back0") && note.contains("reload"), "{note}");
    assert_eq!(troubles(&daemon).await, [TroubleKind::Interfaces]);
    // It is tried again, and says the same.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(daemon.handle.status().await.unwrap().interfaces[0].note.as_ref(), Some(&note));
    write_config(&daemon.config_file(), &TWO_SERVICES.replace("eth0", "back0"));
    daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(daemon.kernel.lock().attached, [(1, "back0".to_owned())]);
    assert_eq!(troubles(&daemon).await, []);
    // Back to a name of another interface: now it goes.
    daemon.kernel.lock().missing.clear();
    write_config(&daemon.config_file(), TWO_SERVICES);
    daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(daemon.kernel.lock().attached_names(), ["eth0"]);
}

#[tokio::test]
async fn a_detached_program_is_attached_again_before_a_change_is_acknowledged() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    daemon.kernel.lock().attached.clear();
    let patch = BackendPatch::of("weight", 7);
    let first = address("198.51.100.11:8080");
    let outcome = daemon.handle.patch_backend("web".into(), first, patch).await.unwrap();
    assert_eq!(outcome.trouble, None);
    assert_eq!(daemon.kernel.lock().attached_names(), ["eth0"]);
    assert_eq!(daemon.handle.status().await.unwrap().restored, 1);
}

#[tokio::test]
async fn a_failed_attachment_is_reported_with_every_acknowledgement_until_it_succeeds() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    daemon.kernel.lock().attached.clear();
    daemon.kernel.lock().foreign.insert("eth0".into());
    let patch = BackendPatch::of("weight", 7);
    let first = address("198.51.100.11:8080");
    let outcome = daemon.handle.patch_backend("web".into(), first, patch).await.unwrap();
    let trouble = outcome.trouble.unwrap();
    assert!(trouble.contains("eth0: another XDP program is attached"), "{trouble}");
    let status = daemon.handle.status().await.unwrap();
    assert_eq!(status.interfaces[0].mode, None);
    assert_eq!(troubles(&daemon).await, [TroubleKind::Interfaces]);
    daemon.kernel.lock().foreign.clear();
    until_status(&daemon, |status| status.trouble.is_none() && status.interfaces[0].mode.is_some()).await;
}

#[tokio::test]
async fn missing_pins_are_restored_and_a_failure_is_a_trouble() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.kernel.lock().unpinned = vec!["SLOTS".into(), "link-native-1".into()];
    until_status(&daemon, |status| status.restored == 2 && status.trouble.is_none()).await;
    daemon.kernel.lock().unmounted = true;
    let status = until_status(&daemon, |status| status.trouble.is_some()).await;
    let TroubleView { kind: TroubleKind::Pins, message, .. } = &status.troubles[0] else {
        panic!("{status:?}")
    };
    assert!(message.contains("not on a BPF file system"), "{message}");
    assert_eq!(status.interfaces[0].mode, Some(Attach::Xdp));
    let refused = daemon.handle.upgrade().await.unwrap_err();
    assert!(
        matches!(&refused, Refusal::Failed(why) if why.contains("would end with this daemon")),
        "{refused}"
    );
    daemon.kernel.lock().unmounted = false;
    until_status(&daemon, |status| status.trouble.is_none()).await;
}

#[tokio::test]
async fn a_missing_program_at_tc_ingress_is_attached_again_or_the_interface_shows_why_not() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.kernel.lock().classifier_lost = Some("something else detached the program".into());
    let status = until_status(&daemon, |status| status.restored == 1).await;
    assert_eq!((status.trouble, status.interfaces[0].note.as_ref()), (None, None));
    daemon.kernel.lock().classifier_refused = true;
    let status = until_status(&daemon, |status| status.interfaces[0].note.is_some()).await;
    let note = status.interfaces[0].note.as_ref().unwrap();
    assert!(note.ends_with("packets to unresolved neighbours are lost: no memory for it"), "{note}");
    assert_eq!(status.interfaces[0].mode, Some(Attach::Xdp));
    daemon.kernel.lock().classifier_refused = false;
    until_status(&daemon, |status| status.interfaces[0].note.is_none()).await;
}

#[tokio::test]
async fn externally_changed_entries_are_restored_and_reported() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let right = daemon.kernel.lock().tables.clone();
    {
        let mut memory = daemon.kernel.lock();
        memory.tables.backends.values_mut().for_each(|backend| backend.ifindex = 77);
        memory.tables.replies.pop_first();
    }
    until_status(&daemon, |status| status.restored >= 4).await;
    assert_eq!(daemon.kernel.lock().tables, right);
    assert_eq!(troubles(&daemon).await, []);
}

#[tokio::test]
async fn if_one_interface_has_no_native_xdp_all_are_at_tc_ingress_at_the_start_and_after_a_reload() {
    let three = TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"br0\", \"eth1\"]");
    for reloaded in [false, true] {
        let daemon = Daemon::start(if reloaded { TWO_SERVICES } else { &three });
        if reloaded {
            write_config(&daemon.config_file(), &three);
            daemon.handle.reload(Leave::Drain).await.unwrap();
        }
        let interfaces = daemon.handle.status().await.unwrap().interfaces;
        assert!(interfaces.iter().all(|interface| interface.mode == Some(Attach::Tc)), "{interfaces:?}");
        let note = interfaces.iter().find(|interface| interface.name == "eth1").unwrap().note.clone();
        assert!(note.is_some_and(|note| note.contains("br0 is at TC ingress")), "{interfaces:?}");
    }
}

#[tokio::test]
async fn a_lost_interface_is_not_attached_and_is_tried_again() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.kernel.lock().missing.insert("eth0".into());
    for index in [None, Some(9)] {
        let event = Event::Interface { name: "eth0".into(), index, up: index.is_some() };
        daemon.events.send(event).await.unwrap();
    }
    let view = async || daemon.handle.status().await.unwrap().interfaces.remove(0);
    let until = async |mode| {
        for _ in 0..500 {
            let view = view().await;
            if view.mode == mode {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came: {:?}", view().await);
    };
    let lost = until(None).await;
    assert_eq!((lost.index, lost.up), (0, true));
    assert!(lost.note.unwrap().contains("interface eth0 does not exist"));
    daemon.kernel.lock().missing.clear();
    assert!(until(Some(Attach::Xdp)).await.note.is_none());
}

#[tokio::test]
async fn a_reload_attaches_where_that_had_failed() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.kernel.lock().missing.insert("eth0".into());
    daemon.events.send(Event::Interface { name: "eth0".into(), index: Some(9), up: true }).await.unwrap();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if daemon.handle.status().await.unwrap().interfaces[0].mode.is_none() {
            break;
        }
    }
    daemon.kernel.lock().missing.clear();
    assert_eq!(daemon.handle.reload(Leave::Drain).await.unwrap().changes, ["interface eth0 attached again"]);
    assert_eq!(daemon.handle.status().await.unwrap().interfaces[0].mode, Some(Attach::Xdp));
}

#[tokio::test]
async fn a_start_on_adopted_tables_succeeds_without_an_interface_and_attaches_it_later() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.kernel.lock().adopted = true;
    daemon.kernel.lock().missing.insert("eth1".into());
    let daemon = daemon.restart(&TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]")).await;
    let modes = async || {
        let interfaces = daemon.handle.status().await.unwrap().interfaces;
        interfaces.iter().map(|interface| interface.mode).collect::<Vec<_>>()
    };
    assert_eq!(modes().await, [Some(Attach::Xdp), None]);
    daemon.kernel.lock().missing.clear();
    for _ in 0..500 {
        if modes().await == [Some(Attach::Xdp); 2] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("eth1 was never attached");
}

#[tokio::test]
async fn a_backend_behind_an_interface_without_the_program_says_so_while_it_is_up() {
    let daemon = Daemon::start(&TWO_SERVICES.replace("eth0", "eth1"));
    daemon.all_up().await;
    let reason = daemon.until("web", |_| true).await[0].reason.clone();
    let words =
        "reached through eth0, which is not in `interfaces`: the program may never see its replies; add it";
    assert!(reason.ends_with(words), "{reason}");
    write_config(&daemon.config_file(), &TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]"));
    daemon.handle.reload(Leave::Drain).await.unwrap();
    daemon.until("web", |backends| !backends[0].reason.contains("reached through")).await;
}

#[tokio::test]
async fn limits_that_a_reload_raises_hold_after_an_unload_and_refuse_nothing_that_fits() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let more = |count: u8| {
        (1..=count)
            .map(|n| format!("[[service]]\nname = \"more{n}\"\nvip = \"192.0.2.{n}:81\"\n"))
            .collect::<String>()
    };
    let raised = TWO_SERVICES.replace("services = 16", "services = 99");
    write_config(&daemon.config_file(), &format!("{raised}{}", more(14)));
    let reloaded = daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(reloaded.needs_restart, ["limits.services"]);
    assert!(reloaded.warnings[0].contains("`xdp-lb unload` and a new start"), "{reloaded:?}");
    assert_eq!(daemon.handle.services().await.unwrap().len(), 16);

    write_config(&daemon.config_file(), &format!("{raised}{}", more(15)));
    let refused = daemon.handle.reload(Leave::Drain).await.unwrap_err();
    let words = "the tables were created with limits.services = 16";
    assert!(matches!(&refused, Refusal::Invalid(why) if why.contains(words)), "{refused}");
    assert_eq!(daemon.handle.services().await.unwrap().len(), 16);
}

#[tokio::test]
async fn limits_are_those_of_the_tables_that_were_taken_over() {
    let daemon = Daemon::start(TWO_SERVICES);
    let daemon = daemon.restart(&TWO_SERVICES.replace("services = 16", "services = 99")).await;
    assert_eq!(daemon.handle.reload(Leave::Drain).await.unwrap().needs_restart, ["limits.services"]);
}

#[tokio::test]
async fn entries_pruned_at_a_start_are_removed_from_the_state_file() {
    let daemon = Daemon::start(TWO_SERVICES);
    let patch = BackendPatch::of("weight", 7);
    daemon.handle.patch_backend("web".into(), address("198.51.100.12:8080"), patch).await.unwrap();
    let state = daemon.directory.path().join("state.json");
    assert!(fs::read_to_string(&state).unwrap().contains("198.51.100.12"));
    let without = TWO_SERVICES.replace("[[service.backend]]\naddress = \"198.51.100.12:8080\"\n", "");
    let daemon = daemon.restart(&without).await;
    assert!(!fs::read_to_string(&state).unwrap().contains("198.51.100.12"));
    // Back in the file, it has the file's weight again.
    let daemon = daemon.restart(TWO_SERVICES).await;
    assert_eq!(daemon.until("web", |_| true).await[1].weight, 100);
}

#[tokio::test]
async fn a_start_that_the_state_file_contradicts_says_what_to_do_without_a_daemon() {
    let daemon = Daemon::start(TWO_SERVICES);
    let mut service = config::load(&daemon.config_file()).unwrap().services.remove(0);
    (service.name, service.vip) = ("more".into(), address("192.0.2.11:80").into());
    daemon.handle.add_service(service).await.unwrap();
    daemon.task.abort();
    let file = format!("{TWO_SERVICES}[[service]]\nname = \"more\"\nvip = \"192.0.2.12:80\"\n");
    let state = daemon.directory.path().join("state.json");
    let refused = Daemon::start_with(daemon.directory, daemon.kernel, &file).err().unwrap().to_string();
    let words = format!("removing \"more\" from the state file {}", state.display());
    assert!(refused.contains(&words) && refused.contains("then start again"), "{refused}");
}

#[tokio::test]
async fn an_interface_that_left_the_config_file_while_no_daemon_ran_is_detached() {
    let daemon = Daemon::start(TWO_SERVICES);
    let daemon = daemon.restart(&TWO_SERVICES.replace("eth0", "eth1")).await;
    assert_eq!(daemon.kernel.lock().attached_names(), ["eth1"]);
}

#[tokio::test]
async fn many_reports_at_once_are_one_change_of_the_tables() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    for (service, address) in
        [("web", "198.51.100.11:8080"), ("web", "198.51.100.12:8080"), ("api", "198.51.100.13:8443")]
    {
        daemon.report(service, address, Health::Down, "timed out").await;
    }
    daemon.until("api", |backends| backends[0].state == BackendState::Down).await;
    assert_eq!(daemon.kernel.lock().applied.len(), 1);
}

#[tokio::test]
async fn an_unknown_service_is_reported_with_the_known_ones() {
    let daemon = Daemon::start(TWO_SERVICES);
    let refused = daemon.handle.backends(Some("wbe".into())).await.unwrap_err();
    assert!(matches!(&refused, Refusal::NotFound(why) if why.contains("web, api")), "{refused}");
}

#[tokio::test]
async fn an_unload_ends_the_task() {
    let daemon = Daemon::start(TWO_SERVICES);
    let outcome = daemon.handle.unload().await.unwrap();
    assert_eq!(
        outcome.message,
        "removed 192.0.2.10 from eth0, detached from eth0 (native), removed 12 tables; the daemon exits"
    );
    assert_eq!(daemon.task.await.unwrap(), Ended::Unloaded);
    assert!(daemon.kernel.lock().unloaded);
}

#[tokio::test]
async fn an_interface_that_refuses_the_program_stops_the_start() {
    let config = TWO_SERVICES.replace("eth0", "missing");
    let refused = Daemon::start_with(tempfile::tempdir().unwrap(), InMemory::new(100_000), &config);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("none of the configured interfaces exists (missing)"), "{refused}");
    let kernel = InMemory::new(100_000);
    kernel.lock().foreign.insert("eth0".into());
    let refused =
        Daemon::start_with(tempfile::tempdir().unwrap(), kernel, TWO_SERVICES).err().unwrap().to_string();
    assert!(refused.contains("create or fix eth0, or remove it from `interfaces`"), "{refused}");
    // One of several may come later.
    let daemon = Daemon::start(&TWO_SERVICES.replace("[\"eth0\"]", "[\"eth0\", \"missing\"]"));
    let status = daemon.handle.status().await.unwrap();
    assert_eq!(
        status.troubles.iter().map(|trouble| trouble.kind).collect::<Vec<_>>(),
        [TroubleKind::Interfaces]
    );
    assert!(status.trouble.unwrap().contains("interface missing does not exist"));
}

#[tokio::test]
async fn a_vip_stays_while_one_of_its_services_has_a_backend() {
    let config = format!("vips = {{ interface = \"lo\", withdraw = \"no-backends\" }}\n{TWO_SERVICES}");
    let daemon = Daemon::start(&config);
    let intents = || daemon.vips.intents();
    let is = |intent| vec![("192.0.2.10".to_owned(), intent)];
    assert_eq!(intents(), is(VipIntent::Undecided), "nothing is known yet");
    daemon.all_up().await;
    assert_eq!(intents(), is(VipIntent::Present));
    daemon.report("web", "198.51.100.11:8080", Health::Down, "timed out").await;
    daemon.report("web", "198.51.100.12:8080", Health::Down, "timed out").await;
    daemon.until("web", |backends| backends.iter().all(|backend| backend.state == BackendState::Down)).await;
    assert_eq!(intents(), is(VipIntent::Present), "the other service has one");
    let drain = BackendPatch::admin(AdminState::Draining);
    daemon.handle.patch_backend("api".into(), address("198.51.100.13:8443"), drain).await.unwrap();
    assert_eq!(intents(), is(VipIntent::Present), "it has its flows still");
    daemon.report("api", "198.51.100.13:8443", Health::Down, "timed out").await;
    daemon.until("api", |backends| backends[0].state == BackendState::Down).await;
    assert_eq!(intents(), is(VipIntent::Absent));
    daemon.report("web", "198.51.100.12:8080", Health::Up, "recovered").await;
    daemon.until("web", |backends| backends[1].state == BackendState::Up).await;
    assert_eq!(intents(), is(VipIntent::Present));
}

#[tokio::test]
async fn a_vip_is_added_once_the_first_checks_of_all_its_backends_have_ended_or_timed_out() {
    let config = format!("vips = {{ interface = \"lo\", withdraw = \"no-backends\" }}\n{TWO_SERVICES}").replace(
        "vip = \"192.0.2.10:443\"",
        "vip = \"192.0.2.10:443\"\nhealth_check = { type = \"tcp\", interval = \"100ms\", timeout = \"100ms\" }",
    );
    let daemon = Daemon::start(&config);
    let is = |intent| vec![("192.0.2.10".to_owned(), intent)];
    for number in 11..=13 {
        daemon.next_hop(&format!("198.51.100.{number}"), Ok(number)).await;
    }
    daemon.report("web", "198.51.100.11:8080", Health::Up, "the first check succeeded").await;
    daemon.until("web", |backends| backends[0].state == BackendState::Up).await;
    assert_eq!(daemon.vips.intents(), is(VipIntent::Undecided), "one is up, and gets no client alone");
    daemon.report("web", "198.51.100.12:8080", Health::Up, "the first check succeeded").await;
    daemon.until("web", |backends| backends[1].state == BackendState::Up).await;
    assert_eq!(daemon.vips.intents(), is(VipIntent::Undecided), "the other service has nobody yet");
    // Its check should have ended by now.
    until_status(&daemon, |_| daemon.vips.intents() == is(VipIntent::Present)).await;
    assert_eq!(daemon.until("api", |_| true).await[0].state, BackendState::Checking);
}

#[tokio::test]
async fn a_counter_advises_to_raise_a_limit_only_where_its_table_is_nearly_full() {
    let daemon = Daemon::start(TWO_SERVICES);
    let meaning_of = async |name: &str| {
        let counters = daemon.handle.counters().await.unwrap().counters;
        counters.into_iter().find(|counter| counter.name == name).unwrap().meaning
    };
    let meaning = async || meaning_of("reply_without_flow").await;
    let full = meaning_of("flow_table_full").await;
    assert!(full.ends_with("raise limits.flows (0 % is in use now)"), "{full}");
    let empty = meaning().await;
    assert!(
        empty.contains("limits.flows is not the cause: 0 % is in use") && !empty.contains("raise"),
        "{empty}"
    );
    daemon.kernel.lock().live = HashMap::from([(BackendIndex(1), 1000)]);
    for _ in 0..800 {
        if meaning().await.contains("raise limits.flows") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}", meaning().await);
}

#[tokio::test]
async fn vips_are_kept_only_where_the_config_names_an_interface_for_them_and_a_reload_changes_that() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    assert_eq!(daemon.vips.intents(), []);
    write_config(&daemon.config_file(), &format!("vips.interface = \"lo\"\n{TWO_SERVICES}"));
    let reloaded = daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(reloaded.changes, ["vips.interface not set -> lo"]);
    assert_eq!(daemon.vips.intents(), [("192.0.2.10".to_owned(), VipIntent::Present)]);
    assert_eq!(daemon.vips.wanted.lock().unwrap().interface.as_deref(), Some("lo"));
}

#[tokio::test]
async fn a_drained_service_keeps_its_flows_and_withdraws_its_vip_and_a_drained_node_all_vips() {
    let config = format!("vips.interface = \"lo\"\n{}", TWO_SERVICES.replace("10:443", "20:443"));
    let daemon = Daemon::start(&config);
    daemon.all_up().await;
    let is = |first, second| vec![("192.0.2.10".to_owned(), first), ("192.0.2.20".to_owned(), second)];
    assert_eq!(daemon.vips.intents(), is(VipIntent::Present, VipIntent::Present));
    daemon.handle.patch_service("web".into(), ServicePatch::admin(AdminState::Draining)).await.unwrap();
    let backends = daemon.until("web", |_| true).await;
    assert!(backends.iter().all(|backend| backend.state == BackendState::Draining && backend.share == 0.0));
    assert_eq!(backends[0].reason, "its service was drained by the operator");
    assert_eq!(daemon.vips.intents(), is(VipIntent::Absent, VipIntent::Present));
    let mut events = daemon.handle.watch(None).unwrap();
    for _ in 0..2 {
        daemon.handle.patch_node(AdminState::Draining).await.unwrap();
    }
    daemon.handle.patch_node(AdminState::Enabled).await.unwrap();
    daemon.handle.patch_node(AdminState::Draining).await.unwrap();
    for admin in [AdminState::Draining, AdminState::Enabled, AdminState::Draining] {
        assert_eq!(events.next().await.unwrap().event, WatchEvent::Node { admin });
    }
    assert_eq!(daemon.vips.intents(), is(VipIntent::Absent, VipIntent::Absent));
    assert_eq!(daemon.until("api", |_| true).await[0].state, BackendState::Up, "what still comes is served");

    let daemon = daemon.restart(&config).await;
    assert_eq!(daemon.handle.status().await.unwrap().admin, AdminState::Draining);
    assert_eq!(daemon.vips.intents(), is(VipIntent::Absent, VipIntent::Absent));
    daemon.handle.patch_node(AdminState::Enabled).await.unwrap();
    daemon.handle.patch_service("web".into(), ServicePatch::admin(AdminState::Enabled)).await.unwrap();
    assert_eq!(daemon.vips.intents(), is(VipIntent::Present, VipIntent::Present));
}

const DISCOVERED: &str = r#"
interfaces = ["eth0"]
state_file = "STATE"
limits = { services = 16, backends = 64, slots = 100_000, flows = 1024, fragments = 1024 }

[[service]]
name = "web"
vip = "192.0.2.10:80"
health_check = { type = "none" }
discovery = { type = "dns", name = "web.example.com", drain_timeout = "1h", hold = "0s" }
"#;

impl Daemon {
    async fn find(&self, result: Result<&[u8], &str>) {
        let service = self.discoveries.lock().unwrap()[0].clone();
        let backend = |host: &u8| model::Backend::new(([198, 51, 100, *host], 8080).into(), 100);
        let found = |hosts: &[u8]| crate::discovery::Found {
            backends: hosts.iter().map(backend).collect(),
            refused: vec![],
        };
        let update = Update {
            service: service.name,
            discovery: service.discovery.unwrap(),
            result: result.map(found).map_err(String::from),
            next: Some(Duration::from_secs(60)),
        };
        self.found.send(update).await.unwrap();
    }

    /// Two backends, found and up.
    async fn two_found(config: &str) -> Self {
        let daemon = Self::start(config);
        assert_eq!(daemon.handle.is_pending().await, Ok(true), "the first answer is out");
        daemon.find(Ok(&[11, 12])).await;
        for number in [11, 12] {
            daemon.next_hop(&format!("198.51.100.{number}"), Ok(number)).await;
        }
        daemon.until("web", |it| it.len() == 2 && it.iter().all(|it| it.state == BackendState::Up)).await;
        assert_eq!(daemon.handle.is_pending().await, Ok(false));
        daemon
    }

    async fn discovery(&self) -> crate::report::documents::DiscoveryView {
        self.handle.services().await.unwrap()[0].discovery.clone().unwrap()
    }

    fn index_of(&self, address: &str) -> BackendIndex {
        let address: SocketAddr = address.parse().unwrap();
        let tables = &self.kernel.lock().tables;
        let is_it = |backend: &xdp_lb_common::tables::Backend| backend.address == address.ip().into();
        *tables.backends.iter().find(|(_, backend)| is_it(backend)).unwrap().0
    }
}

#[tokio::test]
async fn a_backend_that_is_no_longer_found_keeps_its_flows_and_is_removed_with_the_last() {
    let daemon = Daemon::two_found(DISCOVERED).await;
    let leaver = daemon.index_of("198.51.100.12:8080");
    daemon.kernel.lock().live.insert(leaver, 3);
    daemon.find(Ok(&[11])).await;
    let backends = daemon.until("web", |it| it[1].state == BackendState::Draining).await;
    assert!(backends[1].reason.contains("no longer found"), "{}", backends[1].reason);
    assert_eq!((backends[0].share, backends[1].share), (1.0, 0.0));
    tokio::time::sleep(2 * TICK + Duration::from_millis(100)).await;
    let view = daemon.discovery().await;
    assert_eq!((view.found, view.leaving), (1, 1), "it has flows");

    daemon.find(Ok(&[11, 12])).await;
    daemon.until("web", |it| it[1].state == BackendState::Up && it[1].share > 0.0).await;
    daemon.find(Ok(&[11])).await;
    daemon.until("web", |it| it[1].state == BackendState::Draining).await;
    daemon.kernel.lock().live.clear();
    daemon.until("web", |it| it.len() == 1).await;
    assert!(!daemon.kernel.lock().tables.backends.contains_key(&leaver));
}

#[tokio::test]
async fn a_backend_that_is_no_longer_found_is_removed_after_its_drain_timeout_even_with_flows() {
    let daemon = Daemon::two_found(&DISCOVERED.replace("1h", "1s")).await;
    let leaver = daemon.index_of("198.51.100.12:8080");
    daemon.kernel.lock().live.insert(leaver, 3);
    daemon.find(Ok(&[11])).await;
    daemon.until("web", |it| it.len() == 1).await;
}

#[tokio::test]
async fn discovered_backends_stay_through_failures_and_restarts_and_the_status_shows_since_when() {
    let daemon = Daemon::two_found(DISCOVERED).await;
    daemon.find(Err("web.example.com.: 192.0.2.53:53 does not answer within 2s")).await;
    daemon.find(Err("web.example.com.: 192.0.2.53:53 answers SERVFAIL")).await;
    let view = loop {
        let view = daemon.discovery().await;
        if view.failures == 2 {
            break view;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(view.trouble.unwrap().contains("SERVFAIL") && view.failing_since_seconds.is_some());
    assert_eq!((view.found, view.answers), (2, 1));
    let before = daemon.kernel.lock().tables.clone();

    let daemon = daemon.restart(DISCOVERED).await;
    let backends = daemon.until("web", |it| it.len() == 2).await;
    assert!(
        backends.iter().all(|it| it.state == BackendState::Up && it.origin.name() == "dns"),
        "{backends:?}"
    );
    assert_eq!(daemon.kernel.lock().tables, before);
    assert_eq!(daemon.discovery().await.last_answer_seconds, None);
    daemon.find(Err("no answer")).await;
    daemon.find(Ok(&[11, 12])).await;
    while daemon.discovery().await.answers == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let view = daemon.discovery().await;
    assert_eq!((view.trouble, view.failing_since_seconds), (None, None));
    assert_eq!(daemon.kernel.lock().tables, before);
}

#[tokio::test]
async fn discovered_backends_are_used_even_if_they_cannot_be_saved() {
    let daemon = Daemon::start(DISCOVERED);
    // A directory stands where the state file would be put.
    fs::create_dir_all(daemon.directory.path().join("state.json/in/the/way")).unwrap();
    daemon.find(Ok(&[11])).await;
    daemon.until("web", |it| it.len() == 1).await;
    let refused = daemon.handle.add_backend("web".into(), model::Backend::new(address("198.51.100.9:80"), 1));
    assert!(matches!(refused.await, Err(Refusal::Failed(_))), "an operator's change has to be saved");
}

#[tokio::test]
async fn an_answer_to_a_lookup_from_before_a_reload_is_ignored() {
    let daemon = Daemon::two_found(DISCOVERED).await;
    let before = daemon.discoveries.lock().unwrap()[0].clone();
    write_config(&daemon.config_file(), &DISCOVERED.replace("web.example.com", "new.example.com"));
    let reload = daemon.handle.reload(Leave::Drain).await.unwrap();
    let said = reload.changes.join("\n");
    assert!(said.contains("discovery") && said.contains("new.example.com"), "{said}");
    let late = Update {
        service: "web".into(),
        discovery: before.discovery.unwrap(),
        result: Ok(crate::discovery::Found::default()),
        next: None,
    };
    daemon.found.send(late).await.unwrap();
    // What is asked once the owner task has it is answered behind it.
    while daemon.found.capacity() < daemon.found.max_capacity() {
        tokio::task::yield_now().await;
    }
    let backends = daemon.handle.backends(Some("web".into())).await.unwrap();
    assert!(backends.iter().all(|it| it.state == BackendState::Up), "{backends:?}");
    assert_eq!((backends.len(), daemon.discovery().await.answers), (2, 0));
    daemon.find(Ok(&[12, 13])).await;
    let backends = daemon.until("web", |it| it.len() == 3).await;
    let leaving: Vec<_> = backends.iter().map(|it| it.reason.contains("no longer found")).collect();
    assert_eq!(leaving, [true, false, false]);
}

#[tokio::test]
async fn however_a_backend_is_removed_it_keeps_its_flows_until_the_last_and_may_come_back() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let leaver = daemon.index_of("198.51.100.12:8080");
    daemon.kernel.lock().live.insert(leaver, 46);
    let second = address("198.51.100.12:8080");
    let drains = |backends: &[BackendView]| {
        let it = &backends[1];
        it.state == BackendState::Draining && it.leaving && it.share == 0.0 && it.flows == 46
    };

    // By the file: the plan says the same as the reload, and both with how many flows.
    let without = TWO_SERVICES.replace("[[service.backend]]\naddress = \"198.51.100.12:8080\"\n", "");
    write_config(&daemon.config_file(), &without);
    daemon.handle.backends(None).await.unwrap();
    tokio::time::sleep(census::EVERY + 2 * TICK).await;
    let line =
        "service web: backend 198.51.100.12:8080 removed: draining, with 46 recorded flows, 0 packets/s";
    let planned = daemon.handle.plan_reload(Leave::Drain).await.unwrap();
    assert_eq!(planned.changes, [line]);
    let at_once = daemon.handle.plan_reload(Leave::Now).await.unwrap();
    let line_now =
        "service web: backend 198.51.100.12:8080 removed at once: this ends 46 recorded flows, 0 packets/s";
    assert_eq!(at_once.changes, [line_now]);
    assert_eq!(daemon.handle.reload(Leave::Drain).await.unwrap().changes, [line]);
    let backends = daemon.until("web", drains).await;
    assert!(backends[1].leaves_in_seconds.is_some_and(|it| it > 3500), "{:?}", backends[1].leaves_in_seconds);
    write_config(&daemon.config_file(), TWO_SERVICES);
    let back = daemon.handle.reload(Leave::Drain).await.unwrap().changes;
    assert_eq!(back, ["service web: backend 198.51.100.12:8080 added, weight 100"]);
    daemon.until("web", |it| it[1].state == BackendState::Up && !it[1].leaving && it[1].share > 0.0).await;

    // By the CLI, over a restart.
    let said = daemon.handle.remove_backend("web".into(), second, Leave::Drain).await.unwrap();
    assert!(said.message.contains("draining, with 46 recorded flows"), "{}", said.message);
    let said = daemon.handle.remove_backend("web".into(), second, Leave::Drain).await.unwrap();
    assert!(!said.changed && said.message.contains("--now"), "{}", said.message);
    let daemon = daemon.restart(TWO_SERVICES).await;
    daemon.until("web", drains).await;
    daemon.kernel.lock().live.clear();
    daemon.until("web", |it| it.len() == 1).await;
}

#[tokio::test]
async fn a_daemon_that_starts_with_another_file_drains_what_is_missing_in_it() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let leaver = daemon.index_of("198.51.100.12:8080");
    daemon.kernel.lock().live.insert(leaver, 3);
    let without = TWO_SERVICES.replace("[[service.backend]]\naddress = \"198.51.100.12:8080\"\n", "");
    let daemon = daemon.restart(&without).await;
    daemon.until("web", |it| it.len() == 2 && it[1].leaving && it[1].state == BackendState::Draining).await;
    daemon.kernel.lock().live.clear();
    daemon.until("web", |it| it.len() == 1).await;
}

#[tokio::test]
async fn drains_of_an_earlier_boot_are_over_and_the_wall_clock_does_not_matter() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let leaver = daemon.index_of("198.51.100.12:8080");
    daemon.kernel.lock().live.insert(leaver, 3);
    let second = address("198.51.100.12:8080");
    daemon.handle.remove_backend("web".into(), second, Leave::Drain).await.unwrap();
    let state = daemon.directory.path().join("state.json");
    let text = fs::read_to_string(&state).unwrap();
    let boot = uptime::boot_id();
    assert!(text.contains(&boot) && text.contains("\"version\": 3"), "{text}");
    let since = serde_json::from_str::<serde_json::Value>(&text).unwrap()["contents"]["leaving"]["backends"]
        ["web"]["198.51.100.12:8080"]["since"]
        .as_u64()
        .unwrap();
    assert!(since <= uptime::now().as_secs(), "seconds of the boot, not of the year: {since}");
    let by_hand: String =
        text.lines().filter(|line| !line.contains("checksum")).map(|line| format!("{line}\n")).collect();
    fs::write(&state, by_hand.replace(&boot, "00000000-0000-0000-0000-000000000000")).unwrap();
    // A host that was started again has no tables.
    daemon.kernel.lock().tables = Tables::default();
    let daemon = daemon.restart(TWO_SERVICES).await;
    assert_eq!(daemon.until("web", |_| true).await.len(), 1);
    assert!(!fs::read_to_string(&state).unwrap().contains("leaving"));
}

#[tokio::test]
async fn a_removed_service_drains_until_its_last_flow_or_is_removed_at_once() {
    let config = format!("vips.interface = \"lo\"\n{}", TWO_SERVICES.replace("10:443", "20:443"));
    let daemon = Daemon::start(&config);
    daemon.all_up().await;
    let leaver = daemon.index_of("198.51.100.13:8443");
    daemon.kernel.lock().live.insert(leaver, 3);
    let said = daemon.handle.remove_service("api".into(), Leave::Drain).await.unwrap();
    assert!(said.message.contains("; draining, with "), "{}", said.message);
    daemon
        .until("api", |it| it[0].leaving && it[0].state == BackendState::Draining && it[0].share == 0.0)
        .await;
    let intents = || daemon.vips.intents();
    assert_eq!(intents()[1], ("192.0.2.20".to_owned(), VipIntent::Present), "its flows need the VIP");
    let service = daemon.handle.services().await.unwrap().remove(0);
    assert!(service.leaving && service.name == "api", "{service:?}");
    daemon.kernel.lock().live.clear();
    while daemon.handle.services().await.unwrap().len() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(intents().len(), 1);
    let said = daemon.handle.remove_service("web".into(), Leave::Now).await.unwrap();
    assert!(said.message.contains("this ended"), "{}", said.message);
    assert_eq!(daemon.handle.services().await.unwrap().len(), 0);
}

#[tokio::test]
async fn discovered_backends_that_do_not_fit_are_reported_and_added_when_there_is_room() {
    let config = DISCOVERED.replace("hold =", "max_backends = 2, hold =");
    let daemon = Daemon::two_found(&config).await;
    for host in ["198.51.100.11:8080", "198.51.100.12:8080"] {
        let index = daemon.index_of(host);
        daemon.kernel.lock().live.insert(index, 3);
    }
    daemon.find(Ok(&[13, 14])).await;
    for number in [13, 14] {
        daemon.next_hop(&format!("198.51.100.{number}"), Ok(number)).await;
    }
    daemon.until("web", |it| it.len() == 4 && it[2].share > 0.0 && it[3].share > 0.0).await;
    for host in ["198.51.100.13:8080", "198.51.100.14:8080"] {
        let index = daemon.index_of(host);
        daemon.kernel.lock().live.insert(index, 3);
    }
    daemon.find(Ok(&[14, 15])).await;
    daemon.next_hop("198.51.100.15", Ok(15)).await;
    let view = loop {
        let view = daemon.discovery().await;
        if view.waiting == 1 {
            break view;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((view.found, view.leaving), (1, 3));
    assert!(
        view.refused[0].starts_with("backend 198.51.100.15:8080: found, but waiting for room"),
        "{view:?}"
    );
    assert_eq!(daemon.until("web", |_| true).await.len(), 4, "none of those with flows is driven out");
    let gone = daemon.index_of("198.51.100.11:8080");
    daemon.kernel.lock().live.remove(&gone);
    // Without another answer.
    daemon.until("web", |it| it.iter().any(|it| it.address == address("198.51.100.15:8080"))).await;
    assert_eq!(daemon.discovery().await.waiting, 0);
}

#[tokio::test]
async fn an_address_missing_from_answers_is_held_and_varying_answers_are_reported() {
    let daemon = Daemon::two_found(&DISCOVERED.replace("hold = \"0s\"", "hold = \"2s\"")).await;
    daemon.find(Ok(&[11])).await;
    while daemon.discovery().await.answers < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let view = daemon.discovery().await;
    assert_eq!((view.found, view.held, view.leaving), (2, 1, 0), "{view:?}");
    assert!(daemon.until("web", |_| true).await.iter().all(|it| it.share == 0.5));
    // It drains by itself, without another answer.
    daemon.until("web", |it| it.get(1).is_none_or(|it| it.leaving)).await;

    for hosts in [&[11, 12, 13][..], &[12], &[11, 13], &[11, 12]] {
        daemon.find(Ok(hosts)).await;
    }
    let warning = loop {
        if let Some(warning) = daemon.discovery().await.warning {
            break warning;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(warning.contains("DNS answers vary: 3 addresses disappeared and came back"), "{warning}");
}

#[tokio::test]
async fn this_hosts_addresses_and_those_that_backends_see_are_written_to_the_tables() {
    let config = TWO_SERVICES
        .replace("vip = \"192.0.2.10:80\"", "vip = \"192.0.2.10:80\"\nsnat_addresses = [\"198.51.100.9\"]");
    let daemon = Daemon::start(&config);
    let told = async |expected: &[&str]| {
        let expected: BTreeSet<Address> =
            expected.iter().map(|address| address.parse::<IpAddr>().unwrap().into()).collect();
        for _ in 0..100 {
            if daemon.kernel.lock().own_addresses == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?} was told, not {expected:?}", daemon.kernel.lock().own_addresses);
    };
    told(&[]).await;
    for own in [&["198.51.100.1"][..], &["198.51.100.1", "2001:db8:2::1"], &[]] {
        let addresses = own.iter().map(|address| address.parse().unwrap()).collect();
        daemon.events.send(Event::Addresses(addresses)).await.unwrap();
        told(&[own, &["198.51.100.9"]].concat()).await;
    }
}

#[tokio::test]
async fn what_was_answered_is_shown_at_once_everywhere() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let first = address("198.51.100.11:8080");
    for number in 0..50u16 {
        let admin = if number % 2 == 0 { AdminState::Draining } else { AdminState::Enabled };
        let patch = BackendPatch { admin: Some(admin), ..BackendPatch::of("weight", 100 + number) };
        daemon.handle.patch_backend("web".into(), first, patch).await.unwrap();
        let shown = daemon.handle.status().await.unwrap();
        let detail = daemon.handle.service("web".into()).await.unwrap();
        let of = |backends: &[BackendView]| {
            let found = backends.iter().find(|it| it.address == first).unwrap();
            (found.weight, found.admin, found.state == BackendState::Draining)
        };
        let expected = (100 + number, admin, admin == AdminState::Draining);
        assert_eq!((of(&shown.backends), of(&detail.backends)), (expected, expected));
        let serving = if admin == AdminState::Draining { 1 } else { 2 };
        assert_eq!(detail.service.backends_serving, serving, "the service and its backends agree");
    }
}

#[tokio::test]
async fn affinity_is_refused_until_every_flow_is_recorded_and_again_after_a_restart() {
    let config = TWO_SERVICES.replace("vip = \"192.0.2.10:80\"", "vip = \"192.0.2.10:80\"\nmode = \"nat\"");
    let config = format!("timeouts = {{ tcp_idle = \"1s\" }}\n{config}");
    let mut daemon = Daemon::start(&config);
    daemon.all_up().await;
    let set = async |daemon: &Daemon, key: &str, value: &str| {
        daemon.handle.patch_service("web".into(), ServicePatch::of(key, value)).await
    };
    let refused =
        async |daemon: &Daemon, value| set(daemon, "affinity", value).await.expect_err("refused").to_string();
    assert!(refused(&daemon, "source").await.contains("Set flow_tracking"));
    set(&daemon, "flow_tracking", "always").await.unwrap();
    let said = refused(&daemon, "source").await;
    assert!(said.contains("Wait 1s (timeouts.tcp_idle)"), "{said}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(set(&daemon, "affinity", "source").await.unwrap().changed);

    daemon = daemon.restart(&config).await;
    assert!(refused(&daemon, "none").await.contains("Wait 1s"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Another change to the service does not begin anew, but one that ends the recording does.
    set(&daemon, "on_no_backends", "drop").await.unwrap();
    assert!(set(&daemon, "affinity", "none").await.unwrap().changed);
    set(&daemon, "flow_tracking", "auto").await.unwrap();
    set(&daemon, "flow_tracking", "always").await.unwrap();
    assert!(refused(&daemon, "source").await.contains("Wait 1s"));
}

#[tokio::test]
async fn a_drain_waits_until_flows_from_before_flow_tracking_always_are_recorded() {
    let idle = Duration::from_secs(2);
    let config = TWO_SERVICES.replace("vip = \"192.0.2.10:80\"", "vip = \"192.0.2.10:80\"\nmode = \"nat\"");
    let config = format!("timeouts = {{ tcp_idle = \"2s\" }}\n{config}");
    let second = address("198.51.100.12:8080");
    let leave = async |daemon: &Daemon| {
        daemon.handle.remove_backend("web".into(), second, Leave::Drain).await.unwrap();
        daemon.until("web", |it| it[1].leaving).await[1].flows_known_in_seconds
    };
    let daemon = Daemon::start(&config);
    daemon.all_up().await;
    let began = Instant::now();
    let always = ServicePatch::of("flow_tracking", "always");
    daemon.handle.patch_service("web".into(), always).await.unwrap();
    assert!(leave(&daemon).await.is_some(), "a drain waits for them");
    daemon.until("web", |it| it.len() == 1).await;
    assert!(began.elapsed() > idle, "gone after {:?}", began.elapsed());

    let always = "mode = \"nat\"\nflow_tracking = \"always\"";
    let daemon = Daemon::start(&config.replace("mode = \"nat\"", always));
    daemon.all_up().await;
    assert_eq!(leave(&daemon).await, None, "all of its flows are recorded from the first on");
}

#[tokio::test]
async fn the_plan_reports_an_edit_that_a_runtime_change_overrides_until_it_is_read() {
    let daemon = Daemon::start(TWO_SERVICES);
    daemon.all_up().await;
    let first = address("198.51.100.11:8080");
    daemon.handle.patch_backend("web".into(), first, BackendPatch::of("weight", 7)).await.unwrap();
    let plan = async || daemon.handle.plan_reload(Leave::Drain).await.unwrap();
    let before = plan().await;
    assert_eq!((before.changes, before.overridden), (vec![], vec![]));
    let edited = TWO_SERVICES.replacen(
        "address = \"198.51.100.11:8080\"",
        "address = \"198.51.100.11:8080\"\nweight = 5",
        1,
    );
    write_config(&daemon.config_file(), &edited);
    let after = plan().await;
    assert_eq!(after.changes, Vec::<String>::new());
    assert_eq!(after.overridden, ["service web: backend 198.51.100.11:8080 weight 100 -> 5"]);
    // Whatever else is edited is in effect.
    let other = edited.replace("address = \"198.51.100.12:8080\"", "address = \"198.51.100.14:8080\"");
    write_config(&daemon.config_file(), &other);
    assert_eq!(plan().await.overridden, after.overridden);
    daemon.handle.reload(Leave::Drain).await.unwrap();
    assert_eq!(plan().await.overridden, Vec::<String>::new());
}

#[tokio::test]
async fn a_change_to_a_source_address_that_this_host_does_not_own_warns() {
    let daemon = Daemon::start(TWO_SERVICES);
    let set = async |key, value| {
        daemon.handle.patch_service("web".into(), ServicePatch::of(key, value)).await.unwrap().message
    };
    let said = set("snat_addresses", serde_json::json!(["198.51.100.9"])).await;
    assert!(
        said.contains("warning: service web: this host does not own 198.51.100.9 of snat_addresses"),
        "{said}"
    );
    let said = set("max_flows", 5.into()).await;
    assert!(!said.contains("warning"), "{said}");
}

#[tokio::test]
async fn no_document_has_the_value_of_a_header() {
    let config = TWO_SERVICES.replacen(
        "vip = \"192.0.2.10:80\"",
        "vip = \"192.0.2.10:80\"\nhealth_check = { type = \"http\", headers = [\"Authorization: Bearer 0001\"] }",
        1,
    );
    let daemon = Daemon::start(&config);
    let detail = serde_json::to_string(&daemon.handle.service("web".into()).await.unwrap()).unwrap();
    let status = serde_json::to_string(&daemon.handle.status().await.unwrap()).unwrap();
    let running =
        serde_json::to_string(&daemon.handle.config(ConfigQuery { all: true }).await.unwrap()).unwrap();
    for text in [detail, status, running] {
        assert!(text.contains("Authorization: (secret)") && !text.contains("0001"), "{text}");
    }
    let targets = format!("{:?}", daemon.targets.lock().unwrap());
    assert!(targets.contains("0001"), "the checks send it: {targets}");
}
