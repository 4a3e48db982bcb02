use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use xdp_lb_common::net::{Address, MacAddress, Port, Protocol};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendState, COUNTS_FLOWS, Mode, RECORDS_FLOWS, Reply, ServerId, ServerKey, Service, SlotIndex,
    SourceVerdict,
};

use super::*;
use crate::plan::wanted::{Path, Sources, ring_len};

/// The time of plans, in seconds of the clock of flow records.
const NOW: u32 = 7_000;

const LIMITS: Limits = Limits {
    services: 8,
    backends: 60,
    slots: 200_000,
    flows: 1,
    source_ranges: 20,
    source_rates: 1,
    fragments: 1,
};
/// The number of ranges in a list, if there is one.
const LIST: usize = 3;
const SIZES: Sizes = Sizes { limits: LIMITS, snat_addresses: 32 };

/// The tables as the kernel has them: flat slots, without the ends of rings except in their services' records.
#[derive(Clone)]
struct Kernel {
    tables: Tables,
    slots: Vec<Slot>,
}

impl Kernel {
    fn new(limits: &Limits) -> Self {
        Self { tables: Tables::default(), slots: vec![Slot::default(); limits.slots as usize] }
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Slots(at, slots) => {
                let begin = at.0 as usize;
                self.slots[begin..begin + slots.len()].copy_from_slice(slots);
            }
            write => self.tables.apply(write),
        }
    }

    fn ring(&self, service: &Service) -> &[Slot] {
        let begin = service.ring_offset.0 as usize;
        &self.slots[begin..begin + service.ring_len as usize]
    }

    fn read(&self) -> Tables {
        let services = self.tables.services.values().filter(|service| service.ring_len > 0);
        let rings = services.map(|service| (service.ring_offset, self.ring(service).to_vec())).collect();
        Tables { rings, ..self.tables.clone() }
    }

    /// The invariants on which any packet may rely, whenever it arrives: they must hold after this write if they held before it.
    fn check(&self, write: &Write) -> Result<(), String> {
        let written = match write {
            Write::Slots(at, slots) => at.0..at.0 + slots.len() as u32,
            _ => 0..u32::MAX,
        };
        for (key, index) in &self.tables.quic_servers {
            if self.backend(*index).is_none_or(|backend| backend.service != key.service) {
                return Err(format!("{key:?} names {index:?}, which is not a backend of its service"));
            }
        }
        for (vip, service) in &self.tables.services {
            let ranges = self.tables.source_list(service.source_list).count();
            if service.source_list != 0 && ranges != LIST {
                return Err(format!("the list of {vip:?} has {ranges} ranges of {LIST}"));
            }
        }
        let mut end = 0;
        let mut services: Vec<_> = self.tables.services.iter().collect();
        services.retain(|(_, service)| service.ring_len > 0);
        services.sort_by_key(|(_, service)| service.ring_offset);
        for (vip, service) in services {
            if service.ring_offset.0 < end {
                return Err(format!("the ring of {vip:?} overlaps another"));
            }
            end = service.ring_offset.0 + service.ring_len;
            for (_, slot) in
                (service.ring_offset.0..).zip(self.ring(service)).filter(|(at, _)| written.contains(at))
            {
                self.check_slot(vip, service, *slot)?;
            }
            for place in service.snat_offset..service.snat_offset + u32::from(service.snat_len) {
                if !self.tables.snat_addresses.contains_key(&place) {
                    return Err(format!("{vip:?} has no SNAT address at {place}"));
                }
            }
        }
        Ok(())
    }

    fn check_slot(&self, vip: &Endpoint, service: &Service, slot: Slot) -> Result<(), String> {
        // Draining flows keep their slots if no backend is left to take new ones.
        let nobody = BackendIndex::default();
        let prior = match slot.prior() == nobody {
            true => None,
            false => Some(self.backend(slot.prior()).ok_or(format!("{slot:?} was owned by one gone"))?),
        };
        if prior.is_some_and(|prior| prior.service != service.index) {
            return Err(format!("{slot:?} of {vip:?} was another service's"));
        }
        if slot.owner() == nobody {
            return Ok(());
        }
        let owner = self.backend(slot.owner()).ok_or(format!("{slot:?} is owned by one gone"))?;
        if owner.state != BackendState::Up {
            return Err(format!("{slot:?} of {vip:?} is owned by one that is not up"));
        }
        if owner.ifindex == 0 {
            return Err(format!("{slot:?} of {vip:?} is owned by one without a path"));
        }
        if owner.service != service.index {
            return Err(format!("{slot:?} of {vip:?} names another service's backend"));
        }
        let endpoint = Endpoint::new(owner.address, owner.port, vip.protocol);
        if service.mode != Mode::FullNat && service.mode != Mode::Nat {
            return Ok(());
        }
        let reply = self.tables.replies.get(&endpoint).ok_or(format!("{endpoint:?} has no reply"))?;
        if service.mode == Mode::FullNat && reply.by_record == 0 {
            return Err(format!("replies of {endpoint:?} have no record"));
        }
        if service.mode == Mode::Nat && reply.stateless == 0 && (reply.by_record == 0 || !owner.is_shared()) {
            return Err(format!("replies of {endpoint:?} find no way back"));
        }
        Ok(())
    }

    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        self.tables.backends.get(&index)
    }
}

