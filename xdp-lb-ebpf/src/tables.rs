//! The datapath's tables as BPF maps.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::maps::Array;
use aya_ebpf::maps::lpm_trie::Key;
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::net::{Address, Be32, Endpoint, MacAddress, Port, Protocol};
use xdp_lb_common::own_mac::OwnMacs;
use xdp_lb_common::rate::Answer;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::directory::{Keyed, Source};
use xdp_lb_common::tables::filter::Place;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, Check, FlowKey, Fragment, FragmentKey, NeighbourWanted, PortRanges, Reply, Route,
    RouteQuery, RouterAddresses, RouterInterface, ServerKey, Service, ServiceIndex, Settings, SlotIndex,
    SourceKey, Tables, Tags, Traffic, VlanDevice,
};

use crate::flow_table::FlowTable;
use crate::maps::*;

/// Address families (`AF_INET`, `AF_INET6`).
pub const FAMILY_V4: u8 = 2;
pub const FAMILY_V6: u8 = 10;

/// All maps.
pub struct Maps {
    /// What the program was called with.
    context: *mut c_void,
}

impl Maps {
    /// The maps, for the program that was called with this context.
    #[inline(always)]
    pub fn new(context: &impl EbpfContext) -> Self {
        Self { context: context.as_ptr() }
    }
}

impl Maps {
    #[inline(always)]
    fn answer(&self, lookup: &mut FibLookup) -> Route {
        // SAFETY: the context is this program's own, and the length is the struct's.
        let answer =
            unsafe { bpf_fib_lookup(self.context, &raw mut *lookup, size_of::<FibLookup>() as i32, 0) };
        match answer as u32 {
            BPF_FIB_LKUP_RET_SUCCESS => {
                let (ifindex, tags) = match self.device_below(lookup.ifindex) {
                    // A port of a bridge has an entry, too, and may have routes of its own.
                    Some(device) if device.vlan != 0 => (device.parent, Tags::vlan(device.vlan as u16)),
                    _ => (lookup.ifindex, Tags::default()),
                };
                Route::Via {
                    ifindex,
                    tags,
                    source_mac: MacAddress::new(lookup.smac),
                    destination_mac: MacAddress::new(lookup.dmac),
                }
            }
            BPF_FIB_LKUP_RET_NOT_FWDED => Route::Local,
            BPF_FIB_LKUP_RET_NO_NEIGH => {
                // On success and here the kernel puts the next hop in place of the destination.
                let ifindex = lookup.ifindex;
                // Written in the ring itself: the stack is small.
                if let Some(mut wanted) = EVENTS.reserve::<NeighbourWanted>(0) {
                    wanted.write(NeighbourWanted { address: next_hop(lookup), ifindex });
                    wanted.submit(0);
                }
                Route::NeighbourMissing { ifindex }
            }
            BPF_FIB_LKUP_RET_FRAG_NEEDED => {
                // SAFETY: numbers, whichever variant of the union the kernel has filled (`mtu_result`: 5.12).
                Route::TooBig { mtu: unsafe { lookup.__bindgen_anon_1.mtu_result } }
            }
            _ => Route::Unroutable,
        }
    }
}

/// Asks the routing table about packets between these, which come in by this interface. Whatever the kernel reads is written,
/// and no more: the MACs are the answer's. The port keeps the compiler from clearing its neighbours by a call of memset, for
/// which there is no stack left.
#[inline(always)]
pub fn ask(lookup: &mut FibLookup, source: &Address, destination: &Address, port: Port, ingress: u32) {
    lookup.l4_protocol = 0;
    lookup.sport = 0;
    lookup.dport = port.word();
    lookup.__bindgen_anon_1.tot_len = 0;
    lookup.ifindex = ingress;
    lookup.__bindgen_anon_2.flowinfo = 0;
    lookup.__bindgen_anon_5.tbid = 0;
    if destination.is_v4() {
        lookup.family = FAMILY_V4;
        lookup.__bindgen_anon_3.ipv4_src = source.last().word();
        lookup.__bindgen_anon_4.ipv4_dst = destination.last().word();
    } else {
        lookup.family = FAMILY_V6;
        lookup.__bindgen_anon_3.ipv6_src = source.0.map(Be32::word);
        lookup.__bindgen_anon_4.ipv6_dst = destination.0.map(Be32::word);
    }
}

/// This CPU's room for what the routing table is asked.
#[inline(always)]
fn room_for_lookup() -> Option<&'static mut FibLookup> {
    // SAFETY: each CPU has its own, a program is not interrupted by another of its kind, and one question follows another.
    LOOKUP.get_ptr_mut(0).map(|lookup| unsafe { &mut (*lookup).0 })
}

/// One directory's maps.
#[derive(Clone, Copy)]
struct Directory<R: Copy + 'static> {
    words: &'static Array<u64>,
    records: &'static Array<Keyed<R>>,
}

