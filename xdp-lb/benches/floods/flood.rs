//! Packets of senders that somebody has made up.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherparse::{PacketBuilder, TcpHeader};
use xdp_lb_common::bench::Plan;
use xdp_lb_tests::Network;

use crate::device::{index, mac};
use crate::live_frames::LiveFrames;

/// Where they are said to come from: the range for benchmarks (RFC 2544). The lower half of the address tells flows apart.
const SENDERS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// How many flows there are, of which none comes again soon.
const FLOWS: u32 = 1 << 30;

/// How many packets are sent at a time, and at least.
const SLICE: u32 = 1 << 16;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flood {
    /// A SYN of each flow.
    Syn,
    /// An ACK of each flow.
    Ack,
    /// Two ACKs of each flow, one behind the other.
    TwoAcks,
    /// A SYN of each flow, and some thousand packets later an ACK.
    SynAndAck,
    /// A datagram of each flow.
    Udp,
    /// Two datagrams of each flow.
    TwoDatagrams,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Syn, Self::Ack, Self::TwoAcks, Self::SynAndAck, Self::Udp, Self::TwoDatagrams];

    /// As a table names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN",
            Self::Ack => "ACK",
            Self::TwoAcks => "two ACKs",
            Self::SynAndAck => "SYN, then ACK",
            Self::Udp => "UDP",
            Self::TwoDatagrams => "two datagrams",
        }
    }

    /// Whether it is UDP.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::TwoDatagrams)
    }
}

/// Who sends them, from the client's device.
pub struct Sender {
    frames: LiveFrames,
    /// How many flows have come so far.
    flows: u64,
}

impl Sender {
    pub fn new() -> Result<Self> {
        Ok(Self { frames: LiveFrames::new()?, flows: 0 })
    }

    /// Sends as many as it can for so long, and a slice at least; returns how many packets a second that were.
    pub fn send(&mut self, network: &Network, flood: Flood, vip: SocketAddr, time: Duration) -> Result<f64> {
        let [first, then] = match flood {
            Flood::Syn => [Some("syn"), None],
            Flood::Ack | Flood::TwoAcks => [Some("ack"), None],
            Flood::SynAndAck => [Some("syn"), Some("ack")],
            Flood::Udp | Flood::TwoDatagrams => [None, None],
        };
        let in_a_row = u32::from(matches!(flood, Flood::TwoAcks | Flood::TwoDatagrams));
        let plan = |flags| -> Result<_> {
            let (frame, plan) = plan(network, flags, vip)?;
            Ok((frame, Plan { in_a_row, ..plan }))
        };
        let mut plans = vec![plan(first)?];
        plans.extend(then.map(|flags| plan(Some(flags))).transpose()?);
        let mut packets = 0;
        let begin = Instant::now();
        while begin.elapsed() < time || packets == 0 {
            for (frame, plan) in &plans {
                self.frames.begin_at(self.flows)?;
                self.frames.send(&network.client, frame, *plan, SLICE)?;
                packets += SLICE;
            }
            self.flows += u64::from(SLICE);
        }
        Ok(f64::from(packets) / begin.elapsed().as_secs_f64())
    }
}

/// A frame with these flags of TCP, or UDP, and the plan that makes one flow after the other of it. Whatever its sender, its
/// checksum is right: backends answer it.
fn plan(network: &Network, flags: Option<&str>, vip: SocketAddr) -> Result<(Vec<u8>, Plan)> {
    let SocketAddr::V4(vip) = vip else { bail!("IPv4 alone") };
    let ethernet =
        PacketBuilder::ethernet2(mac(&network.client, "eth0")?.octets(), mac(&network.lb, "eth0")?.octets());
    let ip = ethernet.ipv4(SENDERS.octets(), vip.ip().octets(), 64);
    let mut frame = Vec::new();
    match flags {
        Some(flags) => {
            let mut tcp = TcpHeader::new(40_000, vip.port(), 0x0102_0304, 64_240);
            (tcp.syn, tcp.ack) = (flags == "syn", flags == "ack");
            tcp.acknowledgment_number = if tcp.ack { 0x0506_0708 } else { 0 };
            // As long as what the generator puts in place.
            ip.tcp_header(tcp).write(&mut frame, &[0; 26]).context("cannot write a frame")?;
        }
        None => {
            ip.udp(40_000, vip.port()).write(&mut frame, &[0; 38]).context("cannot write a frame")?;
            // None, which 0 stands for.
            frame[40..42].fill(0);
        }
    }
    let ifindex = index(&network.client, "eth0")?;
    let plan = Plan { ifindex, ..Plan::of(&frame).varied(&frame, FLOWS, [26, 34]) };
    let plan = if flags.is_some() { plan.summed(&frame, 50) } else { plan };
    Ok((frame, plan))
}