/// Checks the contents of the tables against what is wanted alone.
fn expect(tables: &Tables, wanted: &[WantedService]) -> Result<(), String> {
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_string()) };
    ensure(tables.services.len() == wanted.len(), "as many services as wanted")?;
    let backends: usize = wanted.iter().map(|service| service.backends.len()).sum();
    ensure(tables.backends.len() == backends, "as many backends as wanted")?;
    let addresses: usize = wanted.iter().map(|service| service.snat_addresses.len()).sum();
    ensure(tables.snat_addresses.len() == addresses, "as many SNAT addresses as wanted")?;
    let ranges: usize = wanted.iter().map(|service| service.sources.len()).sum();
    ensure(tables.sources.len() == ranges, "as many source ranges as wanted")?;
    let ids = wanted.iter().filter(|service| service.quic.is_some()).flat_map(|service| &service.backends);
    ensure(
        tables.quic_servers.len() == ids.filter(|backend| backend.server_id.is_some()).count(),
        "server ids",
    )?;
    for want in wanted {
        let service = tables.services.get(&want.vip).ok_or("the service is missing")?;
        ensure(service.mode == want.mode, "its mode")?;
        let snat =
            (service.snat_offset..).take(service.snat_len.into()).map(|place| tables.snat_addresses[&place]);
        ensure(tables.source_list(service.source_list).collect::<Sources>() == want.sources, "its clients")?;
        ensure(snat.eq(want.snat_addresses.iter().copied()), "its SNAT addresses")?;
        let ring = tables.ring(service);
        ensure(ring.len() == service.ring_len as usize, "a whole ring")?;
        let takes = |backend: &&WantedBackend| backend.state == BackendState::Up && backend.weight > 0;
        let total: f64 = want.backends.iter().filter(takes).map(|backend| f64::from(backend.weight)).sum();
        let owned = ring.iter().filter(|slot| slot.owner() != BackendIndex::default()).count();
        ensure(
            owned == if total > 0.0 { ring.len() } else { 0 },
            "slots of somebody where, and only where, one is up",
        )?;
        ensure(total == 0.0 || !ring.is_empty(), "a ring where somebody takes flows")?;
        for backend in &want.backends {
            let (index, record) = tables
                .backends
                .iter()
                .find(|(_, record)| {
                    record.service == service.index
                        && Endpoint::new(record.address, record.port, want.vip.protocol)
                            == Endpoint::from_socket(backend.address, want.vip.protocol)
                })
                .ok_or("the backend is missing")?;
            ensure(index.0 != 0, "nobody is nobody")?;
            ensure(record.state == backend.state, "its state")?;
            if let (Some(_), Some(id)) = (want.quic, backend.server_id) {
                let key = ServerKey { service: service.index, id };
                ensure(tables.quic_servers.get(&key) == Some(index), "its server id")?;
            }
            ensure(Path::of(record) == backend.path, "its path")?;
            let slots = ring.iter().filter(|slot| slot.owner() == *index).count() as f64;
            let share = if takes(&backend) { f64::from(backend.weight) / total } else { 0.0 };
            let exact = share * ring.len() as f64;
            ensure((slots - exact).abs() <= 1.5 + exact * 0.01, "its share")?;
            let others = wanted.iter().filter(|other| {
                other.vip.protocol == want.vip.protocol
                    && other.backends.iter().any(|other| other.address == backend.address)
            });
            let nat = others.clone().filter(|other| other.mode == Mode::Nat).count();
            let full_nat = others.filter(|other| other.mode == Mode::FullNat).count();
            ensure(record.is_shared() == (want.mode == Mode::Nat && nat > 1), "shared by `nat` VIPs")?;
            let reply = tables.replies.get(&Endpoint::from_socket(backend.address, want.vip.protocol));
            ensure(reply.is_some() == (nat + full_nat > 0), "a reply where replies come here")?;
            let Some(reply) = reply else { continue };
            ensure(reply.stateless == u8::from(nat > 0), "stateless in a `nat` VIP's name")?;
            ensure(reply.by_record == u8::from(nat > 1 || full_nat > 0), "by record otherwise")?;
            if nat == 1 && want.mode == Mode::Nat {
                ensure((reply.vip, reply.port) == (want.vip.address, want.vip.port), "in the VIP's name")?;
                ensure(reply.backend == *index, "counted for it")?;
            }
        }
    }
    Ok(())
}

