//! UDP packets by the kernel's own generator, and a sink that counts them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{Xdp, XdpMode};
use etherparse::PacketBuilder;
use xdp_lb::datapath::Datapath;
use xdp_lb_common::bench::Plan;
use xdp_lb_tests::statistics::median;

use crate::bed::{Bed, VIP};
use crate::device::{index, mac};
use crate::live_frames::{BATCH, LiveFrames, load};
use crate::plain::Plain;

/// How long a frame is, bytes.
const FRAME: usize = 80;
/// Where clients are: the range for benchmarks (RFC 2544). The lower half of the address tells the flows apart.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// What a run came to.
pub struct Flood {
    /// Packets that arrived a second.
    pub rate: f64,
    /// Packets that did not arrive, as a part of those sent.
    pub lost: f64,
}

/// The generator and the sink: one for all beds.
pub struct Generator {
    frames: LiveFrames,
    sunk: PerCpuArray<MapData, u64>,
    _links: Vec<XdpLinkId>,
    /// What a run takes apart from its packets.
    overhead: Duration,
}

impl Generator {
    pub fn new() -> Result<Self> {
        let mut frames = LiveFrames::new()?;
        let object = frames.datapath().object();
        let sink: &mut Xdp = object.program_mut("xdp_sink").context("no program")?.try_into()?;
        sink.load()?;
        let sunk = object.take_map("BENCH_SUNK").context("no counter")?.try_into()?;
        Ok(Self { frames, sunk, _links: Vec::new(), overhead: Duration::ZERO })
    }

    /// Puts the sink where a bed's servers are.
    pub fn sink(&mut self, bed: &Bed) -> Result<()> {
        let object = self.frames.datapath().object();
        let program: &mut Xdp = object.program_mut("xdp_sink").context("no program")?.try_into()?;
        let link = bed.servers.enter(|| program.attach("eth0", XdpMode::Driver))?.context("no sink")?;
        self._links.push(link);
        Ok(())
    }

    /// Measures what a run takes apart from its packets.
    pub fn calibrate(&mut self, bed: &Bed) -> Result<()> {
        let runs: Vec<_> =
            (0..9).map(|_| Ok(self.send(bed, 1, BATCH)?.0.as_secs_f64())).collect::<Result<_>>()?;
        self.overhead = Duration::from_secs_f64(median(runs));
        Ok(())
    }

    /// Sends so many packets, of so many flows (a power of two), from a bed's client to the VIP.
    pub fn flood(&mut self, bed: &Bed, flows: u32, packets: u32) -> Result<Flood> {
        let (took, arrived) = self.send(bed, flows, packets)?;
        let took = took.saturating_sub(self.overhead).as_secs_f64();
        Ok(Flood { rate: arrived as f64 / took, lost: 1.0 - arrived as f64 / f64::from(packets) })
    }

    fn send(&mut self, bed: &Bed, flows: u32, packets: u32) -> Result<(Duration, u64)> {
        let frame = frame(bed, VIP)?;
        let ifindex = index(&bed.client, "eth0")?;
        let plan = Plan { ifindex, ..Plan::of(&frame).varied(&frame, flows, [26, 34]) };
        let before = sum(&self.sunk)?;
        let took = self.frames.send(&bed.client, &frame, plan, packets)?;
        Ok((took, sum(&self.sunk)? - before))
    }
}

/// A program of the object, attached to a host's device.
pub struct Bare {
    _datapath: Datapath,
}

impl Bare {
    /// On a bed's balancer: everything goes to the servers.
    pub fn attach(bed: &Bed) -> Result<Self> {
        let mut datapath = load()?;
        let mut plan: Array<_, Plain<Plan>> =
            datapath.object().take_map("BENCH_PLAN").context("no plan")?.try_into()?;
        let macs = [mac(&bed.servers, "eth0")?, mac(&bed.lb, "eth1")?].map(|mac| mac.octets()).concat();
        let ifindex = index(&bed.lb, "eth1")?;
        plan.set(0, Plain(Plan { ifindex, ..Plan::of(&macs) }), 0)?;
        let program: &mut Xdp =
            datapath.object().program_mut("xdp_bare").context("no program")?.try_into()?;
        program.load()?;
        bed.lb.enter(|| program.attach("eth0", XdpMode::Driver))??;
        Ok(Self { _datapath: datapath })
    }
}

/// A client's datagram. Its UDP checksum is 0, which stands for none: the generator changes the port.
fn frame(bed: &Bed, vip: SocketAddrV4) -> Result<Vec<u8>> {
    let (from, to) = (mac(&bed.client, "eth0")?.octets(), mac(&bed.lb, "eth0")?.octets());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from, to)
        .ipv4(CLIENTS.octets(), vip.ip().octets(), 64)
        .udp(40_000, vip.port())
        .write(&mut frame, &[0; FRAME - 42])
        .context("cannot write a frame")?;
    frame[40..42].fill(0);
    Ok(frame)
}

fn sum(counter: &PerCpuArray<MapData, u64>) -> Result<u64> {
    Ok(counter.get(&0, 0)?.iter().sum())
}
