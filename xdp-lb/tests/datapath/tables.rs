//! The tables from user space: what is written is there, counters add up, the census removes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use xdp_lb::datapath::{Census, TablesView};
use xdp_lb::model::Limits;
use xdp_lb::tables::Write;
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::flow::patience;
use xdp_lb_common::tables::{BackendIndex, Mode, RECORDS_FLOWS, Service, ServiceIndex, Traffic};

use crate::homes::Homes;
use crate::packets::{ACK, Frame, RST, SYN, ends};

const VIP: &str = "192.0.2.10:80";

/// What this thread has computed so far: a busy machine does not count.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has this clock").into()
}

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
fn packets_bytes_and_flows_are_counted_for_their_backend() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    let frame = Frame::tcp("203.0.113.5:40000", VIP, SYN);
    let (source, backend) = homes.translates(&frame, "198.51.100.2", &["198.51.100.11:8080"]);
    homes.translates(&Frame::tcp("203.0.113.5:40000", VIP, ACK), "198.51.100.2", &["198.51.100.11:8080"]);
    let reply = Frame::tcp(&backend.to_string(), &source.to_string(), SYN | ACK);
    homes.send(&reply);
    let bytes = frame.bytes().len() as u64;
    let expected = Traffic {
        packets_in: 2,
        bytes_in: 2 * bytes,
        packets_out: 1,
        bytes_out: bytes,
        new_flows: 1,
        accepted: 1,
        resets: 0,
        asked: 0,
    };
    assert_eq!(homes.kernel.backend_traffic(BackendIndex(1)).unwrap(), expected);
    assert_eq!(homes.host.backend_traffic.borrow()[&BackendIndex(1)], expected);
    homes.kernel.zero_backend_traffic(BackendIndex(1)).unwrap();
    assert_eq!(homes.kernel.backend_traffic(BackendIndex(1)).unwrap(), Traffic::default());
    assert_eq!(homes.kernel.backend_traffic(BackendIndex(5)).unwrap(), Traffic::default());
}

#[test]
fn what_a_backend_accepts_and_what_it_resets_is_counted() {
    for mode in [Mode::FullNat, Mode::Nat] {
        let mut homes = Homes::new();
        homes.service(VIP, Protocol::TCP, mode, &["198.51.100.11:8080"]);
        if mode == Mode::Nat {
            homes.reach_clients(&BTreeMap::from([("192.0.2.5", Some([2, 0, 0, 0, 0, 5]))]));
        }
        let sent = homes.send(&Frame::tcp("192.0.2.5:40000", VIP, SYN));
        let (source, backend) = ends(&sent.bytes);
        // A reset without an ACK answers a packet of no connection.
        for flags in [SYN | ACK, ACK, RST, RST | ACK, SYN | ACK] {
            homes.send(&Frame::tcp(&backend.to_string(), &source.to_string(), flags));
        }
        let traffic = homes.kernel.backend_traffic(BackendIndex(1)).unwrap();
        assert_eq!(homes.host.backend_traffic.borrow()[&BackendIndex(1)], traffic);
        let Traffic { packets_out, accepted, resets, .. } = traffic;
        assert_eq!((packets_out, accepted, resets), (5, 2, 1), "{mode:?}");
    }
}

#[test]
fn what_a_service_s_former_backends_counted_is_kept_with_the_tables() {
    let mut homes = Homes::new();
    let counted = Traffic {
        asked: 0,
        packets_in: 1,
        bytes_in: 2,
        packets_out: 3,
        bytes_out: 4,
        new_flows: 5,
        accepted: 6,
        resets: 7,
    };
    homes.kernel.set_former_traffic(ServiceIndex(5), counted).unwrap();
    assert_eq!(homes.kernel.former_traffic(ServiceIndex(5)).unwrap(), counted);
    assert_eq!(homes.kernel.former_traffic(ServiceIndex(4)).unwrap(), Traffic::default());
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
    assert_eq!(census.records, 5000);
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
        asymmetric_replies: true,
        flow_hash_secret: None,
        snat_ports: xdp_lb::model::PortRange { first: 2000, last: 2999 },
        timeouts: xdp_lb::model::Timeouts {
            tcp_idle: Duration::from_secs(900),
            udp_idle: Duration::from_secs(0),
        },
    };
    homes.kernel.set_policy(&policy).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    homes.host.settings.patience = patience(900, 0);
    assert_eq!(homes.census(), Census::default());
    assert_eq!(homes.records(), [0, 0], "they are gone from the tables too");
}

#[test]
fn what_is_swept_away_is_gone_and_the_rest_stays() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.change_service(VIP, Protocol::TCP, |service| service.options = RECORDS_FLOWS);
    homes.send(&Frame::tcp("203.0.113.5:40000", VIP, SYN));
    homes.send(&Frame::tcp("203.0.113.6:40000", VIP, SYN));
    let first = Address::from(IpAddr::from([203, 0, 113, 5]));
    homes.kernel.sweep_flows(|record| record.client().address != first);
    let mut left = Vec::new();
    homes.kernel.sweep_flows(|record| {
        left.push((record.client().address, record.backend()));
        false
    });
    assert_eq!(left, [(first, BackendIndex(1))]);
}

#[test]
fn a_census_counts_an_ipv6_flow_s_room_twice() {
    let mut homes = Homes::new();
    for (vip, backend, client) in [
        (VIP, "198.51.100.11:8080", "203.0.113.5:1"),
        ("[2001:db8::10]:80", "[2001:db8:2::11]:8080", "[2001:db8:9::5]:1"),
    ] {
        homes.service(vip, Protocol::TCP, Mode::FullNat, &[backend]);
        homes.send(&Frame::tcp(client, vip, SYN));
    }
    let census = homes.census();
    assert_eq!((census.records, census.live.values().sum::<u64>()), (3, 2));
}

