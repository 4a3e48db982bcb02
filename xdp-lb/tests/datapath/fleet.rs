//! Flows that another load balancer has handed over.

use std::collections::BTreeMap;

use xdp_lb::fleet::SharedFlow;
use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::flow::{CONFIRMED, ESTABLISHED, PAIRED};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, Mode};

use crate::homes::{Homes, hex};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, Frame, LB_BACKEND_MAC, LB_MAC, SYN};

/// Where the routes towards the client lead, which its packets do not come from.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn flow(protocol: Protocol, [client, vip, source, backend]: [&str; 4], progress: u8) -> SharedFlow {
    let end = |text: &str| Endpoint::from_socket(text.parse().unwrap(), protocol);
    let [client, vip, source, backend] = [client, vip, source, backend].map(end);
    SharedFlow { client, vip, source, backend, progress, proof: 0, idle: 3 }
}

#[test]
fn a_full_nat_flow_of_another_node_goes_on_and_its_replies_leave_by_the_routes_until_the_client_sends() {
    let rows = [
        (Protocol::TCP, ["192.0.2.100:40000", "192.0.2.10:80", "198.51.100.77:2000", "198.51.100.11:8080"]),
        (Protocol::UDP, ["192.0.2.100:40000", "192.0.2.10:53", "198.51.100.77:2000", "198.51.100.11:5353"]),
        (
            Protocol::TCP,
            [
                "[2001:db8:1::100]:40000",
                "[2001:db8::10]:80",
                "[2001:db8:2::77]:2000",
                "[2001:db8:2::11]:8080",
            ],
        ),
    ];
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(ROUTER_MAC)),
        ("2001:db8:1::100", Some(ROUTER_MAC)),
    ]));
    for (protocol, ends) in rows {
        let [client, vip, source, backend] = ends;
        println!("{vip} {protocol:?}");
        homes.service(vip, protocol, Mode::FullNat, &[backend]);
        let make = |from: &str, to: &str, flags| match protocol {
            Protocol::TCP => Frame::tcp(from, to, flags),
            _ => Frame::udp(from, to),
        };
        let mut reply = make(backend, source, ACK);
        (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
        homes.take_in(&flow(protocol, ends, ESTABLISHED | CONFIRMED | PAIRED));
        let leaves = |macs| reply.leaving(vip.parse().unwrap(), client.parse().unwrap(), macs);

        let by_route = homes.send(&reply);
        assert_eq!(by_route.verdict, Verdict::Redirect(index));
        assert_eq!(hex(&by_route.bytes), hex(&leaves((LB_MAC, ROUTER_MAC)).bytes()));
        let snat = source.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
        // The first packet that is noted in a second fills in the way back.
        homes.next_second();
        let (seen, _) = homes.translates(&make(client, vip, ACK), snat, &[backend]);
        assert_eq!(seen.to_string(), source, "the backend sees the same client as before");
        let by_client = homes.send(&reply);
        assert_eq!(by_client.verdict, Verdict::Transmit);
        assert_eq!(hex(&by_client.bytes), hex(&leaves((LB_MAC, CLIENT_MAC)).bytes()));
        homes.records();
    }
}

#[test]
fn a_reply_whose_client_no_route_leads_to_is_dropped() {
    let mut homes = Homes::new();
    homes.reach_clients(&BTreeMap::from([("192.0.2.101", None)]));
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    let ends = ["192.0.2.101:40000", "192.0.2.10:80", "198.51.100.77:2000", "198.51.100.11:8080"];
    homes.take_in(&flow(Protocol::TCP, ends, ESTABLISHED | CONFIRMED | PAIRED));
    let mut reply = Frame::tcp(ends[3], ends[2], ACK);
    (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
    homes.ends_with(&reply, Reason::ReplyNeighbourMissing);
}

#[test]
fn a_flow_of_another_node_stays_with_its_backend_where_the_slot_says_otherwise() {
    let mut homes = Homes::new();
    let backends = ["198.51.100.11:8080", "198.51.100.12:8080"];
    let service = homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &backends);
    homes.move_slots(service, Slot::moving(BackendIndex(1), BackendIndex(1)));
    let client = "203.0.113.5:40000";
    let ends = [client, "192.0.2.10:80", client, backends[1]];
    homes.take_in(&flow(Protocol::TCP, ends, ESTABLISHED | CONFIRMED));
    homes.forwards(&Frame::tcp(client, "192.0.2.10:80", ACK), client, backends[1]);
    let other = "203.0.113.5:40001";
    homes.forwards(&Frame::tcp(other, "192.0.2.10:80", SYN), other, backends[0]);
}