fn path(number: u8) -> Path {
    Path {
        source: Address::from(IpAddr::from([198, 51, 100, 1])),
        ifindex: 3,
        vlan: 0,
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, number]),
        source_mac: MacAddress::new([2, 0, 0, 0, 1, 0]),
        mtu: 1400 + u16::from(number),
        neighbours: 96 + 24,
    }
}

fn backend(number: u8, weight: u16, state: BackendState) -> WantedBackend {
    let path = (state != BackendState::Down).then(|| path(number));
    WantedBackend {
        address: SocketAddr::from(([198, 51, 100, number], 8080)),
        weight,
        portion: 100,
        state,
        server_id: None,
        max_flows: 0,
        path,
    }
}

fn service(number: u8, mode: Mode, backends: Vec<WantedBackend>) -> WantedService {
    let vip = Endpoint::new(Address::from(IpAddr::from([192, 0, 2, number])), Port::new(80), Protocol::TCP);
    let ring_len = ring_len(&backends);
    WantedService { rejects: false, ..WantedService::new(vip, mode, ring_len, backends) }
}

fn up(numbers: impl IntoIterator<Item = u8>) -> Vec<WantedBackend> {
    numbers.into_iter().map(|number| backend(number, 100, BackendState::Up)).collect()
}

/// A planner and a kernel with the wanted tables.
fn settled(wanted: &[WantedService]) -> (Planner, Kernel) {
    let (mut planner, mut kernel) = (Planner::new(Tables::default(), SIZES), Kernel::new(&LIMITS));
    step(&mut planner, &mut kernel, wanted).unwrap();
    (planner, kernel)
}

fn step(planner: &mut Planner, kernel: &mut Kernel, wanted: &[WantedService]) -> Result<Plan, String> {
    let plan = planner.plan(wanted, NOW).map_err(|full| full.to_string())?;
    for (number, write) in plan.writes.iter().enumerate() {
        kernel.apply(write);
        kernel
            .check(write)
            .map_err(|wrong| format!("after write {number}, {:.200}: {wrong}", format!("{write:?}")))?;
    }
    planner.commit(&plan);
    expect(planner.tables(), wanted)?;
    if *planner.tables() != kernel.read() {
        return Err("the planner does not know what stands in the tables".into());
    }
    Ok(plan)
}

#[test]
fn nothing_is_written_where_nothing_changes() {
    let wanted = [service(1, Mode::FullNat, up(1..4))];
    let (planner, _) = settled(&wanted);
    assert_eq!(planner.plan(&wanted, NOW).unwrap().writes, []);
}

#[test]
fn a_restart_writes_nothing_where_nothing_changed() {
    let mut wanted = [service(1, Mode::Nat, up(1..12)), service(2, Mode::FullNat, up(4..6))];
    wanted[1].snat_addresses = vec![Address::from(IpAddr::from([198, 51, 100, 200]))];
    let (mut planner, mut kernel) = settled(&wanted);
    wanted[0].backends[3].state = BackendState::Draining;
    step(&mut planner, &mut kernel, &wanted).unwrap();

    let adopted = Planner::new(kernel.read(), SIZES);
    let plan = adopted.plan(&wanted, NOW).unwrap();
    assert_eq!(plan.writes, []);
    assert_eq!((plan.new_services, plan.new_backends), (vec![], vec![]));
}

