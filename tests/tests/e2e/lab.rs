//! The lab itself: without a load balancer, its hosts reach each other by plain routing.

use std::net::UdpSocket;
use std::time::Duration;

use xdp_lb_tests::servers::{Dnsmasq, Nginx, UdpEcho};
use xdp_lb_tests::{BIG_FILE_BYTES, Network, big_file, sha256};

#[test]
fn a_client_reaches_every_server_of_every_backend_over_v4_and_v6() {
    let network = Network::new("lab", 2).unwrap();
    for (number, backend) in (1..).zip(&network.backends) {
        let _nginx = Nginx::start(backend, 8080).unwrap();
        let _dnsmasq = Dnsmasq::start(backend, 53).unwrap();
        let _echo = UdpEcho::start(backend, 7).unwrap();
        let (v4, v6) = (Network::backend(number), Network::backend6(number));
        for authority in [format!("{v4}:8080"), format!("[{v6}]:8080")] {
            let name = network.client.run(&format!("curl -sSf http://{authority}/")).unwrap();
            assert_eq!(name.trim(), backend.name());
        }
        for address in [&v4, &v6] {
            let name = network.client.run(&format!("dig +short TXT whoami.example.test @{address}")).unwrap();
            assert_eq!(name.trim(), format!("\"{}\"", backend.name()));

            let socket = network.client.enter(|| UdpSocket::bind(("::", 0))).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let address = if address.contains(':') { address.clone() } else { format!("::ffff:{address}") };
            socket.send_to(b"hello", (address.as_str(), 7)).unwrap();
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!(answer[..length], *format!("{} hello", backend.name()).as_bytes());
        }
    }
}

#[test]
fn a_stopped_server_refuses_and_an_unhealthy_one_reports_it() {
    let network = Network::new("lab", 1).unwrap();
    let mut nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let status = || {
        network
            .client
            .run("curl -s -o /dev/null -w %{http_code} http://198.51.100.11:8080/healthz")
            .map_err(drop)
    };
    assert_eq!(status(), Ok("200".to_owned()));
    nginx.set_healthy(false).unwrap();
    assert_eq!(status(), Ok("503".to_owned()));
    nginx.stop();
    assert_eq!(status(), Err(()));
    nginx.restart().unwrap();
    assert_eq!(status(), Ok("200".to_owned()));
}

#[test]
fn the_big_file_arrives_whole() {
    let network = Network::new("lab", 1).unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let copy = network.client.dir().join("copy");
    network.client.run(&format!("curl -sSf -o {} http://198.51.100.11:8080/big", copy.display())).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), BIG_FILE_BYTES);
    assert_eq!(sha256(&copy).unwrap(), sha256(&big_file().unwrap()).unwrap());
}
