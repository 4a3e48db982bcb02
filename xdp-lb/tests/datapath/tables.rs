//! The tables from user space: what is written is there, counters add up, the census removes.

use std::collections::BTreeMap;

use xdp_lb::datapath::Census;
use xdp_lb_common::flow::patience;
use xdp_lb_common::net::{Port, Protocol};
use xdp_lb_common::tables::{BackendIndex, Mode, RECORDS_FLOWS, ServiceIndex, Traffic};

use crate::homes::Homes;
use crate::packets::{ACK, Frame, SYN};

const VIP: &str = "192.0.2.10:80";

#[test]
fn what_was_written_is_read_back_for_adoption() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080", "198.51.100.12:8080"]);
    homes.service("192.0.2.10:53", Protocol::UDP, Mode::Nat, &["198.51.100.11:5353"]);
    let tables = homes.kernel.read().unwrap();
    assert_eq!(tables.services, homes.host.services);
    assert_eq!(tables.replies, homes.host.replies);
    assert_eq!(tables.backends.len(), 3);
    for (index, backend) in &tables.backends {
        assert_eq!(backend, &homes.host.backends[index.0 as usize]);
    }
    for (first, slots) in &tables.rings {
        assert_eq!(slots, &homes.host.slots[first.0 as usize..][..slots.len()]);
    }
    assert_eq!(tables.rings.len(), 2);
}

#[test]
fn packets_bytes_and_flows_are_counted_for_service_and_backend() {
    let mut homes = Homes::new();
    let service = homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    let frame = Frame::tcp("203.0.113.5:40000", VIP, SYN);
    let (source, backend) = homes.translates(&frame, "198.51.100.2", &["198.51.100.11:8080"]);
    homes.translates(&Frame::tcp("203.0.113.5:40000", VIP, ACK), "198.51.100.2", &["198.51.100.11:8080"]);
    let reply = Frame::tcp(&backend.to_string(), &source.to_string(), SYN | ACK);
    homes.send(&reply);
    let bytes = frame.bytes().len() as u64;
    let expected =
        Traffic { packets_in: 2, bytes_in: 2 * bytes, packets_out: 1, bytes_out: bytes, new_flows: 1 };
    assert_eq!(homes.kernel.service_traffic(service).unwrap(), expected);
    assert_eq!(homes.kernel.backend_traffic(BackendIndex(1)).unwrap(), expected);
    assert_eq!(homes.host.service_traffic.borrow()[&service], expected);
    homes.kernel.zero_service_traffic(service).unwrap();
    assert_eq!(homes.kernel.service_traffic(service).unwrap(), Traffic::default());
    assert_eq!(homes.kernel.service_traffic(ServiceIndex(5)).unwrap(), Traffic::default());
}

#[test]
fn the_census_counts_every_live_flow_once() {
    let mut homes = Homes::with_flows(65_536);
    homes.service(VIP, Protocol::TCP, Mode::Nat, &["198.51.100.11:8080", "198.51.100.12:8080"]);
    homes.change_service(VIP, Protocol::TCP, |service| service.options = RECORDS_FLOWS);
    for number in 0..5000u32 {
        let client = format!("203.0.113.{}:{}", number / 1000, 10_000 + number % 1000);
        homes.send(&Frame::tcp(&client, VIP, SYN));
    }
    let census = homes.census();
    assert_eq!(census.records, [0, 5000]);
    assert_eq!(census.live.values().sum::<u64>(), 5000);
    assert!(census.live.values().all(|live| (2300..2700).contains(live)), "{census:?}");
}

#[test]
fn the_census_removes_what_is_over() {
    let mut homes = Homes::with_flows(65_536);
    homes.service("192.0.2.10:53", Protocol::UDP, Mode::Nat, &["198.51.100.11:5353"]);
    homes.change_service("192.0.2.10:53", Protocol::UDP, |service| service.options = RECORDS_FLOWS);
    for number in 0..5000u32 {
        let client = format!("203.0.113.{}:{}", number / 1000, 10_000 + number % 1000);
        homes.send(&Frame::udp(&client, "192.0.2.10:53"));
    }
    let policy = xdp_lb::datapath::Policy {
        flow_hash_secret: None,
        snat_ports: xdp_lb::config::PortRange { first: 2000, last: 2999 },
        timeouts: xdp_lb::config::Timeouts {
            tcp_idle: std::time::Duration::from_secs(900),
            udp_idle: std::time::Duration::from_secs(0),
        },
    };
    homes.kernel.set_policy(&policy).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    homes.host.settings.patience = patience(900, 0);
    assert_eq!(homes.census(), Census::default());
    assert_eq!(homes.records(), [0, 0], "they are gone from the tables too");
}

#[test]
fn the_census_forgets_the_flows_of_a_backend_whose_place_another_has() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    homes.translates(&Frame::tcp("203.0.113.5:1", VIP, SYN), "198.51.100.2", &["198.51.100.11:8080"]);
    assert_eq!(homes.census().records, [0, 2]);
    homes.change_backend("198.51.100.11:8080", |backend| backend.port = Port::new(8081));
    assert_eq!(homes.census(), Census::default());
    assert_eq!(homes.records(), [0, 0]);
}

#[test]
fn vlan_devices_are_replaced_as_a_whole() {
    let mut homes = Homes::new();
    homes.kernel.set_vlans(&BTreeMap::from([(10, (2, 100)), (11, (2, 101))])).unwrap();
    homes.kernel.set_vlans(&BTreeMap::from([(11, (3, 101))])).unwrap();
    assert_eq!(homes.kernel.vlans().unwrap(), BTreeMap::from([(11, (3, 101))]));
}