#[test]
fn a_draining_backend_leaves_the_ring_before_its_record_says_so_and_stays_prior() {
    let mut wanted = [service(1, Mode::FullNat, up(1..4))];
    let (mut planner, mut kernel) = settled(&wanted);
    let ring = planner.tables().rings.clone();
    wanted[0].backends[1].state = BackendState::Draining;
    let plan = step(&mut planner, &mut kernel, &wanted).unwrap();
    assert!(
        matches!(plan.writes.last(), Some(Write::Backend(_, backend)) if backend.state == BackendState::Draining)
    );
    assert_eq!(plan.writes.iter().filter(|write| matches!(write, Write::Backend(..))).count(), 1);
    assert!(!plan.writes.iter().any(|write| matches!(write, Write::Service(..))), "in place");
    let after = planner.tables().rings.values().next().unwrap();
    for (before, after) in ring.values().next().unwrap().iter().zip(after) {
        assert_eq!(after.prior(), before.owner());
        assert_eq!(after.is_tracked(), before.owner() != after.owner());
    }
}

#[test]
fn a_backend_that_fails_is_prior_nowhere() {
    let mut wanted = [service(1, Mode::FullNat, up(1..4))];
    let (mut planner, mut kernel) = settled(&wanted);
    wanted[0].backends[1].state = BackendState::Draining;
    step(&mut planner, &mut kernel, &wanted).unwrap();
    let (gone, _) = planner
        .tables()
        .backends
        .iter()
        .find(|(_, backend)| backend.state == BackendState::Draining)
        .unwrap();
    let gone = *gone;
    let names_it = |tables: &Tables| tables.rings.values().flatten().any(|slot| slot.prior() == gone);
    assert!(names_it(planner.tables()));
    wanted[0].backends[1].state = BackendState::Down;
    wanted[0].backends[1].path = None;
    step(&mut planner, &mut kernel, &wanted).unwrap();
    assert!(!names_it(planner.tables()));
}

#[test]
fn a_ring_of_another_length_is_written_to_free_room_and_swapped_in() {
    let (mut planner, mut kernel) = settled(&[service(1, Mode::FullNat, up(1..21))]);
    let before = *planner.tables().services.values().next().unwrap();
    let plan = step(&mut planner, &mut kernel, &[service(1, Mode::FullNat, up(1..22))]).unwrap();
    let after = *planner.tables().services.values().next().unwrap();
    assert_eq!((before.ring_len, after.ring_len), (1_016, 8_128));
    assert_eq!(after.ring_offset, SlotIndex(1_016));
    assert_eq!(before.index, after.index);
    let slots: Vec<_> = plan.writes.iter().filter(|write| matches!(write, Write::Slots(..))).collect();
    assert!(matches!(slots[..], [Write::Slots(SlotIndex(1_016), ring)] if ring.len() == 8_128));
}

#[test]
fn a_rings_length_follows_from_what_is_wanted_and_not_from_what_was_before() {
    // From one backend to 21 and back to two, settling everything in between.
    let mut wanted = [service(1, Mode::Nat, up(1..2))];
    let (mut planner, mut kernel) = settled(&wanted);
    for (backends, length) in [(1, 1), (2, 1_016), (3, 1_016), (21, 8_128)] {
        wanted[0] = service(1, Mode::Nat, up(1..backends + 1));
        step(&mut planner, &mut kernel, &wanted).unwrap();
        assert_eq!(planner.tables().services.values().next().unwrap().ring_len, length);
        settle(&mut planner, &mut kernel, |_| true);
    }
    wanted[0] = service(1, Mode::Nat, up(1..3));
    step(&mut planner, &mut kernel, &wanted).unwrap();
    let length = |planner: &Planner| planner.tables().services.values().next().unwrap().ring_len;
    assert_eq!((length(&planner), planner.can_shrink()), (8_128, false), "its flows are not recorded yet");
    // The eventual result of settling: first every flow has a record.
    settle(&mut planner, &mut kernel, |_| false);
    assert!(planner.can_shrink());
    step(&mut planner, &mut kernel, &wanted).unwrap();
    assert_eq!((length(&planner), planner.can_shrink()), (1_016, false));
    settle(&mut planner, &mut kernel, |_| true);
    let (other, _) = settled(&wanted);
    let ring = |planner: &Planner| {
        let addresses = |slot: &Slot| planner.tables().backends[&slot.owner()].address;
        let service = planner.tables().services.values().next().unwrap();
        planner.tables().ring(service).iter().map(addresses).collect::<Vec<_>>()
    };
    assert_eq!(ring(&planner), ring(&other), "as a balancer that has just been started");
}