#[test]
fn the_census_forgets_the_flows_of_a_backend_whose_place_another_has() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    homes.translates(&Frame::tcp("203.0.113.5:1", VIP, SYN), "198.51.100.2", &["198.51.100.11:8080"]);
    assert_eq!(homes.census().records, 1);
    homes.change_backend("198.51.100.11:8080", |backend| backend.port = Port::new(8081));
    assert_eq!(homes.census(), Census::default());
    assert_eq!(homes.records(), [0, 0]);
}

#[test]
fn a_count_while_the_tables_change_removes_no_record_that_is_of_use() {
    const ROUNDS: u32 = 3000;
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    let shown = |homes: &Homes| Arc::new(homes.kernel.read().unwrap());
    let view = Arc::new(TablesView::new(shown(&homes)));
    let mut keeper = homes.kernel.flow_keeper(Arc::clone(&view)).unwrap();
    let counter = std::thread::spawn(move || (0..).take_while(|_| keeper.count().is_ok()).count());
    for round in 0..ROUNDS {
        // Another backend in the same place: what was recorded of the one before is of no more use.
        view.hide();
        let ports = ["198.51.100.11:8080", "198.51.100.11:8081"];
        let (before, after) = if round % 2 == 0 { (ports[0], 8081) } else { (ports[1], 8080) };
        homes.change_backend(before, |backend| backend.port = Port::new(after));
        let client = format!("203.0.113.{}:{}", round / 1000, 10_000 + round % 1000);
        homes.send_to_kernel(&Frame::tcp(&client, VIP, SYN));
        view.show(shown(&homes));
        let mut is_there = false;
        homes.kernel.sweep_flows(|record| {
            is_there |= record.client().socket().to_string() == client;
            false
        });
        assert!(is_there, "the flow of round {round}");
    }
    view.end();
    let counts = counter.join().unwrap();
    assert!(counts > 100, "{counts} counts");
}

#[test]
fn vlan_devices_are_replaced_as_a_whole() {
    let mut homes = Homes::new();
    homes.kernel.set_vlans(&BTreeMap::from([(10, (2, 100)), (11, (2, 101))])).unwrap();
    homes.kernel.set_vlans(&BTreeMap::from([(11, (3, 101))])).unwrap();
    assert_eq!(homes.kernel.vlans().unwrap(), BTreeMap::from([(11, (3, 101))]));
}

#[test]
fn each_of_ten_thousand_services_is_found_until_it_is_removed() {
    const SERVICES: u32 = 10_000;
    let mut homes = Homes::with_limits(Limits {
        services: SERVICES,
        backends: 64,
        slots: 1024,
        flows: 1024,
        source_ranges: 64,
        source_rates: 1024,
        fragments: 1024,
    });
    let socket = |number: u32| {
        let address = Ipv4Addr::from_bits(0xc612_0000 + number / 2);
        SocketAddr::from((address, if number.is_multiple_of(2) { 80 } else { 443 }))
    };
    let vip = |number| Endpoint::from_socket(socket(number), Protocol::TCP);
    let put = |number| {
        // Without a backend: its packets end here, and say so.
        Write::Service(vip(number), Service { index: ServiceIndex(number), ..Service::default() })
    };
    let expect = |homes: &mut Homes, number: u32, reason| {
        homes.ends_with(&Frame::tcp("203.0.113.5:40000", &socket(number).to_string(), SYN), reason);
    };
    let sample = || (0..SERVICES).step_by(97);

    let begin = processor_time();
    homes.apply(&(0..SERVICES).map(put).collect::<Vec<_>>());
    let took = processor_time() - begin;
    // Far more than it takes (2 s), even on an emulated machine whose processors are not its own; far less than a system call for
    // each one that is there would.
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(homes.kernel.read().unwrap().services, homes.host.services);
    for number in sample() {
        expect(&mut homes, number, Reason::NoBackend);
    }
    // An odd one shares its address with the even one before it.
    let odd = (1..SERVICES).step_by(2);
    homes.apply(&odd.map(|number| Write::RemoveService(vip(number))).collect::<Vec<_>>());
    for number in sample() {
        let is_gone = !number.is_multiple_of(2);
        expect(&mut homes, number, if is_gone { Reason::NoService } else { Reason::NoBackend });
    }
    for number in sample().filter(|number| !number.is_multiple_of(2)) {
        homes.apply(&[put(number)]);
        expect(&mut homes, number, Reason::NoBackend);
    }
    assert_eq!(homes.kernel.read().unwrap().services, homes.host.services);
}

#[test]
fn a_packet_of_addresses_that_are_nobody_s_is_passed_unread() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    let mut truncated = Frame::tcp("203.0.113.5:40000", "192.0.2.77:80", SYN);
    truncated.payload.clear();
    for frame in
        [truncated.clone(), truncated.clone().tag(0x8100, 7), truncated.tag(0x88a8, 7).tag(0x8100, 8)]
    {
        // Its TCP header is cut short, which is not looked at.
        let bytes = frame.bytes();
        homes.bytes_end_with(&bytes[..bytes.len() - 10], Reason::NoService);
    }
    // A VIP as the sender, and a backend as the receiver, are nobody's either.
    homes.ends_with(&Frame::tcp(VIP, "203.0.113.5:40000", SYN), Reason::NoService);
    homes.ends_with(&Frame::tcp("203.0.113.5:40000", "198.51.100.11:8080", SYN), Reason::NoService);
}
