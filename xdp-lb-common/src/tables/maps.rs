//! The BPF maps: one row each.

/// Passes the rows of all BPF maps to the named macro, which generates what its crate needs: the maps (`xdp-lb-ebpf`), their
/// sizes and pins (`xdp-lb`), the version of their layout ([`LAYOUT_VERSION`]).
///
/// A row has a name, a type, the minimum number of entries and the flags, the configured limit by which the map is enlarged when
/// it is loaded, and whether it is `pinned`, for forwarding without a daemon and for the next daemon, or the program's `own`.
///
/// [`LAYOUT_VERSION`]: crate::tables::version::LAYOUT_VERSION
#[macro_export]
macro_rules! maps {
    ($rows:ident) => {
        $rows! {
            /// The settings for all services.
            SETTINGS: Array<Settings> = with_max_entries(1, 0), pinned;
            /// This host's MAC addresses: see [`own_mac`](xdp_lb_common::own_mac).
            OWN_MACS: Array<u64> = with_max_entries(own_mac::WORDS, MMAPABLE), pinned;
            /// Which addresses matter: see [`filter`](xdp_lb_common::tables::filter).
            ADDRESSES: Array<u64> = with_max_entries(filter::WORDS, MMAPABLE), pinned;
            /// The directory of `SERVICES`.
            SERVICE_PLACES: Array<u64> =
                with_max_entries(1, MMAPABLE) for |limits| directory::words(limits.services), pinned;
            /// The services, by VIP.
            SERVICES: Array<Keyed<Service>> =
                with_max_entries(1, MMAPABLE) for |limits| directory::records(limits.services), pinned;
            /// The addresses of services, each with the port of its only service.
            VIPS: HashMap<Address, SolePorts> = with_max_entries(1, 0) for |limits| limits.services, pinned;
            /// Which addresses have ranges of ports: see [`filter`](xdp_lb_common::tables::filter).
            RANGED_ADDRESSES: Array<u64> = with_max_entries(filter::WORDS, MMAPABLE), pinned;
            /// The ranges of ports of an address.
            PORT_RANGES: HashMap<Endpoint, PortRanges> =
                with_max_entries(1, BPF_F_NO_PREALLOC) for |limits| limits.services, pinned;
            /// All rings, one after the other: each word is a [`Slot`](xdp_lb_common::tables::slot::Slot).
            SLOTS: Array<u64> = with_max_entries(1, MMAPABLE) for |limits| limits.slots, pinned;
            /// The backends. Index 0 stays vacant.
            BACKENDS: Array<Backend> = with_max_entries(1, MMAPABLE) for |limits| limits.backends + 1, pinned;
            /// The source addresses of `full-nat` and tunnels: sixteen for each of a thousand services.
            SNAT_ADDRESSES: Array<Address> = with_max_entries(16_384, 0), pinned;
            /// The addresses of this host.
            OWN_ADDRESSES: HashMap<Address, u32> = with_max_entries(65_536, BPF_F_NO_PREALLOC), pinned;
            /// The directory of `REPLIES`.
            REPLY_PLACES: Array<u64> =
                with_max_entries(1, MMAPABLE) for |limits| directory::words(limits.backends), pinned;
            /// What to do with backends' packets, by their endpoint.
            REPLIES: Array<Keyed<Reply>> =
                with_max_entries(1, MMAPABLE) for |limits| directory::records(limits.backends), pinned;
            /// The parent of a VLAN device, or the device of which this is a port, by its index.
            VLANS: HashMap<u32, VlanDevice> = with_max_entries(4096, 0), pinned;
            /// This host's addresses on its interfaces.
            ROUTER_ADDRESSES: HashMap<RouterInterface, RouterAddresses> =
                with_max_entries(4096, BPF_F_NO_PREALLOC), pinned;
            /// The tags of the flow table's lines, a word for each bucket.
            FLOW_TAGS: Array<u64> =
                with_max_entries(1, MMAPABLE) for |limits| flow_table::buckets(limits.flows), pinned;
            /// The flow table's lines.
            FLOW_LINES: Array<Line<u64>> =
                with_max_entries(8, MMAPABLE) for |limits| 8 * flow_table::buckets(limits.flows), pinned;
            /// The source ports of `full-nat` flows.
            FLOW_PORTS: Array<u64> =
                with_max_entries(8, MMAPABLE) for |limits| 8 * flow_table::buckets(limits.flows), pinned;
            /// The locks of flows that are being inserted.
            FLOW_LOCKS: Array<u64> = with_max_entries(flow_table::LOCKS, MMAPABLE), pinned;
            /// The health checks through VIPs, by their packets.
            CHECKS: HashMap<FlowKey, Check> = with_max_entries(65_536, BPF_F_NO_PREALLOC), own;
            /// The backends by QUIC server ID, the old and the new ones.
            QUIC_SERVERS: HashMap<ServerKey, u32> =
                with_max_entries(1, BPF_F_NO_PREALLOC) for |limits| 2 * limits.backends, pinned;
            /// The allowed and denied ranges of clients.
            SOURCES: LpmTrie<SourceKey, u32> = with_max_entries(1, 0) for |limits| limits.source_ranges, pinned;
            /// When each client's bucket of new flows is full again.
            SOURCE_RATES: LruHashMap<SourceKey, u64> =
                with_max_entries(1, 0) for |limits| limits.source_rates, pinned;
            /// The decisions about first fragments.
            FRAGMENTS: LruHashMap<FragmentKey, Fragment> =
                with_max_entries(1, 0) for |limits| limits.fragments, pinned;
            /// The number of packets by reason, and of evictions; there are counters to spare.
            REASON_COUNTERS: PerCpuArray<u64> = with_max_entries(COUNTED_REASONS, 0), pinned;
            /// The same by service and backend, where they are known.
            REFUSALS: PerCpuHashMap<RefusalKey, u64> = with_max_entries(65_536, BPF_F_NO_PREALLOC), own;
            /// The traffic of a service's former backends.
            FORMER_TRAFFIC: Array<Traffic> = with_max_entries(1, 0) for |limits| limits.services, pinned;
            /// The number of flows of each service, if they are counted.
            SERVICE_FLOWS: Array<i64> = with_max_entries(1, MMAPABLE) for |limits| limits.services, pinned;
            /// The same of each backend.
            BACKEND_FLOWS: Array<i64> = with_max_entries(1, MMAPABLE) for |limits| limits.backends + 1, pinned;
            /// The traffic of each backend.
            BACKEND_COUNTERS: PerCpuArray<Traffic> =
                with_max_entries(1, 0) for |limits| limits.backends + 1, pinned;
            /// The limits of each kind of answer.
            ANSWERS: PerCpuArray<Buckets> = with_max_entries(rate::ANSWERS, 0), own;
            /// Packets that the kernel has dropped after the program's verdict.
            LOSSES: HashMap<LossKey, u64> = with_max_entries(1024, BPF_F_NO_PREALLOC), own;
            /// The programs whose packets are counted there.
            WATCHED: Array<Watched> = with_max_entries(1, 0), own;
            /// Until when a sample of dropped packets is wanted, seconds of the monotonic clock.
            DROPS_UNTIL: Array<u32> = with_max_entries(1, 0), own;
            /// What was noted of each reason.
            SAMPLED: PerCpuArray<Sampled> = with_max_entries(COUNTED_REASONS, 0), own;
            /// The sample: 64 KiB of [`DropSample`](xdp_lb_common::tables::drops::DropSample).
            DROPS: RingBuf = with_byte_size(64 * 1024, 0), own;
            /// Which packets are followed.
            TRACE_FILTER: Array<TraceFilter> = with_max_entries(1, 0), own;
            /// For how long, and how many.
            TRACE_LIMITS: Array<TraceLimits> = with_max_entries(1, 0), own;
            /// How many more are noted.
            TRACE_LEFT: Array<i64> = with_max_entries(1, 0), own;
            /// What was noted of packets: 512 KiB of [`TraceEvent`](xdp_lb_common::trace::TraceEvent), each with two frames.
            TRACES: RingBuf = with_byte_size(512 * 1024, 0), own;
            /// The neighbours to resolve: 64 KiB of [`NeighbourWanted`].
            EVENTS: RingBuf = with_byte_size(64 * 1024, 0), pinned;
        }
    };
}