/// Makes moving slots recorded ones, and settles those that `rests` selects.
fn settle(planner: &mut Planner, kernel: &mut Kernel, rests: impl Fn(&Slot) -> bool) {
    let at_rest = |slot: &Slot| match slot.is_tracked() {
        true if rests(slot) => Slot::settled(slot.owner()),
        true => Slot::recorded(slot.owner()),
        false => *slot,
    };
    let rings = planner.tables().rings.iter();
    let writes: Vec<_> =
        rings.map(|(offset, ring)| Write::Slots(*offset, ring.iter().map(at_rest).collect())).collect();
    writes.iter().for_each(|write| kernel.apply(write));
    planner.record(&writes);
}

#[test]
fn a_service_that_is_not_touched_sees_no_write() {
    let first = service(1, Mode::FullNat, up(1..5));
    let (mut planner, mut kernel) = settled(std::slice::from_ref(&first));
    let before = planner.tables().clone();
    step(&mut planner, &mut kernel, &[first.clone(), service(2, Mode::FullNat, up(6..9))]).unwrap();
    let plan = step(&mut planner, &mut kernel, &[first]).unwrap();
    assert!(!plan.writes.iter().any(|write| matches!(write, Write::Slots(..))));
    assert_eq!(*planner.tables(), before);
}

#[test]
fn a_freed_index_is_used_last() {
    let (mut planner, mut kernel) = settled(&[service(1, Mode::FullNat, up(1..5))]);
    step(&mut planner, &mut kernel, &[service(1, Mode::FullNat, up(2..5))]).unwrap();
    let plan = step(&mut planner, &mut kernel, &[service(1, Mode::FullNat, up(2..6))]).unwrap();
    assert_eq!(plan.new_backends, [BackendIndex(5)]);
}

#[test]
fn what_does_not_fit_side_by_side_makes_room_first() {
    let (mut planner, mut kernel) = settled(&[service(1, Mode::FullNat, up(1..41))]);
    step(&mut planner, &mut kernel, &[service(2, Mode::FullNat, up(101..151))]).unwrap();
}

#[test]
fn what_does_not_fit_at_all_is_refused_by_its_limit() {
    let (planner, _) = settled(&[]);
    let full = planner.plan(&[service(1, Mode::FullNat, up(1..62))], NOW).unwrap_err();
    assert_eq!(full, Full::Limit { table: "backends", size: 60 });
    let nine: Vec<_> = (1..10).map(|number| service(number, Mode::FullNat, up(1..2))).collect();
    assert_eq!(planner.plan(&nine, NOW).unwrap_err(), Full::Limit { table: "services", size: 8 });
}

