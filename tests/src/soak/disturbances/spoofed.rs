//! Packets in others' names, and in nobody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Chance;
use crate::host::Host;
use crate::network::Network;
use crate::packet_socket::PacketSocket;
use crate::soak::bed::Bed;
use crate::soak::kind::{Kind, Protocol};
use crate::soak::packets::{self, Flag};
use crate::soak::tally::Ends;
use crate::way::Family;

/// How many packets come from each client's network, and how many at a time: not as many as make a queue overflow.
const PACKETS: usize = 1_000;
const BURST: usize = 25;
const BETWEEN: Duration = Duration::from_millis(10);

/// Stray ACKs, RSTs and FINs of open flows with wrong sequence numbers, ICMP errors about them and about flows that there
/// are not, martians, and fragments, from both clients' networks.
pub fn packets(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    for is_direct in [false, true] {
        let host = bed.client(is_direct);
        let socket = host.enter(|| PacketSocket::open("eth0"))??;
        let interface = if is_direct { "eth2" } else { "eth0" };
        let (from, to) = (mac(host, "eth0")?, mac(&bed.network.lb, interface)?);
        let kinds: Vec<_> = Kind::all().filter(|kind| kind.mode.is_direct() == is_direct).collect();
        let flows: Vec<_> = bed
            .shared
            .tally
            .flows()
            .into_iter()
            .filter(|ends| ends.kind.mode.is_direct() == is_direct)
            .collect();
        for number in 1..=PACKETS {
            socket.send(&packets::frame(from, to, &packet(chance, &kinds, &flows)));
            if number % BURST == 0 {
                sleep(BETWEEN);
            }
        }
    }
    Ok(())
}

/// Any of them.
fn packet(chance: &mut Chance, kinds: &[Kind], flows: &[Ends]) -> Vec<u8> {
    let stranger_of = chance.one(kinds);
    let stranger = Ends { kind: stranger_of, client: stranger(chance, stranger_of.family), backend: 0 };
    let open = if flows.is_empty() { stranger } else { chance.one(flows) };
    let sequence = chance.rng.u32(..);
    let vip = |ends: Ends| ends.kind.vip();
    match chance.rng.u8(0..6) {
        0 => packets::tcp(stranger.client, vip(stranger), Flag::Ack, sequence),
        // Of an open UDP flow, such a packet is a stranger's.
        1 => packets::tcp(open.client, vip(open), Flag::Rst, sequence),
        2 => packets::tcp(open.client, vip(open), Flag::Fin, sequence),
        3 => {
            let ends = if chance.rng.bool() { open } else { stranger };
            let reply = match ends.kind.protocol {
                Protocol::Tcp => packets::tcp(vip(ends), ends.client, Flag::Ack, sequence),
                Protocol::Udp => packets::udp(vip(ends), ends.client, &[0; 1_200]),
            };
            let teller =
                if chance.rng.bool() { ends.client } else { self::stranger(chance, ends.kind.family) };
            packets::error(teller.ip(), vip(ends).ip(), &reply, chance.rng.bool())
        }
        4 => {
            let martians = packets::martians(Family::ALL.map(Network::vip));
            let family = stranger.kind.family;
            let martians: Vec<_> =
                martians.into_iter().filter(|it| it.is_ipv4() == (family == Family::V4)).collect();
            let from = SocketAddr::new(chance.one(&martians), stranger.client.port());
            match stranger.kind.protocol {
                Protocol::Tcp => packets::tcp(from, vip(stranger), Flag::Ack, sequence),
                Protocol::Udp => packets::udp(from, vip(stranger), b"from nowhere"),
            }
        }
        _ => {
            let whole = packets::udp(stranger.client, vip(stranger), &[0; 100]);
            packets::fragment(&whole, chance.rng.bool(), sequence)
        }
    }
}

/// An address on the first client's network that no host has.
fn stranger(chance: &mut Chance, family: Family) -> SocketAddr {
    let host = chance.rng.u8(150..250);
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 1, host.into()).into(),
    };
    SocketAddr::new(address, chance.rng.u16(1_024..))
}

/// The address of an interface.
fn mac(host: &Host, interface: &str) -> Result<[u8; 6]> {
    let shown: Value = serde_json::from_str(&host.run(&format!("ip -j link show dev {interface}"))?)?;
    let text = shown[0]["address"].as_str().context("the interface has no address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is not a MAC address"))
}
