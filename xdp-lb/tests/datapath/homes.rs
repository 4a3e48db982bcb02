//! The homes of the datapath, side by side: the host and the kernel, there by XDP and at TC ingress. What is put into the tables and
//! sent through is the same for all, and so must be what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aya::TestRun as _;
use aya::programs::{SchedClassifier, TestRunOptions, Xdp};
use xdp_lb::datapath::{
    Census, Count, Options, Policy, TablesView, hash_keys, port_ranges,
};
use xdp_lb::model::{Attach, Limits, PortRange, Timeouts, Vip};
use xdp_lb::tables::{SourceRange, Tables, Write};
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::flow_table::walk;
use xdp_lb_common::host::{Buffer, HostTables};
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port, Protocol};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::process::{Scratch, Verdict, process, process_slow_path, send_check};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::flow::{CONFIRMED, patience};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    ASYMMETRIC_REPLIES, Backend, BackendIndex, BackendState, Check, FlowKey, Mode, RESETS_UNKNOWN, Reply,
    Route, RouterAddresses, RouterInterface, Service, ServiceIndex, Settings, SlotIndex, SourceKey, Tags,
    Traffic, VlanDevice,
};

use crate::lent::Lent;
use crate::packets::{BACKEND_MAC, Frame, LB_BACKEND_MAC, LB_MAC, ends};

/// The interface that packets come in by: `lo`, which every network namespace has.
pub const INGRESS: u32 = 1;
/// Another one, which backends are behind.
pub const EGRESS: u32 = 77;
/// A ring's length here: each service has its own stretch of so many slots.
const RING: u32 = 64;

const SECRET: [u8; 32] = [7; 32];
const PORTS: PortRange = PortRange { first: 2000, last: 2999 };
const TIMEOUTS: Timeouts = Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(60) };

/// What a packet became.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
    /// The reasons that were counted.
    pub counted: Vec<(Reason, u64)>,
}

/// These two, with every port in place of theirs: the VIP's service, and a backend that keeps the port.
pub fn on_all_ports(vip: &str, backend: &str) -> (String, String) {
    let host = |end: &str| end.rsplit_once(':').expect("a port").0.to_owned();
    (host(vip) + ":*", host(backend) + ":0")
}

/// The key of the service at this VIP, which may have a range of ports.
pub fn service_key(vip: &str, protocol: Protocol) -> Endpoint {
    let vip: Vip = vip.parse().unwrap();
    let first = Endpoint::from_socket(vip.first(), protocol);
    if vip.is_range() { first.range() } else { first }
}

fn write_ranges(host: &mut HostTables, vip: &Endpoint) {
    let key = Endpoint::new(vip.address, Port::new(0), vip.protocol);
    let ranges = port_ranges(&key, host.services.iter().map(|(vip, service)| (*vip, service.last_port)));
    host.port_ranges.insert(key, ranges);
}

/// Both homes.
pub struct Homes {
    pub host: HostTables,
    pub kernel: Lent,
    /// What stands in the tables of both.
    tables: Tables,
    services: u32,
    backends: u32,
    /// What frames to this host are addressed to, on each interface.
    own_macs: BTreeSet<OwnMac>,
}

/// What frames to this host are addressed to on this interface.
fn own_macs(ifindex: u32) -> [OwnMac; 2] {
    [LB_MAC, LB_BACKEND_MAC].map(|mac| OwnMac::new(ifindex, MacAddress::new(mac)))
}

/// How large the tables are where a test does not say.
pub const LIMITS: Limits = Limits {
    services: 16,
    backends: 64,
    slots: 16 * RING,
    flows: 4096,
    source_ranges: 64,
    source_rates: 1024,
    fragments: 16_384,
};

/// What to load, with tables of these sizes; nothing is pinned.
pub fn options(limits: Limits) -> Options {
    // Most fixtures have all packets come in by `lo`, and no backend is there.
    let policy = Policy {
        flow_hash_secret: Some(SECRET),
        snat_ports: PORTS,
        timeouts: TIMEOUTS,
        asymmetric_replies: true,
    };
    Options { pin_path: None, limits, policy }
}

impl Homes {
    /// Empty tables in both, in a network namespace of this thread's own.
    pub fn new() -> Self {
        Self::with_limits(LIMITS)
    }

    /// The same with room for so many flow records.
    pub fn with_flows(flows: u32) -> Self {
        Self::with_limits(Limits { flows, ..LIMITS })
    }

