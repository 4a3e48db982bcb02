//! The BPF maps: one row each.

/// Hands the rows of all BPF maps to the macro of this name, which makes of them what its crate needs: the maps themselves
/// (`xdp-lb-ebpf`), their sizes and pins (`xdp-lb`), the version of their layout ([`LAYOUT_VERSION`]).
///
/// A row is a name and a type, how many entries it has at least and its flags, for which of the configured limits it is made
/// larger when it is loaded, and whether it is `pinned`, so that forwarding and the next daemon have it, or the program's
/// `own`.
///
/// [`LAYOUT_VERSION`]: crate::tables::version::LAYOUT_VERSION
#[macro_export]
macro_rules! maps {
    ($rows:ident) => {
        $rows! {
            /// What holds for every service.
            SETTINGS: Array<Settings> = with_max_entries(1, 0), pinned;
            /// Which frames are for this host, as [`own_mac`](xdp_lb_common::own_mac) has it.
            OWN_MACS: Array<u64> = with_max_entries(own_mac::WORDS, MMAPABLE), pinned;
            /// Which addresses are anybody's, as [`filter`](xdp_lb_common::tables::filter) has it.
            ADDRESSES: Array<u64> = with_max_entries(filter::WORDS, MMAPABLE), pinned;
            /// The directory of `SERVICES`.
            SERVICE_PLACES: Array<u64> =
                with_max_entries(1, MMAPABLE) for |limits| directory::words(limits.services), pinned;
            /// The services, by VIP.
            SERVICES: Array<Keyed<Service>> =
                with_max_entries(1, MMAPABLE) for |limits| directory::records(limits.services), pinned;
            /// The addresses of services, and the port of an address's only one.
            VIPS: HashMap<Address, SolePorts> = with_max_entries(1, 0) for |limits| limits.services, pinned;
            /// Which addresses have ranges of ports, as [`filter`](xdp_lb_common::tables::filter) has it.
            RANGED_ADDRESSES: Array<u64> = with_max_entries(filter::WORDS, MMAPABLE), pinned;
            /// The ranges of ports of an address.
            PORT_RANGES: HashMap<Endpoint, PortRanges> =
                with_max_entries(1, BPF_F_NO_PREALLOC) for |limits| limits.services, pinned;
            /// All rings, one behind the other: each word is a [`Slot`](xdp_lb_common::tables::slot::Slot).
            SLOTS: Array<u64> = with_max_entries(1, MMAPABLE) for |limits| limits.slots, pinned;
            /// The backends. Place 0 stays vacant.
            BACKENDS: Array<Backend> = with_max_entries(1, MMAPABLE) for |limits| limits.backends + 1, pinned;
            /// The addresses that `full-nat` and tunnels send from: sixteen for each of a thousand services.
            SNAT_ADDRESSES: Array<Address> = with_max_entries(16_384, 0), pinned;
            /// The addresses of this host.
            OWN_ADDRESSES: HashMap<Address, u32> = with_max_entries(65_536, BPF_F_NO_PREALLOC), pinned;
            /// The directory of `REPLIES`.
            REPLY_PLACES: Array<u64> =
                with_max_entries(1, MMAPABLE) for |limits| directory::words(limits.backends), pinned;
            /// What becomes of backends' packets, by their endpoint.
            REPLIES: Array<Keyed<Reply>> =
                with_max_entries(1, MMAPABLE) for |limits| directory::records(limits.backends), pinned;
            /// What a VLAN device stands on, or a port is one of, by its index.
            VLANS: HashMap<u32, VlanDevice> = with_max_entries(4096, 0), pinned;
            /// This host's addresses behind its interfaces.
            ROUTER_ADDRESSES: HashMap<RouterInterface, RouterAddresses> =
                with_max_entries(4096, BPF_F_NO_PREALLOC), pinned;
            /// The tags of the flow table's lines, a word for each bucket.
            FLOW_TAGS: Array<u64> =
                with_max_entries(1, MMAPABLE) for |limits| flow_table::buckets(limits.flows), pinned;
            /// The flow table's lines.
            FLOW_LINES: Array<Line<u64>> =
                with_max_entries(8, MMAPABLE) for |limits| 8 * flow_table::buckets(limits.flows), pinned;
            /// The ports that backends know clients by.
            FLOW_PORTS: Array<u64> =
                with_max_entries(8, MMAPABLE) for |limits| 8 * flow_table::buckets(limits.flows), pinned;
            /// Who begins a flow at the moment.
            FLOW_LOCKS: Array<u64> = with_max_entries(flow_table::LOCKS, MMAPABLE), pinned;
            /// The health checks that go to a VIP, by their packets.
            CHECKS: HashMap<FlowKey, Check> = with_max_entries(65_536, BPF_F_NO_PREALLOC), own;
            /// The backends that QUIC connection ids name: the old and the new ones, side by side.
            QUIC_SERVERS: HashMap<ServerKey, u32> =
                with_max_entries(1, BPF_F_NO_PREALLOC) for |limits| 2 * limits.backends, pinned;
            /// The ranges that clients may come from, or not.
            SOURCES: LpmTrie<SourceKey, u32> = with_max_entries(1, 0) for |limits| limits.source_ranges, pinned;
            /// When each client's bucket of new flows is full again.
            SOURCE_RATES: LruHashMap<SourceKey, u64> =
                with_max_entries(1, 0) for |limits| limits.source_rates, pinned;
            /// What became of first fragments.
            FRAGMENTS: LruHashMap<FragmentKey, Fragment> =
                with_max_entries(1, 0) for |limits| limits.fragments, pinned;
            /// How many packets had each reason; there is room for more reasons than there are.
            REASON_COUNTERS: PerCpuArray<u64> = with_max_entries(COUNTED_REASONS, 0), pinned;
            /// What a service's former backends have counted.
            FORMER_TRAFFIC: Array<Traffic> = with_max_entries(1, 0) for |limits| limits.services, pinned;
            /// How many flows each service has, where they are counted.
            SERVICE_FLOWS: Array<i64> = with_max_entries(1, MMAPABLE) for |limits| limits.services, pinned;
            /// The same of each backend.
            BACKEND_FLOWS: Array<i64> = with_max_entries(1, MMAPABLE) for |limits| limits.backends + 1, pinned;
            /// What went to each backend and came from it.
            BACKEND_COUNTERS: PerCpuArray<Traffic> =
                with_max_entries(1, 0) for |limits| limits.backends + 1, pinned;
            /// What limits each kind of answer.
            ANSWERS: PerCpuArray<Buckets> = with_max_entries(rate::ANSWERS, 0), own;
            /// The neighbours whose Ethernet address is wanted: 64 KiB of [`NeighbourWanted`].
            EVENTS: RingBuf = with_byte_size(64 * 1024, 0), pinned;
        }
    };
}
