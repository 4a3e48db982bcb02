//! What a packet costs in the datapath, against the least that an XDP program can do.
//!
//! `cargo xtask bench` runs it, as root and in a sandbox. Each path is run through a wrapper that makes
//! the next packet (`xdp-lb-ebpf/src/bench.rs`); what the wrapper itself costs is measured on the floor
//! program and taken off. Slices of the floor and of the path alternate, so that what else the machine
//! does meets both, and the median of the paired ratios is what counts.

#[path = "../tests/datapath/packets.rs"]
#[expect(dead_code, reason = "the fixtures use more of it")]
mod packets;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::TestRun as _;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRunOptions, Xdp};
use serde_json::json;
use xdp_lb::config::{Limits, PortRange, Timeouts};
use xdp_lb::control::tables::Write;
use xdp_lb::datapath::{Datapath, Options, Policy};
use xdp_lb_common::bench::{Plan, WORDS};
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port, Protocol};
use xdp_lb_common::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, Mode, Reply, Service, ServiceIndex, SlotIndex,
};

use packets::{ACK, BACKEND_MAC, Frame, LB_BACKEND_MAC, SYN};

/// Packets in a slice.
const SLICE: u32 = 50_000;
/// Slices of a path; as many of the floor.
const SLICES: usize = 21;
/// How many flows each path is measured with. Powers of two.
const FLOWS: [u32; 4] = [1, 1 << 10, 1 << 16, 1 << 20];
const RECORDS: u32 = 1 << 22;
const RING: u32 = 65_537;
/// `lo`: what the kernel says that a test's packets come in by.
const INGRESS: u32 = 1;

/// A BPF array's value whose bytes are all there is to it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain(Plan);
// SAFETY: any bytes are a Plan, and a Plan has no padding (zerocopy checks both).
unsafe impl aya::Pod for Plain {}

/// One way through the datapath.
struct Path {
    name: &'static str,
    frame: Frame,
    /// Which end of the frame tells the flows apart: the sender's, or the receiver's in a reply.
    varies_receiver: bool,
    /// Flows to measure with; others make no sense for it.
    flows: &'static [u32],
    /// What the program has to return.
    action: u32,
}

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

struct Bench {
    datapath: Datapath,
    plan: Array<MapData, Plain>,
    program: ProgramArray<MapData>,
}

fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "run as root: `cargo xtask bench`");
    pin_to_one_cpu()?;
    network()?;
    let mut bench = Bench::new()?;
    let floor = bench.floor_alone()?;
    println!("floor: {floor:.1} ns a packet (a program that swaps MACs and returns XDP_TX)\n");
    println!("{:<34} {:>9} {:>9} {:>9} {:>7}", "path", "flows", "ns", "x floor", "±");
    let mut rows = Vec::new();
    for path in paths() {
        for flows in path.flows {
            let row = bench.measure(&path, *flows)?;
            println!(
                "{:<34} {:>9} {:>9.1} {:>9.2} {:>6.1}%",
                path.name,
                flows,
                row.nanoseconds,
                row.ratio,
                row.noise * 100.0
            );
            rows.push(json!({
                "path": path.name,
                "flows": flows,
                "nanoseconds": row.nanoseconds,
                "ratio": row.ratio,
                "noise": row.noise,
            }));
        }
    }
    let report = json!({ "floor_nanoseconds": floor, "machine": machine(), "rows": rows });
    if let Some(file) = std::env::var_os("XDP_LB_BENCH_REPORT") {
        std::fs::write(&file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The machine that the figures belong to.
fn machine() -> serde_json::Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, model)| model),
        "kernel": kernel.trim(),
        "commit": xdp_lb::COMMIT,
    })
}

