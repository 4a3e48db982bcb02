//! The maps. Their sizes are the loader's to set, from the configuration.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup as FibLookup};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::own_mac;
use xdp_lb_common::process::Scratch;
use xdp_lb_common::rate::{self, Buckets};
use xdp_lb_common::reason::REASONS;
use xdp_lb_common::tables::directory::Keyed;
use xdp_lb_common::tables::filter::WORDS;
use xdp_lb_common::tables::{
    Backend, Check, FlowKey, FlowRecord, Fragment, FragmentKey, PortRanges, Reply, RouterAddresses,
    RouterInterface, ServerKey, Service, Settings, SolePorts, SourceKey, Traffic, VlanDevice,
};

/// `BPF_F_MMAPABLE` (5.5): the daemon writes without a system call for each word, and the first entry
/// begins at a page, so that one of 64 bytes is one cache line.
const MMAPABLE: u32 = 1 << 10;

/// What no other CPU reaches.
#[repr(transparent)]
pub struct OneCpu<T>(pub T);

// SAFETY: it lies in per-CPU arrays alone.
unsafe impl<T> Sync for OneCpu<T> {}

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static OWN_MACS: Array<u64> = Array::with_max_entries(own_mac::WORDS, MMAPABLE);
#[map]
pub static ADDRESSES: Array<u64> = Array::with_max_entries(WORDS, MMAPABLE);
#[map]
pub static SERVICE_PLACES: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static SERVICES: Array<Keyed<Service>> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static VIPS: HashMap<Address, SolePorts> = HashMap::with_max_entries(1, 0);
#[map]
pub static RANGED_ADDRESSES: Array<u64> = Array::with_max_entries(WORDS, MMAPABLE);
#[map]
pub static PORT_RANGES: HashMap<Endpoint, PortRanges> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
pub static SLOTS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static SNAT_ADDRESSES: Array<Address> = Array::with_max_entries(1, 0);
#[map]
pub static OWN_ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub static REPLY_PLACES: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static REPLIES: Array<Keyed<Reply>> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static VLANS: HashMap<u32, VlanDevice> = HashMap::with_max_entries(4096, 0);
#[map]
pub static ROUTER_ADDRESSES: HashMap<RouterInterface, RouterAddresses> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowRecord> = LruHashMap::with_max_entries(1, 0);
#[map]
pub static HALF_OPEN: LruHashMap<FlowKey, FlowRecord> = LruHashMap::with_max_entries(1, 0);
#[map]
pub static CHECKS: HashMap<FlowKey, Check> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub static QUIC_SERVERS: HashMap<ServerKey, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::with_max_entries(1, 0);
#[map]
pub static SOURCE_RATES: LruHashMap<SourceKey, u64> = LruHashMap::with_max_entries(1, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment> = LruHashMap::with_max_entries(1, 0);
#[map]
pub static REASON_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS, 0);
#[map]
pub static FORMER_TRAFFIC: Array<Traffic> = Array::with_max_entries(1, 0);
#[map]
pub static SERVICE_FLOWS: Array<i64> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static BACKEND_FLOWS: Array<i64> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static BACKEND_COUNTERS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static SCRATCH: PerCpuArray<OneCpu<Scratch>> = PerCpuArray::with_max_entries(1, 0);
/// What the routing table is asked. Its 64 bytes would be an eighth of the stack.
#[map]
pub static LOOKUP: PerCpuArray<OneCpu<FibLookup>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static ANSWERS: PerCpuArray<Buckets> = PerCpuArray::with_max_entries(rate::ANSWERS, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
