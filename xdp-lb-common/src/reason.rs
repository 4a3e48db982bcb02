//! Why a packet was passed to the host, dropped or answered: each reason has its own counter and its own words.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $kind:ident, $name:literal, $words:literal;)*) => {
        /// Why a packet was passed to the host, dropped or answered.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $words] $variant = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Reason] = &[$(Reason::$variant),*];

            /// A name for metrics and JSON, in snake case; stable.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// What it means, and what an operator can do about it.
            pub const fn words(self) -> &'static str {
                match self { $(Reason::$variant => $words,)* }
            }

            /// What happens to such a packet.
            pub const fn kind(self) -> Kind {
                match self { $(Reason::$variant => Kind::$kind,)* }
            }
        }
    };
}

/// What happens to a packet that is not forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The host's network stack gets it unchanged.
    Pass,
    /// It is dropped.
    Drop,
    /// It is dropped, and its sender gets an answer.
    Answer,
}

impl Kind {
    /// A name for metrics and JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Answer => "answer",
        }
    }
}

reasons! {
    NotIp = 0, Pass, "not_ip",
        "not IPv4 or IPv6 (such as ARP or LLDP): passed to the host";
    NotTcpOrUdp = 1, Pass, "not_tcp_or_udp",
        "neither TCP, UDP nor ICMP about a VIP or flow (such as other ICMP or OSPF): passed to the host";
    NoService = 2, Pass, "no_service",
        "not for a service and not from a backend: the host's own traffic";
    TooManyTags = 3, Pass, "too_many_vlan_tags",
        "more than two VLAN tags, which is not supported: passed to the host";
    Malformed = 4, Pass, "malformed",
        "a header is truncated or inconsistent: passed to the host, which drops it";
    LengthMismatch = 5, Pass, "length_mismatch",
        "the IP length exceeds the bytes that arrived: passed to the host, which drops it";
    Fragment = 6, Pass, "fragment",
        "an IP fragment that does not belong to a flow (ICMP, or the host's own traffic): passed to the host";
    ExtensionHeaders = 7, Pass, "ipv6_extension_headers",
        "an unknown IPv6 extension header, or too many of them: passed to the host";
    NotAReply = 8, Pass, "not_a_reply",
        "from a backend, but not part of a balanced flow (such as a health check's response), or without a route to \
         the client: passed to the host";
    NoBackend = 9, Drop, "no_backend",
        "the service has no backend that is up: `xdp-lb backend list` shows why";
    BackendUnusable = 10, Drop, "backend_unusable",
        "the backend was removed while the packet was in flight: brief and harmless. If this keeps rising, please \
         file a bug";
    SnatPortsExhausted = 11, Drop, "snat_ports_exhausted",
        "no free source port towards the backend: widen snat_ports, or (full-nat) add snat_addresses to the service";
    FlowTableFull = 12, Drop, "flow_table_full",
        "a new flow could not be recorded, because every record that it could have taken belongs to an established flow: \
         raise limits.flows";
    ResetWithoutFlow = 13, Drop, "reset_without_flow",
        "a TCP reset for an unknown flow: there is no peer to forward it to";
    MartianSource = 14, Drop, "martian_source",
        "a packet to a VIP with an invalid source address (0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3, ::, ::1, ff00::/8, \
         a VIP, or an address of this host): spoofed, or another host uses an address of this one";
    ReplyUnroutable = 15, Drop, "reply_unroutable",
        "IP forwarding is off, which `nat` needs (sysctl net.ipv4.ip_forward, net.ipv6.conf.all.forwarding), or a \
         route of this host prohibits the client";
    ReplyNeighbourMissing = 16, Drop, "reply_neighbour_missing",
        "the next hop towards the client is still being resolved (ARP or NDP), and the packet could not be handed \
         to the host (`xdp-lb status` shows why); a retransmission will get through";
    TtlExpired = 17, Drop, "ttl_expired",
        "TTL or hop limit exceeded here: look for a routing loop";
    HeaderRoom = 18, Drop, "header_room",
        "no room in the frame for the VLAN tag or outer header: the driver leaves too little headroom; try attach \
         = \"tc\"";
    TooBig = 19, Drop, "too_big",
        "exceeds the path MTU, and no ICMP was sent (rate limit reached, or the MTU is below IPv6's minimum of \
         1280): raise that MTU, or lower the sender's";
    NotUnicast = 20, Pass, "not_unicast",
        "an Ethernet broadcast or multicast: passed to the host";
    ReplyWithoutFlow = 21, Drop, "reply_without_flow",
        "a backend's reply to a `full-nat` flow without a record; the client's next packet restores the record. If \
         this keeps rising, raise limits.flows";
    SourceIsOurs = 22, Drop, "source_is_ours",
        "a UDP packet to a service whose source is a service or backend: spoofed, or two services would answer each \
         other in a loop";
    IcmpWithoutFlow = 23, Drop, "icmp_without_flow",
        "an ICMP error about a packet from a VIP to a client whose flow is no longer known: there is no backend to \
         forward it to";
    TooBigAnswered = 24, Answer, "too_big_answered",
        "exceeds the path MTU: an ICMP error told the sender to use smaller packets; to avoid that, raise the MTU \
         towards the backends";
    SourceDenied = 25, Drop, "source_denied",
        "the service denies the client's address, or does not allow it: see `allow` and `deny` of the service";
    NewFlowRate = 26, Drop, "new_flow_rate",
        "a client exceeded the service's `new_flow_rate`: a flood, or a rate that is too low for clients behind one \
         address";
    FragmentWithoutFirst = 27, Drop, "fragment_without_first",
        "an IP fragment to a VIP whose first fragment was not forwarded, came later, or came too long ago. If this \
         keeps rising, raise limits.fragments, or make path MTU discovery work";
    ServiceFull = 28, Drop, "service_full",
        "a new flow of a service that has reached its `max_flows`: raise that, or find out where the flows come from";
    BackendsFull = 29, Drop, "backends_full",
        "a new flow whose backend, and the next ones in the ring, have reached their `max_flows`: add backends, or \
         raise that";
    Internal = 30, Drop, "internal",
        "a required BPF table could not be read: run `xdp-lb unload`, start the daemon again, and please file a bug";
    FlowEnded = 31, Drop, "flow_ended",
        "a packet of a flow whose backend is gone, and no answer was sent: it was a reset itself, or the rate limit \
         was reached";
    FlowEndedAnswered = 32, Answer, "flow_ended_answered",
        "a packet of a flow whose backend is gone: the client got a TCP reset or ICMP \"port unreachable\"";
    OtherHost = 33, Pass, "other_host",
        "the frame is addressed to another host's MAC (a switch flooded it, or the interface is a bridge port): \
         passed to the host";
    NoBackendAnswered = 34, Answer, "no_backend_answered",
        "the service has no backend that is up, and the client got a TCP reset or ICMP \"port unreachable\": \
         `xdp-lb backend list` shows why; see also `on_no_backends`";
    TtlExpiredAnswered = 35, Answer, "ttl_expired_answered",
        "TTL or hop limit exceeded here, and the sender got ICMP \"time exceeded\": a traceroute, or a routing loop";
    ReplyWithoutFlowAnswered = 36, Answer, "reply_without_flow_answered",
        "a backend sent on a `full-nat` connection that has ended, and got a TCP reset: if connections are idle for \
         longer, raise timeouts.tcp_idle";
    HandedToHost = 37, Pass, "handed_to_host",
        "forwarded through the host's neighbour table, because the next hop's Ethernet address was unknown, or no \
         daemon keeps it up to date";
    ReplyFromElsewhere = 38, Drop, "reply_from_elsewhere",
        "a packet with a backend's source address that arrived on another interface or VLAN than the one towards \
         that backend: spoofed, or the network is asymmetric (see asymmetric_replies)";
    FlowBusy = 39, Drop, "flow_busy",
        "another CPU was writing the flow's record at that moment: a retransmission will get through";
    RedirectFailed = 40, Drop, "redirect_failed",
        "the kernel dropped a packet that was forwarded: the interface towards the backend or client could not take it. \
         The interfaces and causes are below, and in `xdp-lb doctor`";
    TransmitFailed = 41, Drop, "transmit_failed",
        "the kernel dropped a packet that was to leave through the interface that it came from: see the interfaces and \
         causes below, and `xdp-lb doctor`";
}

/// The number of reasons.
pub const REASONS: u32 = Reason::ALL.len() as u32;

/// The number of counters. There are counters to spare, so that builds with more or fewer reasons share one table, which keeps
/// its counts. A reason keeps its number for good.
pub const COUNTED_REASONS: u32 = 256;

const _: () = assert!(REASONS <= COUNTED_REASONS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_the_order_of_their_numbers() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }

    #[test]
    fn every_name_is_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