    /// The same with tables of these sizes.
    pub fn with_limits(limits: Limits) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "run as root: these tests load a program into the kernel");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network namespace of the test's own");
        run("ip link set lo up");
        let mut kernel = Lent::new(&options(limits));
        let flow_buckets = kernel.settings().flow_buckets;
        let settings = Settings {
            hash_keys: hash_keys(&SECRET),
            snat_port_first: PORTS.first,
            snat_port_count: PORTS.last - PORTS.first + 1,
            options: ASYMMETRIC_REPLIES,
            patience: patience(TIMEOUTS.tcp_idle.as_secs() as u32, TIMEOUTS.udp_idle.as_secs() as u32),
            handover: 0,
            heartbeat: 0,
            flow_buckets,
            flow_reach: 0,
            alone: 0,
            own_macs: Default::default(),
        };
        let mut host = HostTables::with_buckets(settings, flow_buckets);
        host.slots = vec![Slot::default(); limits.slots as usize];
        host.backends = vec![Backend::default(); limits.backends as usize + 1];
        let own_macs = BTreeSet::from(own_macs(INGRESS));
        kernel.set_own_macs(&own_macs).unwrap();
        own_macs.iter().for_each(|mac| host.own(*mac));
        Self { host, kernel, tables: Tables::default(), services: 0, backends: 0, own_macs }
    }

    /// Writes to both.
    pub fn apply(&mut self, writes: &[Write]) {
        self.kernel.apply(writes).unwrap_or_else(|error| panic!("{error:#}"));
        let host = &mut self.host;
        for write in writes {
            self.tables.apply(write);
            match write {
                Write::Backend(index, backend) => host.backends[index.0 as usize] = *backend,
                Write::SnatAddress(place, address) => {
                    host.snat_addresses
                        .resize(host.snat_addresses.len().max(*place as usize + 1), Address::default());
                    host.snat_addresses[*place as usize] = *address;
                }
                Write::Slots(first, slots) => {
                    host.slots[first.0 as usize..][..slots.len()].copy_from_slice(slots);
                }
                Write::Reply(endpoint, reply) => drop(host.replies.insert(*endpoint, *reply)),
                Write::RemoveReply(endpoint) => drop(host.replies.remove(endpoint)),
                Write::QuicServer(key, backend) => {
                    host.quic_servers.insert(*key, *backend);
                }
                Write::RemoveQuicServer(key) => {
                    host.quic_servers.remove(key);
                }
                Write::Source(range, verdict) => {
                    host.sources.insert(source(range), *verdict);
                }
                Write::RemoveSource(range) => {
                    host.sources.remove(&source(range));
                }
                Write::Service(vip, service) => {
                    host.services.insert(*vip, *service);
                    write_ranges(host, vip);
                }
                Write::RemoveService(vip) => {
                    host.services.remove(vip);
                    write_ranges(host, vip);
                }
            }
        }
    }

    /// A backend, not yet in any ring.
    pub fn backend(&mut self, service: ServiceIndex, address: &str, source: &str) -> (BackendIndex, Backend) {
        self.backends += 1;
        let address: SocketAddr = address.parse().unwrap();
        let backend = Backend {
            address: address.ip().into(),
            source: source.parse::<IpAddr>().unwrap().into(),
            ifindex: EGRESS,
            service,
            port: Port::new(address.port()),
            vlan: 0,
            destination_mac: MacAddress::new(BACKEND_MAC),
            source_mac: MacAddress::new(LB_BACKEND_MAC),
            state: BackendState::Up.into(),
            mtu: 1500,
            ..Backend::default()
        };
        self.apply(&[Write::Backend(BackendIndex(self.backends), backend)]);
        (BackendIndex(self.backends), backend)
    }

    /// What all backends have counted in the kernel.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for index in self.kernel.read().unwrap().backends.keys() {
            sum += self.kernel.backend_traffic(*index).unwrap();
        }
        sum
    }

    /// A service over these backends, its slots dealt out in turn, with the rules for their replies.
    pub fn service(&mut self, vip: &str, protocol: Protocol, mode: Mode, backends: &[&str]) -> ServiceIndex {
        let index = ServiceIndex(self.services);
        self.services += 1;
        let last_port = Port::new(vip.parse::<Vip>().unwrap().last_port());
        let vip = service_key(vip, protocol);
        let source = |address: &str| if address.starts_with('[') { "2001:db8:2::2" } else { "198.51.100.2" };
        let owners: Vec<_> =
            backends.iter().map(|address| self.backend(index, address, source(address))).collect();
        // The other modes' backends answer clients themselves.
        let comes_back = matches!(mode, Mode::FullNat | Mode::Nat);
        for (backend_index, backend) in owners.iter().filter(|_| comes_back) {
            let reply = Reply {
                vip: vip.address,
                port: vip.port,
                by_record: u8::from(mode == Mode::FullNat),
                stateless: u8::from(mode == Mode::Nat),
                backend: *backend_index,
                last_port,
                keeps_port: u8::from(vip.is_range()),
                ..Reply::default()
            };
            self.apply(&[Write::Reply(backend.endpoint(protocol), reply)]);
        }
        let ring: Vec<_> =
            owners.iter().cycle().take(RING as usize).map(|(index, _)| Slot::settled(*index)).collect();
        let record = Service {
            index,
            ring_offset: SlotIndex(index.0 * RING),
            ring_len: ring.len() as u32,
            snat_offset: 0,
            snat_len: 0,
            mode: mode.into(),
            last_port,
            ..Service::default()
        };
        self.apply(&[Write::Slots(record.ring_offset, ring), Write::Service(vip, record)]);
        index
    }

    /// Changes a service's record.
    pub fn change_service(&mut self, vip: &str, protocol: Protocol, change: impl FnOnce(&mut Service)) {
        let vip = service_key(vip, protocol);
        let mut service = self.host.services[&vip];
        change(&mut service);
        self.apply(&[Write::Service(vip, service)]);
    }

    /// Makes every slot of a service this one.
    pub fn move_slots(&mut self, service: ServiceIndex, slot: Slot) {
        self.move_ring(service, &[slot; RING as usize]);
    }

    /// Gives a service this ring, of 64 slots.
    pub fn move_ring(&mut self, service: ServiceIndex, ring: &[Slot]) {
        self.apply(&[Write::Slots(SlotIndex(service.0 * RING), ring.to_vec())]);
    }

    /// Sends a frame through the kernel alone: for many.
    pub fn send_to_kernel(&mut self, frame: &Frame) {
        self.run_in_kernel(&frame.bytes());
    }

    /// Changes a backend's record.
    pub fn change_backend(&mut self, address: &str, change: impl FnOnce(&mut Backend)) {
        let address: SocketAddr = address.parse().unwrap();
        let place = self
            .host
            .backends
            .iter()
            .position(|backend| {
                IpAddr::from(backend.address) == address.ip() && backend.port.get() == address.port()
            })
            .expect("a backend at this address");
        let mut backend = self.host.backends[place];
        change(&mut backend);
        self.apply(&[Write::Backend(BackendIndex(place as u32), backend)]);
    }

    /// Changes the rule for a backend's replies.
    pub fn change_reply(&mut self, backend: &str, protocol: Protocol, change: impl FnOnce(&mut Reply)) {
        let endpoint = Endpoint::from_socket(backend.parse().unwrap(), protocol);
        let mut reply = self.host.replies[&endpoint];
        change(&mut reply);
        self.apply(&[Write::Reply(endpoint, reply)]);
    }

    /// The addresses in whose names this host answers as a router, on each VLAN (0: none) of the interface that packets
    /// come in by.
    pub fn set_router_addresses(&mut self, addresses: &[(u32, &str, &str)]) {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let of = |(vlan, v4, v6): &(u32, &str, &str)| {
            let interface = RouterInterface { ifindex: INGRESS, vlan: *vlan };
            (interface, RouterAddresses { v4: address(v4), v6: address(v6) })
        };
        self.host.router_addresses = addresses.iter().map(of).collect();
        self.kernel.set_router_addresses(&self.host.router_addresses).unwrap();
    }

    /// Whether `full-nat` backends are told that a flow without a record is over.
    pub fn set_resets_unknown(&mut self, resets: bool) {
        self.set_option(RESETS_UNKNOWN, resets);
        self.kernel.set_resets_unknown(resets).unwrap();
    }

    /// Makes an address this host's own.
    pub fn own_address(&mut self, address: &str) {
        run(&format!("ip address add {address} dev lo"));
        // The kernel may add an IPv6 address's route a little later.
        let is_local = || {
            let route = Command::new("ip").args(["route", "get", address]).output().unwrap();
            String::from_utf8_lossy(&route.stdout).starts_with("local")
        };
        assert!((0..1000).any(|_| is_local()), "{address} is not an address of this host");
        self.host.routes.insert(address.parse::<IpAddr>().unwrap().into(), Route::Local);
    }

    /// Sends a frame through both homes, and makes sure that they agree.
    pub fn send(&mut self, frame: &Frame) -> Outcome {
        self.send_bytes(&frame.bytes())
    }

    /// The same for a frame of any bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.send_bytes_by(INGRESS, bytes)
    }

    /// The same for a frame that comes in by this interface: [`INGRESS`], or one made by [`Homes::add_interface`].
    pub fn send_bytes_by(&mut self, ingress: u32, bytes: &[u8]) -> Outcome {
        self.host.now = monotonic();
        self.host.nanoseconds = nanoseconds();
        let mut buffer = Buffer::new(bytes, ingress);
        let host_before = *self.host.reasons.borrow();
        // The kernel takes the fast path where it can; the slow path must do the same.
        let verdict = process_slow_path(&mut buffer, &self.host, &mut Scratch::default());
        let host_counted = counted(&host_before, &*self.host.reasons.borrow());
        // At TC ingress the kernel has taken the outer tag out of the bytes, which BPF_PROG_TEST_RUN does not: the end-to-end tests
        // have such packets.
        if !is_tagged(bytes) {
            self.compare_tc((bytes, ingress), (verdict, buffer.bytes()), &host_counted);
        }
        let before = self.kernel.reasons().unwrap();
        let (action, after_kernel) = self.run_program_in_kernel("xdp_lb", bytes, ingress);
        let counted = counted(&before, &self.kernel.reasons().unwrap());
        let expected_action = match verdict {
            Verdict::Drop(reason) => {
                assert_eq!(host_counted, [(reason, 1)]);
                XDP_DROP
            }
            Verdict::Pass(reason) => {
                assert_eq!(host_counted, [(reason, 1)]);
                XDP_PASS
            }
            Verdict::Transmit => XDP_TX,
            Verdict::Redirect(_) => XDP_REDIRECT,
        };
        assert_eq!(counted, host_counted, "the kernel counts what the host does ({verdict:?})");
        assert_eq!(action, expected_action, "the kernel's verdict is the host's ({verdict:?})");
        if !matches!(verdict, Verdict::Drop(_)) {
            assert_eq!(hex(&after_kernel), hex(buffer.bytes()), "both leave the same bytes ({verdict:?})");
        }
        if self.host.is_alone.get() {
            self.host.settings.alone = 1;
        }
        if matches!(verdict, Verdict::Pass(reason) if reason != Reason::HandedToHost) {
            assert_eq!(hex(buffer.bytes()), hex(bytes), "a packet that is passed is unchanged");
        }
        Outcome { verdict, bytes: buffer.bytes().to_vec(), counted }
    }

    /// Sends a frame through the program at TC ingress, and makes sure that it does what the host has done. Then all is as it was
    /// before.
    fn compare_tc(
        &mut self,
        (bytes, ingress): (&[u8], u32),
        (verdict, expected): (Verdict, &[u8]),
        host_counted: &[(Reason, u64)],
    ) {
        self.kernel.rig().of_packets.save();
        let before = self.kernel.reasons().unwrap();
        let (action, left) = self.run_tc(bytes, ingress);
        let counted = counted(&before, &self.kernel.reasons().unwrap());
        self.kernel.rig().of_packets.restore();
        let expected_action = match verdict {
            Verdict::Drop(_) => TC_ACT_SHOT,
            // What is handed to the host is there already.
            Verdict::Pass(Reason::HandedToHost) => TC_ACT_REDIRECT,
            Verdict::Pass(_) => TC_ACT_UNSPEC,
            Verdict::Transmit | Verdict::Redirect(_) => TC_ACT_REDIRECT,
        };
        assert_eq!(counted, host_counted, "TC counts what the host does ({verdict:?})");
        assert_eq!(action, expected_action, "TC's verdict is the host's ({verdict:?})");
        // The outer tag of what leaves is beside the bytes, where nobody sees it here.
        let is_expected = left == expected
            || is_tagged(expected) && action == TC_ACT_REDIRECT && left == [&expected[..12], &expected[16..]].concat();
        if !matches!(verdict, Verdict::Drop(_)) && !is_expected {
            assert_eq!(hex(&left), hex(expected), "TC leaves the same bytes ({verdict:?})");
        }
    }

    fn run_tc(&mut self, bytes: &[u8], ingress: u32) -> (u32, Vec<u8>) {
        let mut out = vec![0; bytes.len() + 256];
        let mut options = TestRunOptions::new();
        // `struct __sk_buff`, whose eleventh field is the interface.
        let mut context = [0_u32; 48];
        context[10] = ingress;
        let context = context.map(u32::to_ne_bytes).concat();
        options.ctx_in = Some(&context);
        options.data_in = Some(bytes);
        options.data_out = Some(&mut out);
        let program: &mut SchedClassifier =
            self.kernel.object().program_mut("tc_lb").unwrap().try_into().unwrap();
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        let length = result.data_size_out as usize;
        out.truncate(length);
        (result.return_value, out)
    }

    /// Sends a packet through the host alone, on the fast path where it can.
    pub fn process(&self, packet: &mut Buffer) -> Verdict {
        let mut scratch = Scratch::default();
        process(packet, &self.host, &mut scratch)
    }

    /// Makes packets like this one those of a check.
    pub fn put_check(&mut self, key: FlowKey, check: Check) {
        self.host.checks.insert(key, check);
        self.kernel.rig().checks.put(&key, check).unwrap();
    }

    /// Forgets that.
    pub fn remove_check(&mut self, key: &FlowKey) {
        self.host.checks.remove(key);
        self.kernel.rig().checks.remove(key);
    }

    /// Sends a frame from the checks' sockets, through both homes, and makes sure that they agree; returns the interface
    /// that it leaves by and what it is then, unless it is dropped.
    pub fn send_check(&mut self, bytes: &[u8]) -> Option<(u32, Vec<u8>)> {
        let mut buffer = Buffer::new(bytes, INGRESS);
        let counters = |homes: &Self| (*homes.host.reasons.borrow(), homes.kernel.reasons().unwrap());
        let before = counters(self);
        let verdict = send_check(&mut buffer, &self.host, &mut Scratch::default());
        let (action, bytes) = self.run_program_in_kernel("xdp_check", bytes, INGRESS);
        assert!(before == counters(self), "no client has sent it, and so nothing is counted");
        match verdict {
            Verdict::Redirect(ifindex) => {
                assert_eq!(action, XDP_REDIRECT);
                assert_eq!(hex(&bytes), hex(buffer.bytes()));
                Some((ifindex, bytes))
            }
            _ => {
                assert_eq!(action, XDP_DROP, "{verdict:?}");
                None
            }
        }
    }

    /// The program in the kernel.
    pub fn program(&mut self) -> &mut Xdp {
        self.kernel.object().program_mut("xdp_lb").unwrap().try_into().unwrap()
    }

    fn run_in_kernel(&mut self, bytes: &[u8]) -> (u32, Vec<u8>) {
        self.run_program_in_kernel("xdp_lb", bytes, INGRESS)
    }

    fn run_program_in_kernel(&mut self, name: &str, bytes: &[u8], ingress: u32) -> (u32, Vec<u8>) {
        let mut out = vec![0; bytes.len() + 256];
        let mut options = TestRunOptions::new();
        // `struct xdp_md`: where the data begins and ends, metadata, the interface and two queues.
        let context = [0, bytes.len() as u32, 0, ingress, 0, 0].map(u32::to_ne_bytes).concat();
        if ingress != INGRESS {
            options.ctx_in = Some(&context);
        }
        options.data_in = Some(bytes);
        options.data_out = Some(&mut out);
        let program: &mut Xdp = self.kernel.object().program_mut(name).unwrap().try_into().unwrap();
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        let length = result.data_size_out as usize;
        out.truncate(length);
        (result.return_value, out)
    }

    /// Sends a frame and expects it to leave from `from` to `to`, otherwise unchanged.
    pub fn forwards(&mut self, frame: &Frame, from: &str, to: &str) {
        let outcome = self.send(frame);
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
        let expected = frame.clone().untagged().leaving(from, to, (LB_BACKEND_MAC, BACKEND_MAC));
        assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
    }

    /// Sends a frame of a `full-nat` service and expects it to leave from `from` to a backend of
    /// `to`; returns the port that it left from and the backend.
    pub fn translates(&mut self, frame: &Frame, from: &str, to: &[&str]) -> (SocketAddr, SocketAddr) {
        let outcome = self.send(frame);
        assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
        let (source, backend) = ends(&outcome.bytes);
        assert_eq!(source.ip(), from.parse::<IpAddr>().unwrap());
        assert!((PORTS.first..=PORTS.last).contains(&source.port()), "port {}", source.port());
        assert!(to.iter().any(|address| address.parse() == Ok(backend)), "{backend} is one of {to:?}");
        let expected = frame.clone().untagged().leaving(source, backend, (LB_BACKEND_MAC, BACKEND_MAC));
        assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
        (source, backend)
    }

    /// Sends a frame and expects it to end for this reason.
    pub fn ends_with(&mut self, frame: &Frame, reason: Reason) {
        self.bytes_end_with(&frame.bytes(), reason);
    }

    /// The same for a frame of any bytes.
    pub fn bytes_end_with(&mut self, bytes: &[u8], reason: Reason) {
        let outcome = self.send_bytes(bytes);
        assert!(
            matches!(outcome.verdict, Verdict::Drop(found) | Verdict::Pass(found) if found == reason),
            "{:?} where {reason:?} was expected",
            outcome.verdict
        );
    }

    /// Counts the flows and removes what is of no more use; both homes must find the same.
    pub fn census(&mut self) -> Census {
        let view = Arc::new(TablesView::new(Arc::new(self.tables.clone())));
        let counted = self.kernel.flow_keeper(view).unwrap().count().unwrap();
        self.kernel.correct_flow_counts(&counted).unwrap();
        let kernel = counted.census;
        let mut count = Count::new(&self.tables, &self.host.settings, monotonic());
        walk::sweep(&self.host.flows, &self.host.settings.hash_keys, |record| count.take(record));
        let census = count.finish();
        assert_eq!(kernel, census);
        self.correct_flow_counts(&census);
        kernel
    }

    /// What a census would find so many seconds from now.
    pub fn census_in(&self, seconds: u32) -> Census {
        let mut count = Count::new(&self.tables, &self.host.settings, monotonic() + seconds);
        for record in walk::records(&self.host.flows) {
            count.take(&record);
        }
        count.finish()
    }

    /// How many flows of a backend are counted where they are limited; both homes must have as many.
    pub fn counted_flows(&self, backend: u32) -> i64 {
        let host = self.host.backend_flows.borrow().get(&BackendIndex(backend)).copied().unwrap_or_default();
        assert_eq!(self.kernel.counted_flows(&self.tables).unwrap().get(&BackendIndex(backend)), Some(&host));
        host
    }

    /// Lets backends' packets come in by any interface, or not.
    pub fn set_asymmetric_replies(&mut self, asymmetric_replies: bool) {
        let policy = Policy { asymmetric_replies, ..options(LIMITS).policy };
        self.kernel.set_policy(&policy).unwrap();
        self.set_option(ASYMMETRIC_REPLIES, asymmetric_replies);
    }

    fn set_option(&mut self, option: u32, is_set: bool) {
        let options = &mut self.host.settings.options;
        *options = if is_set { *options | option } else { *options & !option };
    }

    /// Says which devices stand on which, or are a port of which.
    pub fn set_devices(&mut self, devices: &BTreeMap<u32, (u32, u16)>) {
        self.kernel.set_vlans(devices).unwrap();
        let device = |(index, (parent, vlan)): (&u32, &(u32, u16))| {
            (*index, VlanDevice { parent: *parent, vlan: u32::from(*vlan) })
        };
        self.host.devices = devices.iter().map(device).collect();
    }

    /// Makes the host's counts of flows what a census has counted, as the kernel's are by then.
    fn correct_flow_counts(&mut self, census: &Census) {
        let mut services = BTreeMap::<ServiceIndex, i64>::new();
        let backends = (1..).map(BackendIndex).zip(&self.host.backends[1..]);
        let counted = backends.map(|(index, backend)| {
            let live = census.live.get(&index).copied().unwrap_or(0) as i64;
            *services.entry(backend.service).or_default() += live;
            (index, live)
        });
        let counted: BTreeMap<_, _> = counted.collect();
        *self.host.backend_flows.get_mut() = counted;
        *self.host.service_flows.get_mut() = services;
    }

    /// How many recorded flows of a backend live.
    pub fn live(&mut self, backend: u32) -> u64 {
        self.census().live.get(&BackendIndex(backend)).copied().unwrap_or(0)
    }

    /// How many flows are recorded whose client has gone on, and how many that have sent one packet, over or not; both homes
    /// must have the same, in the same places.
    pub fn records(&mut self) -> [usize; 2] {
        let mut kernel = Vec::new();
        self.kernel.sweep_flows(|record| {
            kernel.push(*record);
            false
        });
        let host: Vec<_> = walk::records(&self.host.flows).collect();
        // The two homes may see a packet in different seconds.
        let timeless = |record: &Record| {
            let mut words = record.words;
            words[0] = u64::from(record.life().progress());
            Record { words, ..*record }
        };
        assert!(kernel.iter().map(timeless).eq(host.iter().map(timeless)), "{kernel:#?}\n{host:#?}");
        let gone_on = host.iter().filter(|record| record.life().progress() & CONFIRMED != 0).count();
        [gone_on, host.len() - gone_on]
    }

    /// Loses the records whose keys match, as a table does that is full.
    pub fn forget(&mut self, which: impl Fn(&FlowKey) -> bool) {
        walk::sweep(&self.host.flows, &self.host.settings.hash_keys, |record| which(&record.key()));
        self.kernel.sweep_flows(|record| which(&record.key()));
    }

    /// Waits until the clock that packets are noted by has moved on.
    pub fn next_second(&self) {
        let now = monotonic();
        while monotonic() == now {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Adds an interface that packets can come in by; says which one it is.
    pub fn add_interface(&mut self, name: &str) -> u32 {
        run(&format!("ip link add {name} type veth peer name {name}-peer"));
        // The kernel has a packet come in by an interface only where that has a program.
        self.kernel.attach(name, Attach::Xdp).unwrap_or_else(|error| panic!("{error:#}"));
        self.host.settings.handover = self.kernel.settings().handover;
        let index = nix::net::if_::if_nametoindex(name).unwrap();
        for mac in own_macs(index) {
            self.own_macs.insert(mac);
            self.host.own(mac);
        }
        self.kernel.set_own_macs(&self.own_macs).unwrap();
        index
    }

    /// Says which addresses this host has.
    pub fn set_own_addresses(&mut self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap().into());
        self.host.own_addresses = addresses.collect();
        self.kernel.set_own_addresses(&self.host.own_addresses).unwrap();
    }

    /// Makes a client reachable: in the kernel by a route over a veth, a neighbour and forwarding; on
    /// the host by saying so. Returns the interface's index.
    pub fn reach_clients(&mut self, clients: &BTreeMap<&str, Option<[u8; 6]>>) -> u32 {
        run("ip link add client type veth peer name other");
        run("ip link set client address 02:00:00:00:00:02 mtu 1500 up");
        run("ip link set other up");
        run("ip address add 192.0.2.1/24 dev client");
        run("ip -6 address add 2001:db8:1::1/64 dev client nodad");
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let index = nix::net::if_::if_nametoindex("client").unwrap();
        for (client, mac) in clients {
            let route = match mac {
                Some(mac) => {
                    run(&format!(
                        "ip neighbour replace {client} lladdr {} dev client nud permanent",
                        MacAddress::new(*mac)
                    ));
                    Route::Via {
                        ifindex: index,
                        tags: Tags::default(),
                        source_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
                        destination_mac: MacAddress::new(*mac),
                    }
                }
                None => Route::NeighbourMissing { ifindex: index },
            };
            self.host.routes.insert(client.parse::<IpAddr>().unwrap().into(), route);
        }
        index
    }
}

/// The reasons that were counted between two looks at all counters.
fn counted(before: &[u64], after: &[u64]) -> Vec<(Reason, u64)> {
    let counts = before.iter().zip(after).map(|(before, after)| after - before);
    Reason::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
}

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;
pub const XDP_REDIRECT: u32 = 4;

/// Whether a frame begins with a VLAN tag.
fn is_tagged(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

/// Runs a command in this thread's network namespace.
pub fn run(command_line: &str) {
    let mut words = command_line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command_line}: {status}");
}

/// Seconds of the clock that the kernel notes packets by.
pub fn monotonic() -> u32 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap().tv_sec() as u32
}

/// A range as the host's tables have it.
fn source(range: &SourceRange) -> (SourceKey, u8) {
    (SourceKey { scope: range.list, address: range.address }, range.bits)
}

/// Nanoseconds of the clock that the kernel keeps rates by.
fn nanoseconds() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(hex::encode).collect::<Vec<_>>().join("\n")
}
