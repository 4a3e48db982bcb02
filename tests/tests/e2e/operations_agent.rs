//! Backends whose agents set their weight and state.

use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::{Agent, TcpEcho};
use xdp_lb_tests::{Conversations, Daemon, Mode, Network, Service, Site, until, web_backend};

const PATIENCE: Duration = Duration::from_secs(30);

/// The service `web` over backends with an echo server and an agent each, which all say the same.
struct Bed {
    daemon: Daemon,
    agents: Vec<Option<Agent>>,
    network: Network,
    _servers: Vec<TcpEcho>,
}

impl Bed {
    fn start(name: &str, backends: usize, line: &str) -> Self {
        let network = Network::new(name, backends).unwrap();
        let hosts = || network.backends.iter();
        let servers = hosts().map(|host| TcpEcho::start(host, 8080).unwrap()).collect();
        let agents = hosts().map(|host| Some(Agent::start(host, 8081, line).unwrap())).collect();
        let service = Service::tcp("web", Site::vip())
            .mode(Mode::Nat)
            .key(r#"agent = { port = 8081, interval = "500ms", timeout = "500ms" }"#)
            .key(r#"feedback = { hold = "1s" }"#)
            .backends((1..=backends).map(|number| web_backend(number).parse().unwrap()));
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
        daemon.wait_until_up().unwrap();
        Self { daemon, agents, network, _servers: servers }
    }

    /// Sets the reply of this backend's agent; backends are counted from 1.
    fn say(&self, number: usize, line: &str) {
        self.agents[number - 1].as_ref().expect("it was not stopped").say(line);
    }

    fn open(&self, count: usize) -> Conversations {
        Conversations::open(&self.network.client, Site::vip(), count).unwrap()
    }

    fn backend(&self, number: usize) -> Value {
        self.daemon.backends(Some("web")).unwrap().swap_remove(number - 1)
    }

    fn wait_for_state(&self, number: usize, state: &str) -> Duration {
        self.daemon.wait_for_state("web", &web_backend(number), state, PATIENCE).unwrap()
    }

    fn wait_for_weight(&self, number: usize, ratio: f64) {
        until(&format!("backend {number} to have {ratio} of its weight"), PATIENCE, || {
            Ok(self.backend(number)["weight_ratio"] == ratio)
        })
        .unwrap();
    }

    fn agent_up(&self, number: usize) -> f64 {
        self.daemon.metric("xdp_lb_backend_agent_up", &[("backend", &web_backend(number))]).unwrap()
    }
}

#[test]
fn a_backend_gets_the_share_of_new_flows_that_its_agent_asks_for() {
    let bed = Bed::start("weights", 3, "up ready 100%\n");
    let before = bed.open(300);
    assert!((65..135).contains(&before.with("backend-2")), "{}", before.with("backend-2"));

    bed.say(2, "50% # two of four\tworkers");
    bed.wait_for_weight(2, 0.5);
    // A fifth, of which as many are some seven more or less.
    let after = bed.open(300);
    assert!((30..=90).contains(&after.with("backend-2")), "{}", after.with("backend-2"));
    let share = bed.backend(2)["share"].as_f64().unwrap();
    assert!((0.19..0.21).contains(&share), "{share}");
    let list = bed.daemon.cli(&["backend", "list"]).unwrap();
    assert!(list.contains("50 % of 100"), "{list}");
    let agent = &bed.backend(2)["agent"];
    assert_eq!(
        (&agent["percent"], &agent["admin"], &agent["trouble"]),
        (&50.into(), &"ready".into(), &Value::Null)
    );
    let ratio = bed.daemon.metric("xdp_lb_backend_weight_ratio", &[("backend", &web_backend(2))]).unwrap();
    assert_eq!(ratio, 0.5);
    assert!(bed.daemon.log().contains("50 % of its weight 100: agent: ready up 50% # two of four"));

    // What is near changes nothing, however often it is said.
    let shares = || [1, 2, 3].map(|number| bed.backend(number)["share"].as_f64().unwrap());
    let present = shares();
    for percent in [45, 55, 41, 59] {
        bed.say(2, &format!("{percent}%"));
        until("the agent to be heard", PATIENCE, || Ok(bed.backend(2)["agent"]["percent"] == percent))
            .unwrap();
        assert_eq!(shares(), present);
    }
    bed.say(2, "100%");
    bed.wait_for_weight(2, 1.0);
}

#[test]
fn a_backend_is_drained_taken_down_and_used_again_by_its_agent() {
    let mut bed = Bed::start("words", 2, "up ready 100%\n");
    let mut talks = bed.open(40);
    let with_second = talks.with("backend-2");
    assert!(with_second > 0);

    bed.say(2, "drain # for the night");
    let took = bed.wait_for_state(2, "draining");
    println!("drained after {took:?}");
    until("the agent's reason", PATIENCE, || Ok(bed.backend(2)["reason"] == "agent: drain # for the night"))
        .unwrap();
    assert_eq!(bed.open(40).with("backend-2"), 0, "no new ones");
    assert!(talks.exchange().is_empty(), "and those that it has go on");
    assert_eq!(talks.with("backend-2"), with_second);
    // A daemon that starts anew does not let it have flows before it has heard of its agent.
    bed.daemon.kill().unwrap();
    bed.daemon.run().unwrap();
    assert_eq!(bed.open(40).with("backend-2"), 0);
    assert_eq!(bed.backend(2)["state"], "draining", "{}", bed.backend(2));

    bed.say(2, "up");
    until("the agent to say up", PATIENCE, || Ok(bed.backend(2)["agent"]["note"].is_null())).unwrap();
    assert_eq!(bed.backend(2)["state"], "draining", "it is not ready");
    bed.say(2, "ready");
    bed.wait_for_state(2, "up");
    assert!(bed.open(40).with("backend-2") > 0);

    bed.say(2, "down # disk full");
    bed.wait_for_state(2, "down");
    let backend = bed.backend(2);
    assert_eq!(backend["reason"], "agent: down # disk full; established flows are kept while it answers");
    assert_eq!(backend["health"], "up", "its check is green");
    assert_eq!(bed.open(40).with("backend-2"), 0);
    bed.say(2, "up");
    bed.wait_for_state(2, "up");
    assert!(bed.open(40).with("backend-2") > 0);

    // The operator wins.
    bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    bed.say(2, "up ready 100%");
    until("the agent to be heard", PATIENCE, || Ok(bed.backend(2)["agent"]["percent"] == 100)).unwrap();
    assert_eq!(bed.backend(2)["reason"], "drained by the operator");
    assert_eq!(bed.open(40).with("backend-2"), 0);
}

#[test]
fn an_agent_that_dies_or_sends_nonsense_changes_nothing_and_is_shown() {
    let mut bed = Bed::start("nonsense", 2, "up ready 50%\n");
    bed.wait_for_weight(2, 0.5);
    until("the agent to be asked", PATIENCE, || Ok(bed.agent_up(2) == 1.0)).unwrap();
    bed.agents[1] = None;
    let trouble = |bed: &Bed, words: &str| {
        until(&format!("the trouble {words:?}"), PATIENCE, || {
            let backend = bed.backend(2);
            // What an agent says is known before what follows from it.
            Ok(backend["agent"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(words))
                && backend["reason"].as_str().is_some_and(|it| it.contains("; its agent is unreachable: ")))
        })
        .unwrap();
        let backend = bed.backend(2);
        assert_eq!((&backend["state"], &backend["weight_ratio"]), (&"up".into(), &0.5.into()), "{backend}");
    };
    trouble(&bed, "connection refused");
    until("the metrics to say so", PATIENCE, || Ok((bed.agent_up(1), bed.agent_up(2)) == (1.0, 0.0)))
        .unwrap();
    assert!(bed.open(40).with("backend-2") > 0);
    let told = |line: &&str| line.contains("its agent is unreachable") && line.contains("connection refused");
    assert_eq!(bed.daemon.log().lines().filter(told).count(), 1, "it is logged once");

    for (line, words) in [
        ("down, says who?\n", "agent reply not understood: unknown word \"says\""),
        ("down", "it closed the connection before the end of its line"),
        (&"down ".repeat(1000), "its line is longer than 1024 bytes"),
        ("SSH-2.0-OpenSSH_9.9\r\n", "unknown word"),
    ] {
        bed.agents[1] = Some(Agent::start(&bed.network.backends[1], 8081, line).unwrap());
        trouble(&bed, words);
        bed.agents[1] = None;
    }
    bed.agents[1] = Some(Agent::start(&bed.network.backends[1], 8081, "drain\n").unwrap());
    bed.wait_for_state(2, "draining");
    until("the agent to be asked again", PATIENCE, || Ok(bed.agent_up(2) == 1.0)).unwrap();
}
