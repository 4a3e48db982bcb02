//! The datapath with tables of the benchmark's own, and the programs that run it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::TestRun as _;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRunOptions, Xdp};
use xdp_lb::datapath::{Datapath, Options, Policy};
use xdp_lb::model::{Limits, PortRange, Timeouts};
use xdp_lb::ring;
use xdp_lb::tables::Write;
use xdp_lb_common::bench::Plan;
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port, Protocol};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, Mode, RECORDS_FLOWS, Reply, Service, ServiceIndex, SlotIndex,
};
use xdp_lb_tests::statistics::{Spread, median, paired_ratio, spread};

use crate::packets::{BACKEND_MAC, Frame, LB_BACKEND_MAC, LB_MAC};
use crate::plain::Plain;
use crate::{clock, cpu};

/// Packets in a slice of the datapath, and of the floor: that takes less than a millisecond, too.
const SLICE: u32 = 50_000;
const FLOOR_SLICE: u32 = 200_000;
/// How long the frames' buffer is: more than any frame here.
const FRAME: usize = 128;
/// `lo`: what the kernel says that a test's packets come in by.
const INGRESS: u32 = 1;

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;
pub const XDP_REDIRECT: u32 = 4;

/// What the datapath remembers of a service's flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Nothing: every slot is settled.
    Settled,
    /// A record each: every slot moves.
    Moving,
    /// A record each: the service wants it (`flow_tracking = "always"`).
    Always,
}

/// A service to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Farm {
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub mode: Mode,
    pub memory: Memory,
    pub backends: u32,
}

/// What tells flows apart: the lower half of an address, and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Varies {
    /// Those of a client's packets.
    Sender,
    /// Those of replies.
    Receiver,
    /// Nothing: it is one flow.
    Nothing,
}

/// A packet, and as how many flows of how many services it comes.
#[derive(Clone, Debug)]
pub struct Traffic {
    pub frame: Frame,
    /// What of the frame tells the flows apart.
    pub varies: Varies,
    /// A power of two.
    pub flows: u32,
    /// 0: the one that the frame names.
    pub services: u32,
    /// What the program has to return.
    pub action: u32,
}

/// Nanoseconds a packet, one sample a slice.
#[derive(Default)]
pub struct Samples {
    /// The floor alone.
    floor: Vec<f64>,
    /// The floor behind the wrapper.
    wrapped_floor: Vec<f64>,
    /// The datapath behind the wrapper.
    wrapped_path: Vec<f64>,
    /// The floor behind the wrapper, as the kernel counts.
    kernel_floor: Vec<f64>,
    /// The datapath behind the wrapper, as the kernel counts.
    kernel_path: Vec<f64>,
}

/// Nanoseconds a packet.
struct Run {
    /// What the program returned last.
    action: u32,
    /// This thread's processor time, less what a run takes without its packets.
    net: f64,
    /// What the kernel says: whole nanoseconds, with what it does itself for each packet of a run.
    by_kernel: f64,
}

impl Samples {
    /// The wrapper and the datapath together, nanoseconds.
    pub fn gross(&self) -> Spread {
        spread(self.wrapped_path.iter().copied())
    }

    /// What the kernel says of the wrapper and the datapath together, nanoseconds.
    pub fn by_kernel(&self) -> Spread {
        spread(self.kernel_path.iter().copied())
    }

    /// That against what it says of the wrapper and the floor together.
    pub fn kernel_ratio(&self) -> Spread {
        paired_ratio(&self.kernel_path, &self.kernel_floor)
    }

    /// The wrapper and the datapath against the wrapper and the floor.
    pub fn gross_ratio(&self) -> Spread {
        paired_ratio(&self.wrapped_path, &self.wrapped_floor)
    }

    /// What the datapath costs without the wrapper, nanoseconds.
    pub fn net(&self) -> Spread {
        spread(self.net_samples())
    }

    /// That against the floor alone.
    pub fn net_ratio(&self) -> Spread {
        paired_ratio(&self.net_samples().collect::<Vec<_>>(), &self.floor)
    }

    fn net_samples(&self) -> impl Iterator<Item = f64> {
        let wrapper = self.wrapped_floor.iter().zip(&self.floor).map(|(wrapped, floor)| wrapped - floor);
        self.wrapped_path.iter().zip(wrapper).map(|(path, wrapper)| path - wrapper)
    }

    /// The floor alone, and behind the wrapper; nanoseconds.
    pub fn floors(&self) -> (f64, f64) {
        (median(self.floor.iter().copied()), median(self.wrapped_floor.iter().copied()))
    }
}

pub struct Rig {
    datapath: Datapath,
    plan: Array<MapData, Plain<Plan>>,
    program: ProgramArray<MapData>,
    /// What a run takes apart from its packets, nanoseconds.
    overhead: f64,
    services: u32,
    backends: u32,
    slots: u32,
}