fn paths() -> Vec<Path> {
    // The range for benchmarks (RFC 2544): the lower half of the address tells the flows apart.
    const CLIENT: &str = "198.18.0.0:40000";
    const CLIENT6: &str = "[2001:db8:1::5]:40000";
    let request = |name, frame, flows, action| Path { name, frame, varies_receiver: false, flows, action };
    let reply = |name, frame, flows| Path { name, frame, varies_receiver: true, flows, action: XDP_REDIRECT };
    vec![
        request("not ours, IPv4 TCP", Frame::tcp(CLIENT, "192.0.2.1:22", ACK), &FLOWS, XDP_PASS),
        request("not ours, IPv6 TCP", Frame::tcp(CLIENT6, "[2001:db8::1]:22", ACK), &FLOWS[..1], XDP_PASS),
        request("drop: no backend", Frame::tcp(CLIENT, "192.0.2.10:99", SYN), &FLOWS[..1], XDP_DROP),
        request("nat, IPv4 TCP", Frame::tcp(CLIENT, "192.0.2.10:80", ACK), &FLOWS, XDP_TX),
        request("nat, IPv4 UDP", Frame::udp(CLIENT, "192.0.2.10:53"), &FLOWS, XDP_TX),
        request("nat, IPv6 TCP", Frame::tcp(CLIENT6, "[2001:db8::10]:80", ACK), &FLOWS, XDP_TX),
        request("nat, IPv4 TCP, SYN", Frame::tcp(CLIENT, "192.0.2.10:81", SYN), &FLOWS[3..], XDP_TX),
        reply("nat, IPv4 TCP, reply", Frame::tcp("198.51.100.11:8080", CLIENT, ACK), &FLOWS),
        request("full-nat, IPv4 TCP", Frame::tcp(CLIENT, "192.0.2.11:80", ACK), &FLOWS, XDP_TX),
        request("full-nat, IPv6 TCP", Frame::tcp(CLIENT6, "[2001:db8::11]:80", ACK), &FLOWS[..3], XDP_TX),
    ]
}

struct Row {
    /// Nanoseconds a packet, without the wrapper: the median over the slices.
    nanoseconds: f64,
    /// Against the floor: the median of the paired ratios.
    ratio: f64,
    /// Half the middle half of the ratios, as a part of their median.
    noise: f64,
}

