//! What is not forwarded is counted by service and backend, in both homes alike; and which records were given up for others.

use std::collections::BTreeMap;

use xdp_lb_common::flow_table::memory::Eviction;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::refusal::RefusalKey;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode, RECORDS_FLOWS, ServiceIndex};

use crate::homes::Homes;
use crate::packets::{ACK, Frame, SYN};

const VIP: &str = "192.0.2.10:80";
const OTHER: &str = "192.0.2.11:80";
const CLIENT: &str = "203.0.113.5:40000";
const BACKEND: &str = "198.51.100.11:8080";

/// What was counted; both homes count alike.
fn counted(homes: &Homes) -> BTreeMap<RefusalKey, u64> {
    let kernel: BTreeMap<_, _> = homes.kernel.counters().unwrap().refusals().unwrap().into_iter().collect();
    assert_eq!(kernel, *homes.host.refusals.borrow());
    kernel
}

fn key(service: ServiceIndex, backend: u32, reason: Reason) -> RefusalKey {
    RefusalKey { service: service.0 + 1, backend: BackendIndex(backend), reason: reason as u32 }
}

#[test]
fn packets_that_are_not_forwarded_are_counted_by_their_service_and_backend() {
    let mut homes = Homes::new();
    let empty = homes.service(OTHER, Protocol::TCP, Mode::Nat, &[]);
    let web = homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let mut expected = BTreeMap::new();
    homes.send(&Frame::tcp(CLIENT, VIP, SYN));
    assert_eq!(counted(&homes), expected, "it is forwarded");

    for _ in 0..3 {
        homes.send(&Frame::tcp(CLIENT, OTHER, SYN));
    }
    expected.insert(key(empty, 0, Reason::NoBackend), 3);
    assert_eq!(counted(&homes), expected);

    // Of a backend that is gone; and nobody's.
    homes.change_backend(BACKEND, |backend| backend.state = BackendState::Ending.into());
    homes.send(&Frame::tcp(CLIENT, VIP, ACK));
    homes.send(&Frame::tcp(CLIENT, "192.0.2.11:81", SYN));
    let flow_ended = |(key, _): &(&RefusalKey, &u64)| {
        [Reason::FlowEnded, Reason::FlowEndedAnswered].iter().any(|it| *it as u32 == key.reason)
    };
    let all = counted(&homes);
    let of_backend: Vec<_> = all.iter().filter(flow_ended).collect();
    assert_eq!(of_backend.len(), 1, "{all:?}");
    assert_eq!((of_backend[0].0.service, of_backend[0].0.backend), (web.0 + 1, BackendIndex(1)));
    assert_eq!(all.len(), 2, "{all:?}");

    // What a backend sends outside of any flow.
    homes.send(&Frame::tcp(BACKEND, "198.51.100.2:2500", ACK));
    let all = counted(&homes);
    assert!(all.keys().any(|key| key.service == 0 && key.backend == BackendIndex(1)), "{all:?}");

    // Whose place goes to another begins anew.
    homes.kernel.forget_refusals(&[], &[BackendIndex(1)]).unwrap();
    let left = homes.kernel.counters().unwrap().refusals().unwrap();
    assert_eq!(left, [(key(empty, 0, Reason::NoBackend), 3)]);
}

#[test]
fn records_that_are_given_up_for_others_are_counted() {
    let mut homes = Homes::with_flows(1);
    homes.service(VIP, Protocol::TCP, Mode::Nat, &[BACKEND]);
    homes.change_service(VIP, Protocol::TCP, |service| service.options = RECORDS_FLOWS);
    for port in 0..2000 {
        homes.send(&Frame::tcp(&format!("203.0.113.5:{}", 10_000 + port), VIP, SYN));
    }
    let [there, here] = [
        homes.kernel.counters().unwrap().evictions(Eviction::Room).unwrap(),
        homes.host.flows.evicted(Eviction::Room),
    ];
    assert!(there > 0, "there is no room for so many");
    assert_eq!(there, here);
}