#[test]
fn a_list_of_ranges_is_replaced_whole_and_needs_room_for_both() {
    let list = |last: std::ops::Range<u8>| -> Sources {
        last.map(|last| ((Address::from(IpAddr::from([203, 0, 113, last])), 128), SourceVerdict::Deny))
            .collect()
    };
    let with = |sources| [WantedService { sources, ..service(1, Mode::FullNat, up(1..2)) }];
    let (mut planner, mut kernel) = settled(&with(list(0..3)));
    assert_eq!(planner.plan(&with(list(0..3)), NOW).unwrap().writes, []);
    let plan = step(&mut planner, &mut kernel, &with(list(1..4))).unwrap();
    let kinds: Vec<_> = plan
        .writes
        .iter()
        .map(|write| match write {
            Write::Source(range, _) => ("put", range.list),
            Write::Service(_, service) => ("switch", service.source_list),
            Write::RemoveSource(range) => ("remove", range.list),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [[("put", 2); 3].as_slice(), &[("switch", 2)], &[("remove", 1); 3]].concat();
    assert_eq!(kinds, expected);
    assert_eq!(
        planner.plan(&with(list(0..18)), NOW).unwrap_err(),
        Full::Limit { table: "source_ranges", size: 20 }
    );
}

#[test]
fn flows_are_counted_where_the_service_or_a_backend_has_a_limit() {
    let options = |service: WantedService| {
        let (planner, _) = settled(&[service]);
        planner.tables().services.values().next().unwrap().options
    };
    let plain = service(1, Mode::Nat, up(1..3));
    assert_eq!(options(plain.clone()), 0);
    assert_eq!(options(WantedService { max_flows: 9, ..plain.clone() }), COUNTS_FLOWS | RECORDS_FLOWS);
    let mut limited = plain;
    limited.backends[1].max_flows = 9;
    assert_eq!(options(limited), COUNTS_FLOWS | RECORDS_FLOWS);
}

#[test]
fn a_ring_is_shorter_than_it_should_be_where_there_is_no_room() {
    let limits = Limits { slots: 1_100, ..LIMITS };
    let (mut planner, mut kernel) =
        (Planner::new(Tables::default(), Sizes { limits, ..SIZES }), Kernel::new(&limits));
    let plan = step(&mut planner, &mut kernel, &[service(1, Mode::FullNat, up(1..22))]).unwrap();
    assert_eq!(plan.shortened.len(), 1);
    let two = [service(1, Mode::FullNat, up(1..22)), service(2, Mode::FullNat, up(1..4))];
    assert_eq!(planner.plan(&two, NOW).unwrap_err(), Full::Limit { table: "slots", size: 1_100 });
}

#[test]
fn one_of_ten_thousand_backends_that_fails_is_taken_out_quickly() {
    let limits = Limits { services: 4_096, backends: 16_384, slots: 4_194_304, flows: 1, ..LIMITS };
    let many = |service: u8, count: u16| {
        let backends = (0..count).map(|number| {
            let [high, low] = number.to_be_bytes();
            let address = SocketAddr::from(([198, 18 + service % 2, high, low], 80));
            WantedBackend { address, ..backend(1, 100, BackendState::Up) }
        });
        self::service(service, Mode::FullNat, backends.collect())
    };
    let mut wanted: Vec<_> = (1..=100).map(|number| many(number, 95)).collect();
    wanted.push(many(101, 500));
    let mut planner = Planner::new(Tables::default(), Sizes { limits, ..SIZES });
    let begin = std::time::Instant::now();
    planner.commit(&planner.plan(&wanted, NOW).unwrap());
    let first = begin.elapsed();
    wanted[7].backends[3] = backend(1, 100, BackendState::Down);
    let begin = std::time::Instant::now();
    planner.commit(&planner.plan(&wanted, NOW).unwrap());
    println!("10,000 backends: planned in {first:?}, one failure in {:?}", begin.elapsed());
    if !cfg!(debug_assertions) {
        assert!(begin.elapsed().as_millis() < 200, "{:?}", begin.elapsed());
    }
}

fn any_backend() -> impl Strategy<Value = WantedBackend> {
    let state = prop_oneof![
        4 => Just(BackendState::Up),
        1 => Just(BackendState::Draining),
        1 => Just(BackendState::Failing),
        1 => Just(BackendState::Down),
    ];
    (1_u8..25, prop_oneof![4 => Just(100_u16), 1 => Just(0), 1 => 1_u16..300], state)
        .prop_map(|(number, weight, state)| backend(number, weight, state))
}

fn any_service(number: u8) -> impl Strategy<Value = WantedService> {
    let mode = prop::sample::select(vec![Mode::FullNat, Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue]);
    let addresses = prop::collection::vec(
        (201_u8..210).prop_map(|last| Address::from(IpAddr::from([198, 51, 100, last]))),
        0..4,
    );
    let backends = prop::collection::vec(any_backend(), 0..14);
    let sources = prop_oneof![
        2 => Just(Sources::new()),
        3 => prop::collection::btree_map(
            (0_u8..6).prop_map(|last| (Address::from(IpAddr::from([203, 0, 113, last])), 128)),
            prop::sample::select(vec![SourceVerdict::Allow, SourceVerdict::Deny]),
            LIST,
        ),
    ];
    (mode, addresses, sources, backends).prop_map(move |(mode, snat_addresses, sources, mut backends)| {
        backends.sort_by_key(|backend| backend.address);
        backends.dedup_by_key(|backend| backend.address);
        for backend in &mut backends {
            let last = backend.address.ip().to_string().bytes().last().unwrap_or_default();
            backend.server_id = Some(ServerId::new([last.wrapping_add(backend.weight as u8); 16]));
        }
        backends.sort_by_key(|backend| backend.server_id);
        backends.dedup_by_key(|backend| backend.server_id);
        backends.sort_by_key(|backend| backend.address);
        let quic = (number % 2 == 1).then_some((1, 15));
        WantedService { snat_addresses, quic, sources, ..service(number, mode, backends) }
    })
}

/// A change of the wanted services: a service added or removed, or one of its backends changed.
#[derive(Clone, Debug)]
enum Change {
    Service(WantedService),
    Remove(prop::sample::Index),
    Backend(prop::sample::Index, WantedBackend),
    RemoveBackend(prop::sample::Index, prop::sample::Index),
    Restart,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => (1_u8..4).prop_flat_map(any_service).prop_map(Change::Service),
        1 => any::<prop::sample::Index>().prop_map(Change::Remove),
        6 => (any::<prop::sample::Index>(), any_backend()).prop_map(|(at, backend)| Change::Backend(at, backend)),
        2 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(at, place)| Change::RemoveBackend(at, place)),
        1 => Just(Change::Restart),
    ]
}