impl Rig {
    /// The datapath with empty tables.
    pub fn new(limits: Limits) -> Result<Self> {
        let mut datapath = Datapath::load(&Options {
            pin_path: None,
            limits,
            policy: Policy {
                asymmetric_replies: false,
                flow_hash_secret: Some([7; 32]),
                snat_ports: PortRange { first: 1024, last: 65_535 },
                timeouts: Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(900) },
            },
        })?;
        let own_macs = [LB_MAC, LB_BACKEND_MAC].map(|mac| OwnMac::new(INGRESS, MacAddress::new(mac)));
        datapath.set_own_macs(&own_macs.into())?;
        for name in ["xdp_bench", "xdp_floor"] {
            let program: &mut Xdp = datapath.object().program_mut(name).context("no program")?.try_into()?;
            program.load()?;
        }
        let object = datapath.object();
        let plan = object.take_map("BENCH_PLAN").context("no plan")?.try_into()?;
        let program = object.take_map("BENCH_PROGRAM").context("no program array")?.try_into()?;
        let (services, backends, slots) = (0, 0, 0);
        let mut rig = Self { datapath, plan, program, overhead: 0.0, services, backends, slots };
        let runs: Vec<_> = (0..15).map(|_| Ok(rig.run("xdp_floor", 2)?.net * 2.0)).collect::<Result<_>>()?;
        rig.overhead = median(runs);
        Ok(rig)
    }

    /// Adds a service; each of its backends serves it alone. The number of the first of them.
    pub fn add(&mut self, farm: &Farm) -> Result<u32> {
        let Farm { vip, protocol, mode, memory, backends } = *farm;
        let vip = Endpoint::from_socket(vip, protocol);
        let service = ServiceIndex(self.services);
        let first = self.backends + 1;
        let mut writes = Vec::new();
        let mut members = Vec::new();
        for number in first..first + backends {
            let index = BackendIndex(number);
            let address = backend_address(vip.address.is_v4(), number);
            let source: IpAddr = if vip.address.is_v4() {
                Ipv4Addr::new(198, 51, 100, 2).into()
            } else {
                Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0xffff, 2).into()
            };
            let backend = Backend {
                address: Address::from(address.ip()),
                source: Address::from(source),
                ifindex: INGRESS,
                service,
                port: Port::new(address.port()),
                destination_mac: MacAddress::new(BACKEND_MAC),
                source_mac: MacAddress::new(LB_BACKEND_MAC),
                state: BackendState::Up.into(),
                mtu: 1500,
                ..Backend::default()
            };
            writes.push(Write::Backend(index, backend));
            if matches!(mode, Mode::Nat | Mode::FullNat) {
                let reply = Reply {
                    vip: vip.address,
                    port: vip.port,
                    by_record: u8::from(mode == Mode::FullNat),
                    stateless: u8::from(mode == Mode::Nat),
                    backend: index,
                    ..Reply::default()
                };
                writes.push(Write::Reply(backend.endpoint(protocol), reply));
            }
            members.push(ring::Member { index, address, weight: 100, portion: 100 });
        }
        let length = if backends == 0 { 0 } else { ring::length(&vec![100; backends as usize]) };
        let slot = |owner: BackendIndex| match memory {
            Memory::Moving => Slot::moving(owner, BackendIndex(first + (owner.0 - first + 1) % backends)),
            Memory::Settled | Memory::Always => Slot::settled(owner),
        };
        let offset = SlotIndex(self.slots);
        if length > 0 {
            writes.push(Write::Slots(offset, ring::build(&members, length).into_iter().map(slot).collect()));
        }
        let record = Service {
            index: service,
            ring_offset: offset,
            ring_len: length,
            mode: mode.into(),
            options: if memory == Memory::Always { RECORDS_FLOWS } else { 0 },
            ..Service::default()
        };
        writes.push(Write::Service(vip, record));
        self.datapath.apply(&writes)?;
        self.services += 1;
        self.backends += backends;
        self.slots += length;
        Ok(first)
    }

    /// What the datapath makes of one packet.
    pub fn once(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        let program: &Xdp = self.datapath.object().program("xdp_lb").context("no program")?.try_into()?;
        let mut answer = vec![0; 2 * FRAME];
        let bytes = frame.bytes();
        let options =
            TestRunOptions { data_in: Some(&bytes), data_out: Some(&mut answer), ..TestRunOptions::new() };
        let length = program.test_run(options).context("BPF_PROG_TEST_RUN")?.data_size_out;
        answer.truncate(length as usize);
        Ok(answer)
    }

    /// Has every flow send two packets: it is a flow's second one that has its record kept.
    pub fn begin(&mut self, traffic: &Traffic) -> Result<()> {
        let plan = plan(traffic);
        self.plan.set(0, Plain(Plan { in_a_row: 1, ..plan }), 0)?;
        self.aim("xdp_lb")?;
        let Run { action, .. } = self.run("xdp_bench", 2 * traffic.flows.max(SLICE))?;
        self.plan.set(0, Plain(plan), 0)?;
        ensure!(action == traffic.action, "the program returned {action}, not {}", traffic.action);
        Ok(())
    }

    /// Measures: so many slices of the floor alone, the floor behind the wrapper and the datapath behind it, in turn.
    pub fn measure(&mut self, traffic: &Traffic, slices: usize) -> Result<Samples> {
        self.begin(traffic)?;
        let mut samples = Samples::default();
        for _ in 0..slices {
            samples.floor.push(self.run("xdp_floor", FLOOR_SLICE)?.net);
            self.aim("xdp_floor")?;
            let floor = self.run("xdp_bench", FLOOR_SLICE)?;
            samples.wrapped_floor.push(floor.net);
            samples.kernel_floor.push(floor.by_kernel);
            self.aim("xdp_lb")?;
            let path = self.run("xdp_bench", SLICE)?;
            samples.wrapped_path.push(path.net);
            samples.kernel_path.push(path.by_kernel);
        }
        Ok(samples)
    }

    fn run(&mut self, program: &str, packets: u32) -> Result<Run> {
        let program: &Xdp = self.datapath.object().program(program).context("no program")?.try_into()?;
        let frame = [0; FRAME];
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        let begin = clock::processor_time()?;
        let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let took = clock::processor_time()? - begin;
        Ok(Run {
            action: result.return_value,
            net: (took.as_nanos() as f64 - self.overhead) / f64::from(packets),
            by_kernel: result.duration.as_nanos() as f64,
        })
    }

    /// Runs the wrapper on each of these processors at once; nanoseconds a packet, of each.
    pub fn run_on(&mut self, cpus: &[usize], packets: u32) -> Result<Vec<f64>> {
        let program: &Xdp = self.datapath.object().program("xdp_bench").context("no program")?.try_into()?;
        let (overhead, ready) = (self.overhead, Barrier::new(cpus.len()));
        let run = |cpu: usize| -> Result<f64> {
            cpu::keep_to(cpu..cpu + 1)?;
            let frame = [0; FRAME];
            let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
            ready.wait();
            let begin = clock::processor_time()?;
            program.test_run(options).context("BPF_PROG_TEST_RUN")?;
            let took = clock::processor_time()? - begin;
            Ok((took.as_nanos() as f64 - overhead) / f64::from(packets))
        };
        let run = &run;
        thread::scope(|scope| {
            let running: Vec<_> = cpus.iter().map(|cpu| scope.spawn(move || run(*cpu))).collect();
            running
                .into_iter()
                .map(|it| it.join().map_err(|_| anyhow!("a processor's thread panicked"))?)
                .collect()
        })
    }

    /// Has the wrapper call this program.
    pub fn aim(&mut self, program: &str) -> Result<()> {
        let program: &Xdp = self.datapath.object().program(program).context("no program")?.try_into()?;
        self.program.set(0, program.fd()?, 0).context("cannot set the program under test")
    }
}

