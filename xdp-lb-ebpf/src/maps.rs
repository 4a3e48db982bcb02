//! The maps: those of [`xdp_lb_common::maps`], and memory for each CPU. The loader sets their sizes from the configuration.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup as FibLookup};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use xdp_lb_common::flow_table::{self, Line};
use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::own_mac;
use xdp_lb_common::process::Scratch;
use xdp_lb_common::rate::{self, Buckets};
use xdp_lb_common::reason::COUNTED_REASONS;
use xdp_lb_common::tables::directory::Keyed;
use xdp_lb_common::tables::drops::Sampled;
use xdp_lb_common::tables::filter;
use xdp_lb_common::tables::loss::{LossKey, Watched};
use xdp_lb_common::tables::refusal::RefusalKey;
use xdp_lb_common::tables::{
    Backend, Check, FlowKey, Fragment, FragmentKey, PortRanges, Reply, RouterAddresses, RouterInterface,
    ServerKey, Service, Settings, SolePorts, SourceKey, Traffic, VlanDevice,
};
use xdp_lb_common::trace::{TraceFilter, TraceLimits};

use crate::followed::Followed;

/// `BPF_F_MMAPABLE` (5.5): the daemon writes without a system call for each word, and the first entry is page-aligned, so that an
/// entry of 64 bytes is one cache line.
const MMAPABLE: u32 = 1 << 10;

/// A value that no other CPU accesses.
#[repr(transparent)]
pub struct OneCpu<T>(pub T);

// SAFETY: it is only in per-CPU arrays.
unsafe impl<T> Sync for OneCpu<T> {}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $kind:ident $(<$($part:ty),+>)? =
        $new:ident($entries:expr, $flags:expr) $(for $by:expr)?, $kept:ident;)*) => {
        $($(#[$doc])* #[map] pub static $name: $kind $(<$($part),+>)? = $kind::$new($entries, $flags);)*
    };
}

xdp_lb_common::maps!(tables);

#[map]
pub static SCRATCH: PerCpuArray<OneCpu<Scratch>> = PerCpuArray::with_max_entries(1, 0);
/// The packet that is followed.
#[map]
pub static FOLLOWED: PerCpuArray<OneCpu<Followed>> = PerCpuArray::with_max_entries(1, 0);
/// The parameters of a route lookup. Its 64 bytes would be an eighth of the stack.
#[map]
pub static LOOKUP: PerCpuArray<OneCpu<FibLookup>> = PerCpuArray::with_max_entries(1, 0);
