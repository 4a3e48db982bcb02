//! Backends come, go, drain, fail and change their weight every other second under 2,000 long connections: none whose
//! backend stays up or drains is broken.

use std::thread::sleep;
use std::time::{Duration, Instant};

use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Conversations, Daemon, Network, until};

const BACKENDS: usize = 7;
const CONNECTIONS: usize = 2_000;
/// How long a flow lives without a packet: short, so that slots come to rest while others begin to move; and longer than it
/// takes to ask all of them on a machine that does other things, too.
const IDLE: u64 = 15;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_connection_breaks_while_its_backend_is_up_and_the_ring_changes_every_other_second() {
    let network = Network::new("churn", BACKENDS).unwrap();
    let start = |number: usize| TcpEcho::start(&network.backends[number - 1], 7).unwrap();
    let mut servers: Vec<Option<TcpEcho>> = (1..=BACKENDS).map(|number| Some(start(number))).collect();
    let address = |number: usize| format!("{}:7", Network::backend(number));
    let name = |number: usize| format!("backend-{number}");
    let mut config = format!(
        "timeouts.tcp_idle = \"{IDLE}s\"\n[[service]]\nname = \"echo\"\nvip = \"192.0.2.10:7\"\nmode = \"nat\"\n\
         health_check = {{ type = \"tcp\", interval = \"1s\", fast_interval = \"200ms\", timeout = \"1s\", rise = 1, fall = 3 }}\n"
    );
    for number in 1..=5 {
        config += &format!("[[service.backend]]\naddress = \"{}\"\n", address(number));
    }
    let mut daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    // Where the backends came up one after the other, slots of the first ones have moved.
    until("the ring to settle", PATIENCE, || Ok(daemon.unsettled_slots("echo")? == 0)).unwrap();
    let vip = "192.0.2.10:7".parse().unwrap();
    let mut conversations = Conversations::open(&network.client, vip, CONNECTIONS).unwrap();
    let records = |daemon: &Daemon| daemon.cli_json(&["flows", "--limit", "0"]).unwrap()["matching"].clone();
    assert_eq!(records(&daemon), 0, "a settled ring remembers no flow");

    let mut exchanged = 0;
    let mut most_records = 0;
    // Each connection exchanges data at least once in two seconds, and none that is not expected to may break.
    let mut talk = |conversations: &mut Conversations, daemon: &Daemon, what: &str| {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            let broken = conversations.exchange();
            assert!(broken.is_empty(), "{what}: {} broke, such as {:?}", broken.len(), broken[0]);
            exchanged += conversations.len();
            sleep(Duration::from_millis(200));
        }
        most_records = most_records.max(records(daemon).as_u64().unwrap());
    };
    for round in 0..2 {
        // Drained: its flows stay, whatever else moves.
        daemon.cli(&["backend", "drain", "echo", &address(2)]).unwrap();
        talk(&mut conversations, &daemon, "drained");
        daemon.cli(&["backend", "add", "echo", &address(6)]).unwrap();
        daemon.wait_for_state("echo", &address(6), "up", PATIENCE).unwrap();
        talk(&mut conversations, &daemon, "added");
        daemon.cli(&["backend", "set-weight", "echo", &address(3), "300"]).unwrap();
        conversations.open_more(&network.client, vip, 100).unwrap();
        talk(&mut conversations, &daemon, "weighed");

        // Killed: its own are lost, and no other.
        drop(servers[3].take());
        daemon.wait_for_state("echo", &address(4), "down", PATIENCE).unwrap();
        conversations.forget(&name(4));
        talk(&mut conversations, &daemon, "killed");
        servers[3] = Some(start(4));
        daemon.wait_for_state("echo", &address(4), "up", PATIENCE).unwrap();
        conversations.open_more(&network.client, vip, 200).unwrap();
        talk(&mut conversations, &daemon, "brought back");

        daemon.cli(&["backend", "enable", "echo", &address(2)]).unwrap();
        daemon.cli(&["backend", "set-weight", "echo", &address(3), "50"]).unwrap();
        talk(&mut conversations, &daemon, "enabled");
        if round == 0 {
            daemon.kill().unwrap();
            talk_without(&mut conversations);
            daemon.run().unwrap();
            daemon.wait_until_up().unwrap();
            talk(&mut conversations, &daemon, "restarted");
        }

        // A longer ring, so that the one of the least weight has ten slots: each has what one of the shorter had.
        for host in 1..=6 {
            let same_host = format!("{}:{}", Network::backend(7), 1000 + host);
            let weight = if host == 1 { "5" } else { "100" };
            daemon.cli(&["backend", "add", "echo", &same_host, "--weight", weight]).unwrap();
        }
        let slots = &daemon.cli_json(&["service", "show", "echo"]).unwrap()["service"]["ring_slots"];
        assert_eq!(slots, 8_128, "a light backend needs a longer ring");
        talk(&mut conversations, &daemon, "grown");
        for host in 1..=6 {
            let same_host = format!("{}:{}", Network::backend(7), 1000 + host);
            daemon.cli(&["backend", "remove", "echo", &same_host, "--now"]).unwrap();
        }
        daemon.cli(&["backend", "remove", "echo", &address(6), "--now"]).unwrap();
        conversations.forget(&name(6));
        talk(&mut conversations, &daemon, "removed");
    }
    println!(
        "{exchanged} exchanges over {} connections, {most_records} records at most",
        conversations.len()
    );
    assert!(most_records > 200, "{most_records} records: the ring did not move");
    assert!(conversations.len() > CONNECTIONS / 3, "{} are left", conversations.len());
}

/// While no daemon runs.
fn talk_without(conversations: &mut Conversations) {
    let broken = conversations.exchange();
    assert!(broken.is_empty(), "{} broke without a daemon", broken.len());
}
