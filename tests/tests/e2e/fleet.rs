//! Several load balancers as one: a node dies, returns, or joins, the router spreads all flows anew, and no flow breaks.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use xdp_lb_tests::client::udp_socket;
use xdp_lb_tests::fleet::{Fleet, Replies, status};
use xdp_lb_tests::{Conversations, Family, Host, Service, until};

const FLOWS: usize = 600;

/// A service of each family in this mode, with all backends.
fn services(mode: &str, backends: usize) -> String {
    let of = |family, snat: &str| {
        let name = if family == Family::V4 { "echo4" } else { "echo6" };
        let service = Service::tcp(name, Fleet::vip(family))
            .backends((1..=backends).map(|it| Fleet::backend(family, it)));
        let text = service.to_string().replace("mode = \"full-nat\"", &format!("mode = \"{mode}\""));
        match mode {
            "full-nat" => {
                text.replace("\nhealth_check", &format!("\nsnat_addresses = [\"{snat}\"]\nhealth_check"))
            }
            _ => text,
        }
    };
    of(Family::V4, "SNAT4") + &of(Family::V6, "SNAT6")
}

/// All flows exchange data; none may break.
fn assert_unbroken(fleet: &Fleet, flows: &mut Conversations, what: &str) {
    let open = flows.len();
    let broken = flows.exchange();
    assert_none(fleet, &broken, open, what);
}

/// Does something while all flows exchange data, so that none is idle for long; none may break.
fn assert_unbroken_during(
    fleet: &mut Fleet,
    flows: &mut Conversations,
    what: &str,
    act: impl FnOnce(&mut Fleet) -> Result<()>,
) {
    let open = flows.len();
    let is_over = AtomicBool::new(false);
    let broken = thread::scope(|scope| {
        let exchanging = scope.spawn(|| {
            let mut broken = flows.exchange();
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(200));
                broken.extend(flows.exchange());
            }
            broken
        });
        let acted = act(fleet);
        is_over.store(true, Ordering::Relaxed);
        let broken = exchanging.join().unwrap();
        acted.unwrap();
        broken
    });
    assert_none(fleet, &broken, open, what);
}

fn assert_none(fleet: &Fleet, broken: &[(String, io::Error)], open: usize, what: &str) {
    let told = || {
        let daemons = fleet.daemons.iter().flatten();
        daemons.map(|daemon| daemon.cli(&["fleet", "status"]).unwrap() + &daemon.cli(&["counters"]).unwrap())
    };
    assert!(
        broken.is_empty(),
        "{what}: {} of {open} flows broke, such as {:?}\n{}",
        broken.len(),
        broken.first(),
        told().collect::<String>()
    );
}

/// A node dies, returns as after a reboot, and a fourth one joins.
fn node_dies_returns_and_another_joins(fleet: &mut Fleet, flows: &mut Conversations, replies: Replies) {
    fleet.wait_until_told().unwrap();
    fleet.kill(3).unwrap();
    fleet.announce(&[1, 2], replies).unwrap();
    assert_unbroken(fleet, flows, "node 3 died");
    assert_unbroken_during(fleet, flows, "node 3 returns", |fleet| fleet.start(&[3]));
    fleet.announce(&[1, 2, 3], replies).unwrap();
    assert_unbroken(fleet, flows, "node 3 returned");
    assert_unbroken_during(fleet, flows, "node 4 joins", |fleet| fleet.start(&[4]));
    fleet.announce(&[1, 2, 3, 4], replies).unwrap();
    assert_unbroken(fleet, flows, "node 4 joined");
}

fn fleet(name: &str, config: &str, replies: Replies) -> Fleet {
    let mut fleet = Fleet::new(name, 4, 3, config).unwrap();
    if replies == Replies::Direct && config.contains("\"dsr\"") {
        fleet.give_vips().unwrap();
    }
    fleet.start(&[1, 2, 3]).unwrap();
    fleet.announce(&[1, 2, 3], replies).unwrap();
    fleet
}

fn backends_of(fleet: &Fleet, command: &str, number: usize) {
    for (service, family) in [("echo4", Family::V4), ("echo6", Family::V6)] {
        fleet.on_all(&["backend", command, service, &Fleet::backend(family, number).to_string()]).unwrap();
    }
}

#[test]
fn no_full_nat_flow_breaks_when_a_node_dies_returns_or_joins() {
    let mut fleet = fleet("fleet-full-nat", &services("full-nat", 3), Replies::Direct);
    let mut flows = fleet.open(FLOWS).unwrap();
    assert_unbroken(&fleet, &mut flows, "all nodes are there");
    node_dies_returns_and_another_joins(&mut fleet, &mut flows, Replies::Direct);
    let (told, forged) = told(&fleet, 1);
    assert!(told > 0 && forged == 0, "{told} {forged}");
}

