//! ICMP: echo requests to VIPs.

use xdp_lb::tables::Write;
use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::Mode;

use crate::homes::{Homes, hex};
use crate::packets::{CLIENT_MAC, Icmp, LB_MAC};

const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";
const CLIENT: &str = "203.0.113.5";
const CLIENT6: &str = "2001:db8:1::5";

fn homes() -> Homes {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.service("[2001:db8::10]:53", Protocol::UDP, Mode::FullNat, &["[2001:db8:2::11]:53"]);
    homes
}

#[test]
fn an_echo_request_to_a_vip_is_answered_where_it_came_from() {
    let mut homes = homes();
    for (client, vip, reply) in [(CLIENT, VIP, 0), (CLIENT6, VIP6, 129)] {
        for tags in [vec![], vec![(0x8100, 42)], vec![(0x88a8, 7), (0x8100, 42)]] {
            let question = Icmp { tags, ..Icmp::echo(client, vip) };
            let outcome = homes.send_bytes(&question.bytes());
            assert_eq!(outcome.verdict, Verdict::Transmit);
            let answer = Icmp {
                from: question.to,
                to: question.from,
                from_mac: LB_MAC,
                to_mac: CLIENT_MAC,
                kind: reply,
                ttl: 64,
                ..question
            };
            assert_eq!(hex(&outcome.bytes), hex(&answer.bytes()));
        }
    }
}

#[test]
fn an_echo_request_to_another_address_is_the_host_s() {
    let mut homes = homes();
    for (client, other) in [(CLIENT, "192.0.2.11"), (CLIENT6, "2001:db8::11"), (CLIENT, "198.51.100.11")] {
        homes.bytes_end_with(&Icmp::echo(client, other).bytes(), Reason::NotTcpOrUdp);
    }
}

#[test]
fn an_address_is_a_vip_s_as_long_as_any_service_has_it() {
    let mut homes = homes();
    homes.service("192.0.2.10:53", Protocol::UDP, Mode::Nat, &["198.51.100.11:53"]);
    let question = Icmp::echo(CLIENT, VIP).bytes();
    let vip = |port, protocol| {
        Endpoint::from_socket((VIP.parse::<std::net::IpAddr>().unwrap(), port).into(), protocol)
    };
    homes.apply(&[Write::RemoveService(vip(80, Protocol::TCP))]);
    assert_eq!(homes.send_bytes(&question).verdict, Verdict::Transmit);
    homes.apply(&[Write::RemoveService(vip(53, Protocol::UDP))]);
    homes.bytes_end_with(&question, Reason::NotTcpOrUdp);
}

#[test]
fn what_is_no_plain_question_of_one_host_is_not_answered() {
    let mut homes = homes();
    for source in ["224.0.0.1", "255.255.255.255", "0.0.0.0"] {
        homes.bytes_end_with(&Icmp::echo(source, VIP).bytes(), Reason::NotTcpOrUdp);
    }
    for source in ["ff02::1", "::"] {
        homes.bytes_end_with(&Icmp::echo(source, VIP6).bytes(), Reason::NotTcpOrUdp);
    }
    // An answer, a timestamp request, a neighbour solicitation.
    for (client, vip, kind) in
        [(CLIENT, VIP, 0), (CLIENT, VIP, 13), (CLIENT6, VIP6, 129), (CLIENT6, VIP6, 135)]
    {
        let message = Icmp { kind, ..Icmp::echo(client, vip) };
        homes.bytes_end_with(&message.bytes(), Reason::NotTcpOrUdp);
    }
    // IPv4's question in IPv6, and the other way about.
    homes.bytes_end_with(&Icmp { kind: 8, ..Icmp::echo(CLIENT6, VIP6) }.bytes(), Reason::NotTcpOrUdp);
    homes.bytes_end_with(&Icmp { kind: 128, ..Icmp::echo(CLIENT, VIP) }.bytes(), Reason::NotTcpOrUdp);
    // Less than a header.
    let mut short = Icmp { payload: Vec::new(), ..Icmp::echo(CLIENT6, VIP6) }.bytes();
    short[19] = 7;
    homes.bytes_end_with(&short, Reason::Malformed);
    // With IP options.
    let mut options = Icmp::echo(CLIENT, VIP).bytes();
    options[14] = 0x46;
    options.splice(34..34, [1, 1, 1, 0]);
    options[17] += 4;
    homes.bytes_end_with(&options, Reason::NotTcpOrUdp);
}

#[test]
fn a_question_that_is_damaged_stays_damaged() {
    let mut homes = homes();
    for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        let mut question = Icmp::echo(client, vip).bytes();
        *question.last_mut().unwrap() ^= 0x40;
        let whole = homes.send_bytes(&Icmp::echo(client, vip).bytes()).bytes;
        let damaged = homes.send_bytes(&question).bytes;
        let differing = whole.iter().zip(&damaged).filter(|(one, other)| one != other).count();
        assert_eq!(differing, 1, "the checksum is the one that the question had, less the kind");
    }
}
