//! The ways through the datapath.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use xdp_lb_common::net::Protocol;
use xdp_lb_common::tables::Mode;

use crate::packets::{ACK, Frame, SYN};
use crate::rig::{
    Farm, Memory, Rig, Traffic, Varies, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX, backend_address,
};

/// How many flows there are columns for.
pub const FLOWS: [u32; 5] = [1, 1 << 10, 1 << 16, 1 << 20, 1 << 23];
/// For what is not shown in full.
const ENDS: [u32; 3] = [1, 1 << 20, 1 << 23];
const ONE: [u32; 1] = [1];
const MILLION: [u32; 1] = [1 << 20];
/// As many as one SNAT address has ports for, with 64 backends.
const FULL_NAT: [u32; 4] = [1, 1 << 10, 1 << 16, 1 << 20];

/// The modes whose settled slots need no record.
const STATELESS: [Mode; 4] = [Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue];

/// Backends of a service.
const BACKENDS: u32 = 64;

/// The range for benchmarks (RFC 2544): the lower half of the address tells the flows apart.
const CLIENT: &str = "198.18.0.0:40000";
const CLIENT6: &str = "[2001:db8:8::]:40000";

/// Ways whose flows are remembered alike: they share tables.
pub struct Group {
    /// Flow records that there must be room for.
    pub records: u32,
    pub paths: Vec<Path>,
}

/// One way through the datapath.
pub struct Path {
    pub name: String,
    kind: Kind,
    /// With how many flows it is measured.
    pub flows: &'static [u32],
}

enum Kind {
    /// A client's packet to a service.
    Request { farm: Farm, flags: u8 },
    /// A backend's answer.
    Reply { farm: Farm },
    /// A packet to nobody that the datapath knows.
    NotOurs(Frame),
    /// A packet to a service without backends.
    Drop(Farm),
    /// A packet to a port of its address that no service has.
    OtherPort(Farm),
}

/// All of them.
pub fn groups() -> Vec<Group> {
    let mut settled = vec![
        not_ours("not ours, IPv4 TCP", Frame::tcp(CLIENT, "192.0.2.1:22", ACK), &FLOWS),
        not_ours("not ours, IPv4 UDP", Frame::udp(CLIENT, "192.0.2.1:123"), &ONE),
        not_ours("not ours, IPv6 TCP", Frame::tcp(CLIENT6, "[2001:db8::1]:22", ACK), &ENDS),
        not_ours("not ours, IPv6 UDP", Frame::udp(CLIENT6, "[2001:db8::1]:123"), &ONE),
        other_port(),
        drop_path("no backend: dropped"),
    ];
    for mode in STATELESS {
        settled.extend(requests(mode, Memory::Settled, &FLOWS, &ENDS));
        settled.push(request(mode, true, Protocol::TCP, Memory::Settled, SYN, &MILLION));
    }
    settled.push(reply(Mode::Nat, true, &FLOWS));
    settled.push(reply(Mode::Nat, false, &ENDS));

    let mut recorded = Vec::new();
    for memory in [Memory::Moving, Memory::Always] {
        let mut paths = Vec::new();
        for mode in STATELESS {
            let flows: &[u32] = if mode == Mode::Nat { &FLOWS } else { &FULL_NAT };
            paths.push(request(mode, true, Protocol::TCP, memory, ACK, flows));
        }
        paths.push(request(Mode::Nat, true, Protocol::UDP, memory, 0, &MILLION));
        paths.push(request(Mode::Nat, false, Protocol::TCP, memory, ACK, &MILLION));
        paths.push(request(Mode::Nat, true, Protocol::TCP, memory, SYN, &MILLION));
        recorded.push(Group { records: 1 << 24, paths });
    }

    let mut full_nat = requests(Mode::FullNat, Memory::Settled, &FULL_NAT, &FULL_NAT);
    full_nat.push(request(Mode::FullNat, true, Protocol::TCP, Memory::Settled, SYN, &MILLION));
    full_nat.push(reply(Mode::FullNat, true, &ONE));
    full_nat.push(reply(Mode::FullNat, false, &ONE));

    let mut groups = vec![Group { records: 1 << 20, paths: settled }];
    groups.append(&mut recorded);
    groups.push(Group { records: 1 << 24, paths: full_nat });
    groups
}

/// Those that two processors share.
pub fn of_two_processors() -> Vec<Path> {
    let path = |mode, memory| request(mode, true, Protocol::TCP, memory, ACK, &FLOWS);
    vec![
        path(Mode::Nat, Memory::Settled),
        path(Mode::Nat, Memory::Always),
        path(Mode::FullNat, Memory::Settled),
    ]
}

/// A mode's packets to backends, both families and protocols; `others` for all but TCP over IPv4.
fn requests(mode: Mode, memory: Memory, flows: &'static [u32], others: &'static [u32]) -> Vec<Path> {
    vec![
        request(mode, true, Protocol::TCP, memory, ACK, flows),
        request(mode, true, Protocol::UDP, memory, 0, others),
        request(mode, false, Protocol::TCP, memory, ACK, others),
        request(mode, false, Protocol::UDP, memory, 0, others),
    ]
}

