//! The choices of keys: enums with their names in the config file, the API and the CLI.

use serde::{Deserialize, Serialize};

/// The names of an enum's variants: one table for parsing and printing.
macro_rules! words {
    ($type:ident: $($word:literal => $variant:ident),+) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                const KNOWN: &[&str] = &[$($word),+];
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::model::text::unknown_word(text, KNOWN)),
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl $crate::model::section::Value for $type {
            fn read(section: &mut $crate::model::section::Section<'_>, key: &str) -> Option<Self> {
                section.parsed(key, str::parse)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),+] })
            }
        }
    };
}

pub(crate) use words;

/// How the load balancer is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Attach {
    /// By native XDP if all of that works on every interface of `auto`, else at TC ingress.
    #[default]
    Auto,
    /// By XDP in the driver; refused if the driver does not support it.
    Xdp,
    /// At TC ingress: works on every interface, with every offload.
    Tc,
    /// By generic XDP: after the kernel has allocated a socket buffer, and has joined segments.
    XdpGeneric,
}

impl From<XdpMode> for Attach {
    fn from(mode: XdpMode) -> Self {
        match mode {
            XdpMode::Auto => Self::Auto,
            XdpMode::Native => Self::Xdp,
            XdpMode::Generic => Self::XdpGeneric,
        }
    }
}

/// How an XDP program is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum XdpMode {
    /// Native if the driver supports it, else generic.
    #[default]
    Auto,
    /// In the driver; refused if the driver does not support XDP.
    Native,
    /// After the kernel has allocated a socket buffer: works everywhere, but is slower.
    Generic,
}

/// When a VIP is removed from this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Withdraw {
    /// When no service uses it any more, the node or all of its services are drained, or the datapath is unloaded.
    #[default]
    Never,
    /// Also while none of its services has a backend that is up or draining.
    NoBackends,
}

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A flag of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum TcpFlag {
    /// Begins a connection.
    Syn,
    /// Acknowledges: all but the first segment of a connection.
    Ack,
    /// Ends one direction.
    Fin,
    /// Ends the connection at once.
    Rst,
    /// Pushes data to the application.
    Psh,
}

/// A forwarding mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Mode {
    /// Source and destination rewritten; works in any network.
    #[default]
    FullNat,
    /// Destination rewritten; the backends route to clients through this host.
    Nat,
    /// Ethernet addresses rewritten; the backends, on the same link, have the VIP and reply directly to clients.
    Dsr,
    /// Encapsulated in an IP packet; the backends have the VIP and reply directly to clients.
    Ipip,
    /// Encapsulated in a UDP packet (Generic UDP Encapsulation); the backends have the VIP and reply directly to clients.
    Gue,
}

impl Mode {
    /// Whether packets to backends are encapsulated.
    pub const fn encapsulates(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Whether packets reach the backends with the VIP and its port as their destination.
    pub const fn keeps_destination(self) -> bool {
        matches!(self, Self::Dsr | Self::Ipip | Self::Gue)
    }
}

/// What happens in `nat` to a client to whom its backend would reply directly: a neighbour on the backend's network, or the
/// backend itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Hairpin {
    /// Its packets leave from an address of this host, as in `full-nat`, so that the replies come back here.
    #[default]
    Auto,
    /// Its packets keep its address. Its connections fail unless the backend sends those replies here, too.
    Off,
}

/// Which flows are recorded. `full-nat` records every flow, whatever the setting, because it needs each one's port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum FlowTracking {
    /// Those whose slot of the ring has recently changed its owner: only they could change their backend.
    #[default]
    Auto,
    /// All of them, so that they can be counted exactly.
    Always,
}

/// What happens to new flows while no backend takes any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum OnNoBackends {
    /// The client gets a TCP reset, or ICMP "port unreachable" for UDP, at once; but not before the first checks have ended.
    #[default]
    Reject,
    /// No answer: the client retries until it gives up.
    Drop,
}

/// What happens to established flows of a backend that is down according to its health check or agent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum OnDown {
    /// `nat`, `full-nat`: they stay while the backend answers any client. In the other modes, whose replies do not pass here,
    /// they stay for `down_timeout`.
    #[default]
    Auto,
    /// They stay.
    Keep,
    /// They end at once.
    Reset,
}

words!(Attach: "auto" => Auto, "xdp" => Xdp, "tc" => Tc, "xdp-generic" => XdpGeneric);
words!(XdpMode: "auto" => Auto, "native" => Native, "generic" => Generic);
words!(Protocol: "tcp" => Tcp, "udp" => Udp);
words!(TcpFlag: "syn" => Syn, "ack" => Ack, "fin" => Fin, "rst" => Rst, "psh" => Psh);
words!(Mode: "full-nat" => FullNat, "nat" => Nat, "dsr" => Dsr, "ipip" => Ipip, "gue" => Gue);
words!(Withdraw: "never" => Never, "no-backends" => NoBackends);
words!(FlowTracking: "auto" => Auto, "always" => Always);
words!(OnNoBackends: "reject" => Reject, "drop" => Drop);
words!(OnDown: "auto" => Auto, "keep" => Keep, "reset" => Reset);
words!(Hairpin: "auto" => Auto, "off" => Off);
