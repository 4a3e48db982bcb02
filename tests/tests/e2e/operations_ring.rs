//! One of ten backends is removed: existing flows stay, and few new ones move.

use std::thread::sleep;
use std::time::Duration;

use xdp_lb_tests::servers::UdpEcho;
use xdp_lb_tests::{Daemon, Network, UdpFlows};

const BACKENDS: usize = 10;
const FLOWS: usize = 300;

#[test]
fn removing_one_of_ten_backends_moves_its_own_new_flows_and_few_others() {
    let network = Network::new("ring", BACKENDS).unwrap();
    let _echo: Vec<_> = network.backends.iter().map(|host| UdpEcho::start(host, 7).unwrap()).collect();
    let mut config = "[timeouts]\nudp_idle = \"5s\"\n[[service]]\nname = \"echo\"\nvip = \"192.0.2.10:7\"\n\
                      protocol = \"udp\"\n"
        .to_owned();
    let address = |number| format!("{}:7", Network::backend(number));
    for number in 1..=BACKENDS {
        config += &format!("[[service.backend]]\naddress = \"{}\"\n", address(number));
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    for number in 1..=BACKENDS {
        daemon.wait_for_state("echo", &address(number), "up", Duration::from_secs(30)).unwrap();
    }
    let vip = "192.0.2.10:7".parse().unwrap();
    // Some go on all the time; the others end, and the same are begun again later.
    let mut lasting = UdpFlows::open(&network.client, vip, 20_000..20_000 + FLOWS as u16).unwrap();
    let mut again = UdpFlows::open(&network.client, vip, 30_000..30_000 + FLOWS as u16).unwrap();
    // The first question of all lets every backend find its way back to the load balancer.
    lasting.ask();
    let before = again.ask();
    let lasting_before = lasting.ask();
    assert!(before.iter().chain(&lasting_before).all(Option::is_some), "{before:?}");
    let on_fourth = |flows: &[Option<String>]| flows.iter().flatten().filter(|it| *it == "backend-4").count();
    assert!(on_fourth(&before) > 0 && on_fourth(&lasting_before) > 0, "{before:?}");
    let mut idle = |rounds| {
        for _ in 0..rounds {
            sleep(Duration::from_secs(1));
            assert_eq!(lasting.ask(), lasting_before, "a flow that is there stays where it is");
        }
    };

    // Drained: flows that are there stay, also those of the drained one.
    daemon.cli(&["backend", "drain", "echo", &address(4)]).unwrap();
    idle(8);
    let after = again.ask();
    assert!(after.iter().all(Option::is_some), "{after:?}");
    assert_eq!(on_fourth(&after), 0, "a drained backend got a new flow");
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before.as_deref() != Some("backend-4") && before != after);
    let moved = moved.count();
    println!("{moved} of {FLOWS} new flows go elsewhere, besides the {} of backend 4", on_fourth(&before));
    // Of a ring of 1,016 slots some 3 % move; of 300 flows, that is 10, and seldom more than 20.
    assert!(moved * 100 <= FLOWS * 8, "{moved} of {FLOWS} new flows moved without need");

    // Back again: what it had comes back to it.
    daemon.cli(&["backend", "enable", "echo", &address(4)]).unwrap();
    idle(8);
    assert_eq!(again.ask(), before, "the ring of the same backends is the same ring");

    // Removed: its flows go elsewhere, and no other's.
    daemon.cli(&["backend", "remove", "echo", &address(4), "--now"]).unwrap();
    let after = lasting.ask();
    for (before, after) in lasting_before.iter().zip(&after) {
        match before.as_deref() {
            Some("backend-4") => {
                assert!(after.is_some() && after.as_deref() != Some("backend-4"), "{after:?}")
            }
            _ => assert_eq!(before, after, "a flow of another backend moved"),
        }
    }
}

#[test]
fn a_balancer_with_past_changes_chooses_the_same_backends_as_a_freshly_started_one() {
    let network = Network::new("ring-history", 3).unwrap();
    let _echo: Vec<_> = network.backends.iter().map(|host| UdpEcho::start(host, 7).unwrap()).collect();
    let address = |number| format!("{}:7", Network::backend(number));
    let mut config = format!(
        "flow_hash_secret = \"{}\"\n[timeouts]\nudp_idle = \"5s\"\n[[service]]\nname = \"echo\"\nvip = \"192.0.2.10:7\"\n\
         protocol = \"udp\"\nmode = \"nat\"\nhealth_check = {{ type = \"none\" }}\n",
        "07".repeat(32)
    );
    for number in 1..=3 {
        config += &format!("[[service.backend]]\naddress = \"{}\"\n", address(number));
    }
    let mut daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let slots = |daemon: &Daemon| {
        daemon.cli_json(&["service", "show", "echo"]).unwrap()["service"]["ring_slots"].clone()
    };
    assert_eq!(slots(&daemon), 1016);
    let vip = "192.0.2.10:7".parse().unwrap();
    let mut lasting = UdpFlows::open(&network.client, vip, 20_000..20_100).unwrap();
    lasting.ask();
    let before = lasting.ask();
    assert!(before.iter().all(Option::is_some), "{before:?}");
    // A weight that is small against the others wants a longer ring; then all are alike again.
    daemon.cli(&["backend", "set-weight", "echo", &address(1), "1"]).unwrap();
    assert_eq!(slots(&daemon), 8128);
    daemon.cli(&["backend", "set-weight", "echo", &address(1), "100"]).unwrap();
    let mut waited = 0;
    while slots(&daemon) != 1016 || daemon.unsettled_slots("echo").unwrap() > 0 {
        assert_eq!(lasting.ask(), before, "a flow that is there stays where it is");
        sleep(Duration::from_secs(1));
        waited += 1;
        assert!(waited < 90, "the ring does not become shorter: {} slots", slots(&daemon));
    }
    drop(lasting);
    let mut new = UdpFlows::open(&network.client, vip, 30_000..30_300).unwrap();
    let chosen = new.ask();
    daemon.cli(&["unload"]).unwrap();
    daemon.run().unwrap();
    daemon.wait_until_up().unwrap();
    assert_eq!(new.ask(), chosen);
}
