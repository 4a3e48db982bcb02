//! How connections are spread over backends.

use std::collections::BTreeMap;

use xdp_lb_tests::client::crowd;
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service};

/// With a secret of their own the same source ports reach the same backends every time.
const SECRET: &str =
    "flow_hash_secret = \"9f3a61d2c0b7e845aa10f4637d5c2e98b1460f7de3a95c8224d17b60ce8f3a59\"\n";

const CONNECTIONS: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;

/// Opens 10,000 connections over a service of TCP echo servers with these weights, and says how many each backend
/// got, by its own word; what the datapath counted must be the same.
fn spread(family: Family, mode: Mode, weights: &[u16]) -> Vec<u64> {
    let network = Network::new("spread", weights.len()).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, 7000).unwrap()).collect();
    let vip = (Network::vip(family), 7000).into();
    let mut service = Service::tcp("echo", vip).mode(mode);
    for (number, weight) in (1..).zip(weights) {
        service = service.backend(Network::endpoint(family, number, 7000), *weight);
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &format!("{SECRET}{service}")).unwrap();
    daemon.wait_until_up().unwrap();

    let source = Network::client_address(family);
    let answers = crowd(&network.client, source, FIRST_PORT, CONNECTIONS, vip).unwrap();
    let by_name = |name: &str| answers.get(name).copied().unwrap_or(0);
    let answered: Vec<_> = network.backends.iter().map(|host| by_name(host.name())).collect();

    let backends = daemon.backends(Some("echo")).unwrap();
    let counted: BTreeMap<_, _> = backends
        .iter()
        .map(|backend| {
            (backend["address"].as_str().unwrap(), backend["traffic"]["new_flows"].as_u64().unwrap())
        })
        .collect();
    for (number, answered) in (1..).zip(&answered) {
        let address = Network::endpoint(family, number, 7000).to_string();
        assert_eq!(counted[address.as_str()], *answered, "new flows of {address}");
    }
    let service = daemon.cli_json(&["service", "show", "echo"]).unwrap();
    assert_eq!(service["service"]["traffic"]["new_flows"], u64::from(CONNECTIONS));
    answered
}

/// Within 5 % of the weights.
fn assert_fair(answered: &[u64], weights: &[u16]) {
    let all: f64 = weights.iter().copied().map(f64::from).sum();
    for (answered, weight) in answered.iter().zip(weights) {
        let expected = f64::from(CONNECTIONS) * f64::from(*weight) / all;
        let off = (*answered as f64 - expected).abs();
        assert!(
            off <= 0.05 * expected,
            "{answered} connections, expected {expected:.0}; weights {weights:?}"
        );
    }
}

#[test]
fn ten_thousand_connections_are_spread_by_weight_within_5_percent() {
    let weights = [100, 200, 300];
    let answered = spread(Family::V4, Mode::FullNat, &weights);
    println!("{answered:?} by {weights:?}");
    assert_fair(&answered, &weights);
}

#[test]
fn equal_weights_get_equal_shares_and_weight_0_gets_nothing() {
    let weights = [100, 100, 100, 0];
    let answered = spread(Family::V6, Mode::Nat, &weights);
    println!("{answered:?} by {weights:?}");
    assert_fair(&answered, &weights);
    assert_eq!(answered[3], 0);
}