fn change(wanted: &mut Vec<WantedService>, change: Change) {
    match change {
        Change::Service(service) => {
            wanted.retain(|other| other.vip != service.vip);
            wanted.push(service);
        }
        Change::Remove(at) if !wanted.is_empty() => {
            wanted.remove(at.index(wanted.len()));
        }
        Change::Backend(at, backend) if !wanted.is_empty() => {
            let at = at.index(wanted.len());
            let backends = &mut wanted[at].backends;
            match backends.iter_mut().find(|other| other.address == backend.address) {
                Some(other) => *other = backend,
                None => backends.push(backend),
            }
        }
        Change::RemoveBackend(at, place) if !wanted.is_empty() => {
            let at = at.index(wanted.len());
            let backends = &mut wanted[at].backends;
            if !backends.is_empty() {
                backends.remove(place.index(backends.len()));
            }
        }
        _ => {}
    }
    for service in wanted {
        service.ring_len = ring_len(&service.backends);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_changes_lead_to_what_is_wanted_and_every_packet_on_the_way_finds_whole_services(
        changes in prop::collection::vec(any_change(), 1..25),
    ) {
        let (mut planner, mut kernel) = settled(&[]);
        let mut wanted = Vec::new();
        for next in changes {
            let is_restart = matches!(next, Change::Restart);
            if is_restart {
                planner = Planner::new(kernel.read(), SIZES);
            }
            let untouched: Vec<WantedService> = wanted.clone();
            let before = planner.tables().clone();
            change(&mut wanted, next);
            let plan = match step(&mut planner, &mut kernel, &wanted) {
                Err(full) if full.starts_with("limits.") => break,
                done => done.map_err(TestCaseError::fail)?,
            };
            prop_assert!(!is_restart || plan.writes.is_empty(), "a restart wrote {:?}", plan.writes);
            for service in untouched.iter().filter(|service| wanted.contains(service)) {
                let (old, new) = (&before.services[&service.vip], &planner.tables().services[&service.vip]);
                prop_assert_eq!(old, new);
                prop_assert_eq!(before.ring(old), planner.tables().ring(new));
            }
            // The ring of a service that has lost its backends can be shortened at once.
            while planner.can_shrink() {
                let before = planner.tables().rings.values().map(Vec::len).sum::<usize>();
                step(&mut planner, &mut kernel, &wanted).map_err(TestCaseError::fail)?;
                let after = planner.tables().rings.values().map(Vec::len).sum::<usize>();
                prop_assert!(after < before, "{} slots of {}", after, before);
            }
            prop_assert!(planner.plan(&wanted, NOW).is_ok_and(|plan| plan.writes.is_empty()), "not at rest");
        }
    }
}

/// A service on a port range of 192.0.2.`number`, with one backend that keeps the port.
fn on_range(number: u8, first: u16, last: u16, mode: Mode) -> WantedService {
    let mut wanted = service(number, mode, up([1]));
    wanted.backends[0].address.set_port(0);
    let vip = wanted.vip.with_port(Port::new(first)).range();
    WantedService { vip, last_port: Port::new(last), ..wanted }
}

#[test]
fn what_comes_from_a_vip_answers_checks_as_long_as_a_backend_is_checked_there() {
    let at = Endpoint::new(Address::from(IpAddr::from([192, 0, 2, 1])), Port::new(8080), Protocol::TCP);
    let checked = |backends| WantedService { checked_at: Some(at), ..service(1, Mode::Dsr, backends) };
    let (mut planner, mut kernel) = settled(&[checked(up(1..3)), service(2, Mode::Dsr, up(3..4))]);
    let replies: Vec<_> = planner.tables().replies.iter().map(|(end, reply)| (*end, *reply)).collect();
    assert_eq!(replies, [(at, Reply { answers_checks: 1, ..Reply::default() })]);
    step(&mut planner, &mut kernel, &[checked(vec![])]).unwrap();
    assert!(planner.tables().replies.is_empty());
}

#[test]
fn replies_without_a_record_are_left_alone_where_all_flows_are_recorded_from_the_time_that_they_are() {
    let of = |mode, only_recorded| {
        let backends = up(1..3);
        [WantedService { records_flows: only_recorded, only_recorded, ..service(1, mode, backends) }]
    };
    let since = |planner: &Planner| {
        let mut all = planner.tables().replies.values().map(|reply| reply.recorded_since);
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first));
        first
    };
    let (mut planner, mut kernel) = settled(&of(Mode::Nat, true));
    assert_eq!(since(&planner), 1, "there were no flows before");
    step(&mut planner, &mut kernel, &of(Mode::Nat, false)).unwrap();
    assert_eq!(since(&planner), 0);
    step(&mut planner, &mut kernel, &of(Mode::Nat, true)).unwrap();
    assert_eq!(since(&planner), NOW);
    assert!(planner.plan(&of(Mode::Nat, true), NOW).unwrap().writes.is_empty(), "it stays");
    let (planner, _) = settled(&of(Mode::FullNat, true));
    assert_eq!(since(&planner), 0, "all that full-nat rewrites has a record");
}