/// Where a backend listens. The range for benchmarks (RFC 2544), behind clients and VIPs.
pub fn backend_address(is_v4: bool, number: u32) -> SocketAddr {
    let ip = if is_v4 {
        Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 19, 128, 0)) + number).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, number as u16).into()
    };
    SocketAddr::new(ip, 8080)
}

fn plan(traffic: &Traffic) -> Plan {
    let mut frame = traffic.frame.bytes();
    frame.resize(FRAME, 0);
    // The last 32 bits of source and destination, and the ports.
    let (source, destination, ports) = if traffic.frame.from.is_ipv4() { (26, 30, 34) } else { (34, 50, 54) };
    let varies = match traffic.varies {
        Varies::Sender => [source, ports],
        Varies::Receiver => [destination, ports + 2],
        // Payload, behind all headers.
        Varies::Nothing => [74, 78],
    };
    let plan = Plan::of(&frame).varied(&frame, traffic.flows, varies);
    plan.to_services(&frame, traffic.services, [destination, ports + 2])
}

/// A network namespace whose routes lead `nat`'s replies to clients.
pub fn network() -> Result<()> {
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
        "ip address add 2001:db8:1::1/64 dev client nodad",
        "ip -6 route add default via 2001:db8:1::fe",
        "ip neighbour add 2001:db8:1::fe lladdr 02:00:00:00:00:fe dev client nud permanent",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    ] {
        writeln!(script, "{line}")?;
    }
    let status = Command::new("sh").args(["-ec", &script]).status()?;
    ensure!(status.success(), "the namespace's routes could not be made");
    Ok(())
}
