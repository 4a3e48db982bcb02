//! The largest segment that a connection's first packets announce.

use std::collections::BTreeMap;

use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::tables::Mode;

use crate::homes::{EGRESS, Homes, hex};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, Frame, LB_BACKEND_MAC, LB_MAC, SYN, ends};

const FAMILIES: [([&str; 3], usize); 2] = [
    (["192.0.2.10:80", "198.51.100.11:8080", "192.0.2.100:40000"], 40),
    (["[2001:db8::10]:80", "[2001:db8:2::11]:8080", "[2001:db8:1::100]:40000"], 60),
];

/// Where the size stands in these options: first, behind others, at an odd place.
fn options(size: u16) -> Vec<Vec<u8>> {
    let [high, low] = size.to_be_bytes();
    vec![
        vec![2, 4, high, low],
        vec![2, 4, high, low, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7],
        vec![1, 1, 4, 2, 2, 4, high, low],
        vec![1, 2, 4, high, low, 0, 0, 0],
        vec![3, 3, 7, 2, 4, high, low, 1],
        vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, high, low, 0, 0],
    ]
}

fn homes(mode: Mode, mtu: u16) -> Homes {
    let mut homes = Homes::new();
    homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    for ([vip, backend, _], _) in FAMILIES {
        homes.service(vip, Protocol::TCP, mode, &[backend]);
        homes.change_backend(backend, |backend| backend.mtu = mtu);
    }
    homes
}

#[test]
fn a_syn_and_its_answer_announce_no_more_than_the_way_to_the_backend_takes() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for mtu in [0, 1280, 1400, 1500] {
            let mut homes = homes(mode, mtu);
            for ([vip, backend, client], headers) in FAMILIES {
                let most = if mtu == 0 { u16::MAX } else { mtu - headers as u16 };
                let sizes = [536, 1220, 1239, 1240, 1241, 1359, 1360, 1361, 1440, 1441, 1460, 8960, u16::MAX];
                for (port, size) in (1000..).zip(sizes) {
                    for (place, sent) in options(size).into_iter().enumerate() {
                        let client = client.replace("40000", &(port + 100 * place).to_string());
                        let options = options(size.min(most)).swap_remove(place);
                        let with =
                            |frame: Frame, options: &Vec<u8>| Frame { tcp_options: options.clone(), ..frame };
                        let syn = with(Frame::tcp(&client, vip, SYN), &sent);
                        let outcome = homes.send(&syn);
                        assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
                        let (source, to) = ends(&outcome.bytes);
                        assert_eq!(to, backend.parse().unwrap());
                        let expected = with(syn, &options).leaving(source, to, (LB_BACKEND_MAC, BACKEND_MAC));
                        assert_eq!(
                            hex(&outcome.bytes),
                            hex(&expected.bytes()),
                            "{mode:?} {mtu} {size} {place}"
                        );

                        let answer = Frame::tcp(backend, &source.to_string(), SYN | ACK);
                        let answer = Frame { from_mac: BACKEND_MAC, to_mac: LB_MAC, ..with(answer, &sent) };
                        let outcome = homes.send(&answer);
                        let expected = with(answer, &options).leaving(
                            vip.parse().unwrap(),
                            client.parse().unwrap(),
                            (LB_MAC, CLIENT_MAC),
                        );
                        assert_eq!(
                            hex(&outcome.bytes),
                            hex(&expected.bytes()),
                            "{mode:?} {mtu} {size} {place}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn other_packets_and_options_stay_as_they_are() {
    let large = [0xff, 0xff];
    let unusual: [Vec<u8>; 6] = [
        vec![],
        // Behind the end of the options; cut off; of another length; an option shorter than its own head; too far behind.
        vec![0, 0, 0, 0, 2, 4, large[0], large[1]],
        vec![1, 1, 2, 4],
        vec![2, 6, large[0], large[1], 1, 1, 1, 1],
        vec![9, 1, 2, 4, large[0], large[1], 0, 0],
        [vec![1; 12], vec![2, 4, large[0], large[1]]].concat(),
    ];
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut homes = homes(mode, 1280);
        for ([vip, _, client], _) in FAMILIES {
            let as_it_is = |homes: &mut Homes, frame: Frame| {
                let outcome = homes.send(&frame);
                assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
                let (source, to) = ends(&outcome.bytes);
                let expected = frame.leaving(source, to, (LB_BACKEND_MAC, BACKEND_MAC));
                assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()), "{mode:?}");
            };
            for options in &unusual {
                as_it_is(&mut homes, Frame { tcp_options: options.clone(), ..Frame::tcp(client, vip, SYN) });
            }
            let payload = Frame { payload: vec![2, 4, 0xff, 0xff], ..Frame::tcp(client, vip, SYN) };
            as_it_is(&mut homes, payload);
            as_it_is(
                &mut homes,
                Frame { tcp_options: vec![2, 4, 0xff, 0xff], ..Frame::tcp(client, vip, ACK) },
            );
        }
    }
}