fn request(
    mode: Mode,
    is_v4: bool,
    protocol: Protocol,
    memory: Memory,
    flags: u8,
    flows: &'static [u32],
) -> Path {
    let remembered = match (mode, memory) {
        (Mode::FullNat, _) => "",
        (_, Memory::Settled) => ", settled",
        (_, Memory::Moving) => ", moving",
        (_, Memory::Always) => ", always recorded",
    };
    let syn = if flags == SYN { ", SYN" } else { "" };
    let farm = farm(mode, is_v4, protocol, memory, flags);
    Path {
        name: format!("{}, {}{remembered}{syn}", word(mode), ends(is_v4, protocol)),
        kind: Kind::Request { farm, flags },
        flows,
    }
}

fn reply(mode: Mode, is_v4: bool, flows: &'static [u32]) -> Path {
    let mut farm = farm(mode, is_v4, Protocol::TCP, Memory::Settled, ACK);
    farm.vip.set_port(85);
    let name = format!("{}, {}, reply", word(mode), ends(is_v4, Protocol::TCP));
    Path { name, kind: Kind::Reply { farm }, flows }
}

fn not_ours(name: &str, frame: Frame, flows: &'static [u32]) -> Path {
    Path { name: name.to_owned(), kind: Kind::NotOurs(frame), flows }
}

fn other_port() -> Path {
    let farm = farm(Mode::Nat, true, Protocol::TCP, Memory::Settled, ACK);
    Path { name: "a VIP, another port".to_owned(), kind: Kind::OtherPort(farm), flows: &ENDS }
}

fn drop_path(name: &str) -> Path {
    let mut farm = farm(Mode::Nat, true, Protocol::TCP, Memory::Settled, ACK);
    farm.vip.set_port(99);
    farm.backends = 0;
    Path { name: name.to_owned(), kind: Kind::Drop(farm), flows: &ONE }
}

/// Each way's own service: no record of one is found by another.
fn farm(mode: Mode, is_v4: bool, protocol: Protocol, memory: Memory, flags: u8) -> Farm {
    let port = 80 + memory as u16 + if flags == SYN { 10 } else { 0 };
    let last = 10 + mode as u8;
    let ip =
        if is_v4 { [192, 0, 2, last].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into() };
    Farm { vip: SocketAddr::new(ip, port), protocol, mode, memory, backends: BACKENDS }
}

/// As the config file has it.
fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::FullNat => "full-nat",
        Mode::Nat => "nat",
        Mode::Dsr => "dsr",
        Mode::Ipip => "ipip",
        Mode::Gue => "gue",
    }
}

fn ends(is_v4: bool, protocol: Protocol) -> String {
    let protocol = if protocol == Protocol::TCP { "TCP" } else { "UDP" };
    format!("IPv{} {protocol}", if is_v4 { 4 } else { 6 })
}

impl Path {
    /// Adds what it needs to the tables, and says what is sent.
    pub fn prepare(&self, rig: &mut Rig) -> Result<Traffic> {
        let traffic =
            |frame, action| Traffic { frame, varies: Varies::Sender, flows: 1, services: 0, action };
        match &self.kind {
            Kind::NotOurs(frame) => Ok(traffic(frame.clone(), XDP_PASS)),
            Kind::OtherPort(farm) => {
                rig.add(farm)?;
                let vip = SocketAddr::new(farm.vip.ip(), 22);
                Ok(traffic(Frame::tcp(CLIENT, &vip.to_string(), ACK), XDP_PASS))
            }
            Kind::Request { farm, flags } => {
                rig.add(farm)?;
                Ok(traffic(client_frame(farm, *flags), XDP_TX))
            }
            Kind::Drop(farm) => {
                rig.add(farm)?;
                Ok(traffic(client_frame(farm, SYN), XDP_DROP))
            }
            Kind::Reply { farm } => {
                let backend = rig.add(farm)?;
                let client = client_frame(farm, ACK);
                if farm.mode == Mode::Nat {
                    let from = backend_address(farm.vip.is_ipv4(), backend);
                    let frame = Frame { from, to: client.from, ..client };
                    return Ok(Traffic { varies: Varies::Receiver, ..traffic(frame, XDP_REDIRECT) });
                }
                // The backend answers what it is sent; and what comes back leaves as the request came.
                let (from, to) = sent_to(&rig.once(&client)?)?;
                let frame = Frame { from, to, ..client };
                Ok(Traffic { varies: Varies::Nothing, ..traffic(frame, XDP_TX) })
            }
        }
    }
}

/// A client's packet to a service.
pub fn client_frame(farm: &Farm, flags: u8) -> Frame {
    let client = if farm.vip.is_ipv4() { CLIENT } else { CLIENT6 };
    let vip = farm.vip.to_string();
    if farm.protocol == Protocol::TCP { Frame::tcp(client, &vip, flags) } else { Frame::udp(client, &vip) }
}

/// Who a frame goes to, and from whom.
fn sent_to(bytes: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
    let sliced = SlicedPacket::from_ethernet(bytes).context("the datapath sent half a frame")?;
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { anyhow::bail!("it sent no TCP") };
    let (to, from) = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => (ip.header().destination_addr().into(), ip.header().source_addr().into()),
        Some(NetSlice::Ipv6(ip)) => (ip.header().destination_addr().into(), ip.header().source_addr().into()),
        _ => anyhow::bail!("it sent no IP"),
    };
    Ok((SocketAddr::new(to, tcp.destination_port()), SocketAddr::new(from, tcp.source_port())))
}
