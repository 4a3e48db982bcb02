//! Why a packet was passed on or dropped: each reason has its own counter and its own words.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $kind:ident, $name:literal, $words:literal;)*) => {
        /// Why a packet was passed on to the host, or dropped.
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
    /// The host's own network stack gets it, unchanged.
    Pass,
    /// It ends here.
    Drop,
    /// Its sender gets an answer in its place.
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
        "not IPv4 or IPv6 (ARP, LLDP and the like): the host handles it";
    NotTcpOrUdp = 1, Pass, "not_tcp_or_udp",
        "IP, but neither TCP nor UDP, and no ICMP to a VIP or about a flow (other ICMP, OSPF and the like): the host handles it";
    NoService = 2, Pass, "no_service",
        "no service has this address, port and protocol, and no backend sent it: the host's own traffic";
    TooManyTags = 3, Pass, "too_many_vlan_tags",
        "more than two VLAN tags: not understood, left to the host";
    Malformed = 4, Pass, "malformed",
        "a header is cut short or contradicts itself: left to the host, which drops it";
    LengthMismatch = 5, Pass, "length_mismatch",
        "the IP header claims more bytes than arrived: left to the host, which drops it";
    Fragment = 6, Pass, "fragment",
        "an IP fragment that belongs to no flow (of ICMP, or of the host's own traffic): the host handles it";
    ExtensionHeaders = 7, Pass, "ipv6_extension_headers",
        "an IPv6 extension header that is unknown, or more of them than are walked: left to the host";
    NotAReply = 8, Pass, "not_a_reply",
        "sent by a backend, but no part of a balanced flow (a health check's answer), or there is no route to the client: the host's own traffic";
    NoBackend = 9, Drop, "no_backend",
        "the service has no backend that is up: see `xdp-lb backend list` for why";
    BackendUnusable = 10, Drop, "backend_unusable",
        "the chosen backend went away as the packet came: rare, and over with the next ring; if it grows, report it";
    SnatPortsExhausted = 11, Drop, "snat_ports_exhausted",
        "no free source port towards the backend: widen snat_ports, or (full-nat) add snat_addresses to the service";
    FlowTableFull = 12, Drop, "flow_table_full",
        "the flow could not be recorded: raise limits.flows";
    ResetWithoutFlow = 13, Drop, "reset_without_flow",
        "a TCP reset for a flow that is not known: there is nobody to send it to";
    MartianSource = 14, Drop, "martian_source",
        "a packet to a VIP from an address that no other host can have (0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3, ::, ::1, ff00::/8, a VIP, or another address of this host): forged, or another host uses an address of this one";
    ReplyUnroutable = 15, Drop, "reply_unroutable",
        "IP forwarding is off, which `nat` needs (sysctl net.ipv4.ip_forward, net.ipv6.conf.all.forwarding), or this host's routes prohibit the client";
    ReplyNeighbourMissing = 16, Drop, "reply_neighbour_missing",
        "the next hop towards the client is being resolved (ARP or NDP), and the host could not be asked to send the packet (`xdp-lb status` shows why); the retransmission goes through";
    TtlExpired = 17, Drop, "ttl_expired",
        "the packet's TTL or hop limit ran out here: look for a routing loop";
    HeaderRoom = 18, Drop, "header_room",
        "the frame has no room for the VLAN tag or outer header that it needs: the driver gives too little headroom; try xdp_mode = \"generic\"";
    TooBig = 19, Drop, "too_big",
        "larger than the way to the backend or client takes, and not answered, since too many are already or it cannot help (IPv6 needs 1280 bytes): raise that MTU, or lower the sender's";
    NotUnicast = 20, Pass, "not_unicast",
        "an Ethernet broadcast or multicast: the host handles it";
    ReplyWithoutFlow = 21, Drop, "reply_without_flow",
        "a backend answers a `full-nat` flow whose record is gone; the client's next packet puts it back: if it grows, raise limits.flows";
    SourceIsOurs = 22, Drop, "source_is_ours",
        "a UDP packet to a service, in the name of a service or of a backend: forged, or two services would answer each other for ever";
    IcmpWithoutFlow = 23, Drop, "icmp_without_flow",
        "an ICMP error about a packet that a VIP sent to a client, whose flow is not known any more: there is no backend to tell";
    TooBigAnswered = 24, Answer, "too_big_answered",
        "larger than the way to the backend or client takes: the sender was told so by ICMP and sends smaller ones; to spare it that, raise the MTU towards the backends";
    SourceDenied = 25, Drop, "source_denied",
        "the client's address is in a range that the service denies, or in none that it allows: see `allow` and `deny` of the service";
    NewFlowRate = 26, Drop, "new_flow_rate",
        "a client began flows faster than the service's `new_flow_rate` lets one source: a flood, or a rate that is too low for clients behind one address";
    FragmentWithoutFirst = 27, Drop, "fragment_without_first",
        "an IP fragment to a VIP whose first fragment was not forwarded, or came later or too long ago: if it grows, raise limits.fragments, or let path MTU discovery work";
    ServiceFull = 28, Drop, "service_full",
        "a new flow of a service that has as many as its `max_flows` lets it: raise that, or see where the flows come from";
    BackendsFull = 29, Drop, "backends_full",
        "a new flow whose backend, and those next in the ring, have as many as their `max_flows` lets them: add backends, or raise that";
    Internal = 30, Drop, "internal",
        "a table that must always be there could not be read: reload with `xdp-lb unload` and a new start, and report it";
    FlowEnded = 31, Drop, "flow_ended",
        "a packet of a flow whose backend is gone, and not answered: it was a reset itself, or too many were answered already";
    FlowEndedAnswered = 32, Answer, "flow_ended_answered",
        "a packet of a flow whose backend is gone: the client was told so by a TCP reset or by ICMP \"port unreachable\"";
    OtherHost = 33, Pass, "other_host",
        "the frame is addressed to the MAC of another host (a switch flooded it, or the interface is a bridge port): the host handles it";
    NoBackendAnswered = 34, Answer, "no_backend_answered",
        "the service has no backend that is up, and the client was told so by a TCP reset or by ICMP \"port unreachable\": see `xdp-lb backend list` for why, and `on_no_backends` of the service";
    TtlExpiredAnswered = 35, Answer, "ttl_expired_answered",
        "the packet's TTL or hop limit ran out here, and its sender was told so by ICMP \"time exceeded\": a traceroute, or a routing loop";
    ReplyWithoutFlowAnswered = 36, Answer, "reply_without_flow_answered",
        "a backend goes on with a `full-nat` connection that is over, and was told so by a TCP reset: raise timeouts.tcp_idle if connections rest for longer";
    HandedToHost = 37, Pass, "handed_to_host",
        "forwarded, but sent by the host's neighbour table, since the next hop's Ethernet address was not known, or no daemon keeps it up to date";
    ReplyFromElsewhere = 38, Drop, "reply_from_elsewhere",
        "a packet in a backend's name that came in by another interface or VLAN than the one towards that backend: forged; or the network is asymmetric, see asymmetric_replies";
}

/// How many reasons there are: the size of the table of their counters.
pub const REASONS: u32 = Reason::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stands_at_its_number() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }

    #[test]
    fn every_name_is_its_own() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