impl<R: Copy> Source<'static> for Directory<R> {
    type Record = R;

    #[inline(always)]
    fn word(self, place: u32) -> Option<u64> {
        self.words.get(place).map(read)
    }

    // The daemon writes a record's place only after every program that may know it has ended.
    #[inline(always)]
    fn record(self, place: u32) -> Option<&'static Keyed<R>> {
        self.records.get(place)
    }
}

/// Adds to a word that other CPUs add to as well.
///
/// # Safety
/// The place is an aligned word of a map.
#[inline(always)]
pub unsafe fn add(place: *mut i64, by: i64) {
    // SAFETY: as the caller says; the instruction adds to it and does nothing else. The standard library has no addition for a
    // machine that it knows no compare-and-swap of.
    unsafe {
        asm!("lock *(u64 *)({place} + 0) += {by}", place = in(reg) place, by = in(reg) by);
    }
}

/// A word that the daemon may be replacing.
#[inline(always)]
fn read(word: &u64) -> u64 {
    // SAFETY: a reference is valid. Volatile, since the compiler has no atomic loads for this target, and
    // reads a word at once.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

impl OwnMacs for Maps {
    #[inline(always)]
    fn own_mac(&self, place: u32) -> u64 {
        OWN_MACS.get(place).map_or(0, read)
    }
}

impl Tables for Maps {
    type FlowTable = FlowTable;
    type Traffic<'t>
        = &'t mut Traffic
    where
        Self: 't;

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: the helper takes nothing and returns a number.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn roles(&self, address: &Address) -> u8 {
        let place = Place::of(address);
        ADDRESSES.get(place.word()).map_or(0, |word| place.roles(read(word)))
    }

    #[inline(always)]
    fn service(&self, vip: &Endpoint) -> Option<&Service> {
        Directory { words: &SERVICE_PLACES, records: &SERVICES }.find(vip)
    }

    #[inline(always)]
    fn may_have_ranges(&self, vip: &Address) -> bool {
        let place = Place::of(vip);
        RANGED_ADDRESSES.get(place.word()).is_some_and(|word| place.roles(read(word)) != 0)
    }

    #[inline(always)]
    fn port_ranges(&self, vip: &Endpoint) -> Option<&PortRanges> {
        // SAFETY: the value has no pointers. The daemon replaces it as a whole; should the kernel give the replaced one's
        // room to another address while this reads it, a first port is found that no service of this address has.
        unsafe { PORT_RANGES.get(vip) }
    }

    #[inline(always)]
    fn slot(&self, index: SlotIndex) -> Option<Slot> {
        SLOTS.get(index.0).map(|bits| Slot::from_bits(*bits))
    }

    #[inline(always)]
    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        BACKENDS.get(index.0)
    }

    #[inline(always)]
    fn snat_address(&self, place: u32) -> Option<&Address> {
        SNAT_ADDRESSES.get(place)
    }

    #[inline(always)]
    fn is_vip(&self, address: &Address) -> bool {
        // SAFETY: the value is not read.
        unsafe { VIPS.get(address) }.is_some()
    }

    #[inline(always)]
    fn sole_port(&self, address: &Address, protocol: Protocol) -> Option<Port> {
        // SAFETY: the value has no pointers, and is one word, which the daemon writes as a whole.
        unsafe { VIPS.get(address) }.and_then(|ports| ports.of_protocol(protocol))
    }

    #[inline(always)]
    fn is_own(&self, address: &Address) -> bool {
        // SAFETY: the value is not read.
        unsafe { OWN_ADDRESSES.get(address) }.is_some()
    }

    #[inline(always)]
    fn reply(&self, backend: &Endpoint) -> Option<&Reply> {
        Directory { words: &REPLY_PLACES, records: &REPLIES }.find(backend)
    }

    #[inline(always)]
    fn device_below(&self, ifindex: u32) -> Option<VlanDevice> {
        // SAFETY: the value has no pointers, and is one word, which the daemon writes as a whole.
        unsafe { VLANS.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn check(&self, key: &FlowKey) -> Option<&Check> {
        // SAFETY: the value has no pointers. The daemon forgets a check some time after its last packet; should the
        // kernel give its room to another while this reads it, one packet goes where it should not.
        unsafe { CHECKS.get(key) }
    }

    #[inline(always)]
    fn flow_table(&self) -> &FlowTable {
        &FlowTable
    }

    #[inline(always)]
    fn may_answer(&self, answer: Answer, destination: FlowHash) -> bool {
        let Some(buckets) = ANSWERS.get_ptr_mut(answer as u32) else { return false };
        // SAFETY: the helper takes nothing and returns a number.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
        unsafe { (*buckets).take(answer, destination, now) }
    }

    #[inline(always)]
    fn quic_server(&self, key: &ServerKey) -> BackendIndex {
        // SAFETY: the value is one word, which the daemon writes as a whole.
        match unsafe { QUIC_SERVERS.get(key) } {
            Some(index) => BackendIndex(*index),
            None => BackendIndex(0),
        }
    }

    #[inline(always)]
    fn source_verdict(&self, key: &SourceKey) -> u32 {
        match SOURCES.get(Key::new(SourceKey::SCOPE_BITS + 128, *key)) {
            Some(verdict) => *verdict,
            None => 0,
        }
    }

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn bucket_full_at(&self, source: &SourceKey) -> Option<u64> {
        // SAFETY: the value is an aligned word, which other CPUs write as a whole.
        SOURCE_RATES.get_ptr(source).map(|at| unsafe { at.read_volatile() })
    }

    #[inline(always)]
    fn set_bucket_full_at(&self, source: &SourceKey, at: u64) {
        match SOURCE_RATES.get_ptr_mut(source) {
            // SAFETY: as above; the place may have gone to another source meanwhile, which has its next token
            // a little later then.
            Some(place) => unsafe { place.write_volatile(at) },
            // Without room it goes without a bucket.
            None => drop(SOURCE_RATES.insert(source, at, 0)),
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey, into: &mut Fragment) -> Option<()> {
        // SAFETY: the value stays readable until the program ends. The map may give an evicted value's
        // place to another packet meanwhile; every field is valid whatever its bytes are.
        *into = *unsafe { FRAGMENTS.get(key) }?;
        Some(())
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) -> Option<()> {
        FRAGMENTS.insert(key, fragment, 0).ok()
    }

    #[inline(always)]
    fn service_flows(&self, service: ServiceIndex) -> Option<i64> {
        flows(&SERVICE_FLOWS, service.0)
    }

    #[inline(always)]
    fn backend_flows(&self, backend: BackendIndex) -> Option<i64> {
        flows(&BACKEND_FLOWS, backend.0)
    }

    #[inline(always)]
    fn add_flow(&self, service: ServiceIndex, backend: BackendIndex, by: i64) {
        if let Some(flows) = SERVICE_FLOWS.get_ptr_mut(service.0) {
            // SAFETY: it is the word of an entry.
            unsafe { add(flows, by) };
        }
        if let Some(flows) = BACKEND_FLOWS.get_ptr_mut(backend.0) {
            // SAFETY: it is the word of an entry.
            unsafe { add(flows, by) };
        }
    }

    #[inline(always)]
    fn router_addresses(&self, interface: &RouterInterface) -> Option<&RouterAddresses> {
        // SAFETY: the value has no pointers; should the daemon replace it while this reads it, any bytes are addresses.
        unsafe { ROUTER_ADDRESSES.get(interface) }
    }

    // A call of its own: the verifier would follow all that comes after from each answer, wherever routes are asked for.
    #[inline(never)]
    fn route(&self, query: &RouteQuery) -> Route {
        let RouteQuery { source, destination, length, ingress } = query;
        let Some(lookup) = room_for_lookup() else { return Route::Unroutable };
        ask(lookup, &source.address, &destination.address, destination.port, *ingress);
        lookup.l4_protocol = source.protocol.0;
        lookup.sport = source.port.word();
        lookup.__bindgen_anon_1.tot_len = *length;
        self.answer(lookup)
    }

    // A call of its own for the same reason as `route`.
    #[inline(never)]
    fn way(&self, backend: &Backend, ingress: u32) -> Route {
        let Some(lookup) = room_for_lookup() else { return Route::Unroutable };
        ask(lookup, &backend.source, &backend.address, backend.port, ingress);
        self.answer(lookup)
    }

    #[inline(always)]
    fn set_alone(&self) {
        if let Some(settings) = SETTINGS.get_ptr_mut(0) {
            // SAFETY: an aligned word, which is written as a whole.
            unsafe { (&raw mut (*settings).alone).write_volatile(1) };
        }
    }

    #[inline(always)]
    fn traffic(&self, backend: BackendIndex) -> Option<&mut Traffic> {
        // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
        let traffic = unsafe { &mut *BACKEND_COUNTERS.get_ptr_mut(backend.0)? };
        // SAFETY: a reference is valid. Volatile: the value is not used.
        let _ = unsafe { (&raw const traffic.packets_in).read_volatile() };
        Some(traffic)
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
            unsafe { *counter += 1 };
        }
    }
}

#[inline(always)]
fn flows(counts: &Array<i64>, place: u32) -> Option<i64> {
    // SAFETY: an aligned word, which other CPUs change as a whole.
    counts.get_ptr(place).map(|flows| unsafe { flows.read_volatile() })
}

/// The next hop that the routing table has answered with.
#[inline(always)]
pub fn next_hop(lookup: &FibLookup) -> Address {
    // SAFETY: every variant of the union is made of numbers, and the family says which one it is.
    unsafe {
        if lookup.family == FAMILY_V4 {
            Address::v4(Be32::from_word(lookup.__bindgen_anon_4.ipv4_dst))
        } else {
            Address::v6(lookup.__bindgen_anon_4.ipv6_dst.map(Be32::from_word))
        }
    }
}