impl Bench {
    fn new() -> Result<Self> {
        let mut datapath = Datapath::load(&Options {
            pin_path: None,
            limits: Limits {
                services: 64,
                backends: 512,
                slots: 16 * RING,
                flows: RECORDS,
                half_open_flows: RECORDS,
            },
            policy: Policy {
                flow_hash_secret: Some([7; 32]),
                snat_ports: PortRange { first: 1024, last: 65_535 },
                timeouts: Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(900) },
            },
        })?;
        for name in ["xdp_bench", "xdp_floor"] {
            let program: &mut Xdp = datapath.object().program_mut(name).context("no program")?.try_into()?;
            program.load()?;
        }
        let object = datapath.object();
        let plan = object.take_map("BENCH_PLAN").context("no plan")?.try_into()?;
        let program = object.take_map("BENCH_PROGRAM").context("no program array")?.try_into()?;
        let mut bench = Self { datapath, plan, program };
        bench.fill()?;
        Ok(bench)
    }

    /// Services of each mode and family, each over 64 backends.
    fn fill(&mut self) -> Result<()> {
        let rows = [
            ("192.0.2.10:80", Protocol::TCP, Mode::Nat, true),
            ("192.0.2.10:53", Protocol::UDP, Mode::Nat, true),
            ("[2001:db8::10]:80", Protocol::TCP, Mode::Nat, true),
            ("192.0.2.10:81", Protocol::TCP, Mode::Nat, true),
            ("192.0.2.11:80", Protocol::TCP, Mode::FullNat, true),
            ("[2001:db8::11]:80", Protocol::TCP, Mode::FullNat, true),
            ("192.0.2.10:99", Protocol::TCP, Mode::Nat, false),
        ];
        let mut next = 1;
        for (place, (vip, protocol, mode, has_backends)) in (0..).zip(rows) {
            let vip = Endpoint::from_socket(vip.parse()?, protocol);
            let mut writes = Vec::new();
            let first = next;
            while has_backends && next < first + 64 {
                let address: IpAddr = if vip.address.is_v4() {
                    [198, 51, 100, (next - first + 11) as u8].into()
                } else {
                    format!("2001:db8:2::{:x}", next - first + 0x11).parse()?
                };
                let source: IpAddr =
                    if vip.address.is_v4() { [198, 51, 100, 2].into() } else { "2001:db8:2::2".parse()? };
                let backend = Backend {
                    address: Address::from(address),
                    source: Address::from(source),
                    ifindex: INGRESS,
                    service: ServiceIndex(place),
                    port: Port::new(8080 + place as u16),
                    destination_mac: MacAddress::new(BACKEND_MAC),
                    source_mac: MacAddress::new(LB_BACKEND_MAC),
                    state: BackendState::Up as u8,
                    ..Default::default()
                };
                writes.push(Write::Backend(BackendIndex(next), backend));
                let reply = Reply {
                    vip: vip.address,
                    port: vip.port,
                    by_record: u8::from(mode == Mode::FullNat),
                    stateless: u8::from(mode == Mode::Nat),
                    backend: BackendIndex(next),
                };
                writes.push(Write::Reply(backend.endpoint(protocol), reply));
                next += 1;
            }
            let ring = (0..RING).map(|slot| Slot::settled(BackendIndex(first + slot % 64))).collect();
            let offset = SlotIndex(place * RING);
            writes.push(Write::Slots(offset, ring));
            let service = Service {
                index: ServiceIndex(place),
                ring_offset: offset,
                ring_len: if has_backends { RING } else { 0 },
                snat_offset: 0,
                snat_len: 0,
                mode: mode as u8,
                ..Service::default()
            };
            writes.push(Write::Service(vip, service));
            self.datapath.apply(&writes)?;
        }
        Ok(())
    }

    fn run(&mut self, program: &str, packets: u32) -> Result<(u32, f64)> {
        let program: &Xdp = self.datapath.object().program(program).context("no program")?.try_into()?;
        let mut frame = vec![0; 128];
        // For the floor alone.
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = packets;
        let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok((result.return_value, result.duration.as_nanos() as f64))
    }

    fn aim(&mut self, program: &str) -> Result<()> {
        let program: &Xdp = self.datapath.object().program(program).context("no program")?.try_into()?;
        self.program.set(0, program.fd()?, 0).context("cannot set the program under test")
    }

    fn floor_alone(&mut self) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..SLICES {
            times.push(self.run("xdp_floor", SLICE)?.1);
        }
        Ok(median(&mut times))
    }

    fn measure(&mut self, path: &Path, flows: u32) -> Result<Row> {
        let mut bytes = path.frame.bytes();
        bytes.resize(128, 0);
        let words = std::array::from_fn(|word| {
            u32::from_ne_bytes(bytes[word * 4..][..4].try_into().expect("four bytes"))
        });
        let _: [u32; WORDS] = words;
        let is_v4 = path.frame.from.is_ipv4();
        let (address_at, port_at) = match (is_v4, path.varies_receiver) {
            (true, false) => (28, 34),
            (true, true) => (32, 36),
            (false, false) => (36, 54),
            (false, true) => (52, 56),
        };
        self.plan.set(0, Plain(Plan { words, flow_mask: flows - 1, address_at, port_at }), 0)?;
        // Every flow once or twice, so that established ones are.
        self.aim("xdp_lb")?;
        let (action, _) = self.run("xdp_bench", (2 * flows).max(SLICE))?;
        ensure!(action == path.action, "{}: the program returned {action}, not {}", path.name, path.action);
        let (mut times, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..SLICES {
            let floor = self.run("xdp_floor", SLICE)?.1;
            self.aim("xdp_floor")?;
            let wrapper = self.run("xdp_bench", SLICE)?.1 - floor;
            self.aim("xdp_lb")?;
            let time = self.run("xdp_bench", SLICE)?.1 - wrapper;
            times.push(time);
            ratios.push(time / floor);
        }
        let ratio = median(&mut ratios);
        let noise = (ratios[SLICES * 3 / 4] - ratios[SLICES / 4]) / 2.0 / ratio;
        Ok(Row { nanoseconds: median(&mut times), ratio, noise })
    }
}

/// The middle one; sorts them.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn pin_to_one_cpu() -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1) as usize - 1)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).context("cannot pin to one CPU")
}

/// A network namespace whose routes lead `nat`'s replies to clients.
fn network() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    let mut script = String::new();
    for line in [
        "ip link set lo up",
        "ip link add client type veth peer name other",
        "ip link set client up",
        "ip link set other up",
        "ip address add 192.0.2.1/24 dev client",
        "ip route add default via 192.0.2.254",
        "ip neighbour add 192.0.2.254 lladdr 02:00:00:00:00:fe dev client nud permanent",
        "sysctl -qw net.ipv4.ip_forward=1",
    ] {
        writeln!(script, "{line}")?;
    }
    let status = Command::new("sh").args(["-ec", &script]).status()?;
    ensure!(status.success(), "the namespace's routes could not be made");
    Ok(())
}
