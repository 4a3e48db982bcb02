//! UDP packets by the kernel's own generator, and a sink that counts them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::TestRun as _;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use etherparse::PacketBuilder;
use xdp_lb::datapath::{Datapath, Options, Policy};
use xdp_lb::model::{Limits, PortRange, Timeouts};
use xdp_lb_common::bench::{Plan, WORDS, WORDS_AT};
use xdp_lb_tests::statistics::median;

use crate::bed::{Bed, VIP, index, mac};
use crate::plain::Plain;

/// Frames that the kernel hands to the program at a time (its own default).
const BATCH: u32 = 64;
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
    datapath: Datapath,
    plan: Array<MapData, Plain<Plan>>,
    sunk: PerCpuArray<MapData, u64>,
    _links: Vec<XdpLinkId>,
    /// What a run takes apart from its packets.
    overhead: Duration,
}

impl Generator {
    pub fn new() -> Result<Self> {
        let mut datapath = load()?;
        for name in ["xdp_generate", "xdp_sink"] {
            let program: &mut Xdp = datapath.object().program_mut(name).context("no program")?.try_into()?;
            program.load()?;
        }
        let plan = datapath.object().take_map("BENCH_PLAN").context("no plan")?.try_into()?;
        let sunk = datapath.object().take_map("BENCH_SUNK").context("no counter")?.try_into()?;
        Ok(Self { datapath, plan, sunk, _links: Vec::new(), overhead: Duration::ZERO })
    }

    /// Puts the sink where a bed's servers are.
    pub fn sink(&mut self, bed: &Bed) -> Result<()> {
        let object = self.datapath.object();
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
        let plan = Plan {
            length: frame.len() as u32,
            flow_mask: flows - 1,
            address_at: 26,
            address: CLIENTS.to_bits(),
            port_at: 34,
            ifindex,
            ..put_in_place(&frame)
        };
        self.plan.set(0, Plain(plan), 0)?;
        let object = self.datapath.object();
        let program: &Xdp = object.program("xdp_generate").context("no program")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let before = sum(&self.sunk)?;
        let took = bed.client.enter(|| {
            let begin = Instant::now();
            program.test_run(options).map(|_| begin.elapsed())
        })?;
        let took = took.context("this kernel has no live frames (5.18 has)")?;
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
        plan.set(0, Plain(Plan { ifindex, ..put_in_place(&macs) }), 0)?;
        let program: &mut Xdp =
            datapath.object().program_mut("xdp_bare").context("no program")?.try_into()?;
        program.load()?;
        bed.lb.enter(|| program.attach("eth0", XdpMode::Driver))??;
        Ok(Self { _datapath: datapath })
    }
}

fn load() -> Result<Datapath> {
    Datapath::load(&Options {
        pin_path: None,
        limits: Limits { services: 1, backends: 1, slots: 1_024, flows: 1_024, ..Limits::default() },
        policy: Policy {
            asymmetric_replies: false,
            flow_hash_secret: None,
            snat_ports: PortRange { first: 1024, last: 65_535 },
            timeouts: Timeouts::default(),
        },
    })
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

/// Of a frame's first bytes, the part of a plan that puts them in place.
fn put_in_place(bytes: &[u8]) -> Plan {
    let mut frame = [0; WORDS_AT + 4 * WORDS];
    let length = frame.len().min(bytes.len());
    frame[..length].copy_from_slice(&bytes[..length]);
    Plan {
        first: u16::from_ne_bytes([frame[0], frame[1]]),
        words: std::array::from_fn(|word| {
            u32::from_ne_bytes(frame[WORDS_AT + word * 4..][..4].try_into().expect("four bytes"))
        }),
        ..Plan::default()
    }
}

fn sum(counter: &PerCpuArray<MapData, u64>) -> Result<u64> {
    Ok(counter.get(&0, 0)?.iter().sum())
}