#[test]
fn no_dsr_flow_breaks_when_a_node_dies_or_returns_while_slots_move() {
    moving("fleet-dsr", "dsr", Replies::Direct);
}

#[test]
fn no_nat_flow_breaks_when_a_node_dies_or_returns_while_slots_move() {
    moving("fleet-nat", "nat", Replies::ThroughNodes);
}

fn moving(name: &str, mode: &str, replies: Replies) {
    let mut fleet = fleet(name, &services(mode, 3), replies);
    let mut flows = fleet.open(FLOWS / 2).unwrap();
    assert_unbroken(&fleet, &mut flows, "all slots are settled");
    assert_eq!(told(&fleet, 1).0, 0, "in a settled ring no flow is told of");
    backends_of(&fleet, "drain", 2);
    for family in Family::ALL {
        flows.open_more(&fleet.client, Fleet::vip(family), FLOWS / 4).unwrap();
    }
    assert_unbroken(&fleet, &mut flows, "slots move");
    node_dies_returns_and_another_joins(&mut fleet, &mut flows, replies);
}

#[test]
fn no_dsr_flow_breaks_when_a_node_dies_after_a_long_drain() {
    let config = "timeouts.tcp_idle = \"8s\"\n".to_owned() + &services("dsr", 3);
    let mut fleet = fleet("fleet-drain", &config, Replies::Direct);
    let mut flows = fleet.open(FLOWS).unwrap();
    backends_of(&fleet, "drain", 2);
    until("all flows of moving slots to be recorded", Duration::from_secs(60), || {
        assert_unbroken(&fleet, &mut flows, "a backend drains");
        let shown = fleet.daemon(1).cli_json(&["service", "show", "echo4"])?;
        thread::sleep(Duration::from_millis(200));
        Ok(shown["service"]["moving"]["moving_slots"] == 0)
    })
    .unwrap();
    assert!(fleet.daemon(1).unsettled_slots("echo4").unwrap() > 0);
    node_dies_returns_and_another_joins(&mut fleet, &mut flows, Replies::Direct);
}

/// How many flows a node has told of, and how many datagrams it refused.
fn told(fleet: &Fleet, number: usize) -> (u64, u64) {
    let status = status(fleet.daemon(number)).unwrap();
    let sum =
        |field: &str| status["peers"].as_array().unwrap().iter().map(|it| it[field].as_u64().unwrap()).sum();
    (sum("sent_flows"), sum("forged_datagrams"))
}

#[test]
fn what_strangers_send_to_the_port_of_the_fleet_changes_nothing() {
    let fleet = fleet("fleet-strangers", &services("full-nat", 1), Replies::Direct);
    let mut flows = fleet.open(20).unwrap();
    fleet.wait_until_told().unwrap();
    // From an address that is not a node's: the connection is closed without a word, datagrams are not looked at.
    assert_closed(&fleet.client, "curl --silent --max-time 5 http://192.0.2.1:7946/");
    let stranger = udp_socket(&fleet.client, "203.0.113.100:7946".parse().unwrap()).unwrap();
    stranger.send_to(&forged(), "192.0.2.1:7946").unwrap();
    // From a node's address, without the secret.
    let host = &fleet.hosts[3];
    let node = udp_socket(host, "192.0.2.4:7946".parse().unwrap()).unwrap();
    for datagram in [&forged()[..], b"XLBF", &[0; 1400]] {
        node.send_to(datagram, "192.0.2.1:7946").unwrap();
    }
    until("three datagrams to be refused", Duration::from_secs(20), || Ok(told(&fleet, 1).1 == 3)).unwrap();
    assert_closed(host, "curl --silent --max-time 5 --interface 192.0.2.4 http://192.0.2.1:7946/");
    let shown = status(fleet.daemon(1)).unwrap();
    assert_eq!(shown["peers"][2]["state"], "unreachable");
    assert_eq!(shown["peers"][0]["state"], "synced");
    assert_unbroken(&fleet, &mut flows, "strangers were there");
}

/// The connection is closed without an answer, or reset.
fn assert_closed(host: &Host, command: &str) {
    let said = format!("{:#}", host.run(command).unwrap_err());
    assert!(said.contains("exit status: 52") || said.contains("exit status: 56"), "{said}");
}

/// A datagram with a head like a node's.
fn forged() -> Vec<u8> {
    [&b"XLBF\x01\x00"[..], &[7; 16], &[0; 8], &[9; 100]].concat()
}