#[test]
fn a_reply_of_a_backend_that_keeps_the_port_has_the_service_s_range() {
    let mut planner = Planner::new(Tables::default(), SIZES);
    let plan = planner.plan(&[on_range(1, 5000, 5999, Mode::Nat)], NOW).unwrap();
    planner.commit(&plan);
    let (endpoint, reply) = planner.tables().replies.iter().next().unwrap();
    assert_eq!(endpoint.port.get(), 0);
    assert_eq!((reply.port.get(), reply.last_port.get(), reply.keeps_port), (5000, 5999, 1));
    assert_eq!((reply.stateless, reply.by_record), (1, 0));
    let (vip, service) = planner.tables().services.iter().next().unwrap();
    assert!(vip.is_range());
    assert_eq!(service.last_port.get(), 5999);
}

#[test]
fn a_backend_s_port_that_two_vips_may_mean_has_records() {
    let mut planner = Planner::new(Tables::default(), SIZES);
    let wanted = [service(1, Mode::Nat, up([1])), on_range(2, 8000, 8999, Mode::Nat)];
    let plan = planner.plan(&wanted, NOW).unwrap();
    planner.commit(&plan);
    let tables = planner.tables();
    assert!(tables.backends.values().all(|backend| backend.is_shared()));
    let rules: Vec<_> = tables.replies.values().map(|rule| (rule.by_record, rule.stateless)).collect();
    assert_eq!(rules, [(1, 1), (1, 1)]);
    for (endpoint, rule) in &tables.replies {
        let vip = if endpoint.port.get() == 0 { wanted[1].vip } else { wanted[0].vip };
        assert_eq!((rule.vip, rule.port), (vip.address, vip.port), "{endpoint:?}");
    }
}
