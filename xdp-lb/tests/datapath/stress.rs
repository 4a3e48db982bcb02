//! The flow table under two CPUs at once, while a daemon reads and counts it: the same flows begin on both, packets of both
//! directions meet, and a flood evicts records.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::spin_loop;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use aya::TestRun as _;
use aya::maps::{Array, ProgramArray};
use aya::programs::{TestRunOptions, Xdp};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xdp_lb::datapath::{FlowKeeper, FlowRecords, TablesView};
use xdp_lb::tables::Tables;
use xdp_lb_common::bench::Plan;
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::net::{Address, Protocol};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{Backend, Mode};

use crate::homes::{Homes, LIMITS, XDP_REDIRECT, XDP_TX};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, FIN, Frame, LB_BACKEND_MAC, RST, SYN, ends};
use crate::plain::Plain;

/// How long each is done, for each family.
const TIME: Duration = Duration::from_millis(1_500);

/// Another router that clients' packets may come by.
const OTHER_MAC: [u8; 6] = [2, 0xff, 0xff, 0xff, 0xff, 9];

/// A family's addresses.
#[derive(Clone, Copy)]
struct Family {
    vip: &'static str,
    /// The lower 16 bits and the port tell flows apart.
    clients: &'static str,
    snat: &'static str,
    /// Where the last 32 bits of a frame's source address are, and its source port.
    varies: [u32; 2],
}

const FAMILIES: [Family; 2] = [
    Family { vip: "192.0.2.10:80", clients: "198.18.0.0:40000", snat: "198.51.100.2", varies: [26, 34] },
    Family {
        vip: "[2001:db8::10]:80",
        clients: "[2001:db8:9::]:40000",
        snat: "2001:db8:2::2",
        varies: [34, 54],
    },
];

impl Family {
    /// A `full-nat` service of 60 backends, whose ports are not what runs short.
    fn homes(self) -> Homes {
        let mut homes = Homes::with_limits(LIMITS);
        let backend = |number: u32| {
            let is_v4 = !self.vip.starts_with('[');
            if is_v4 { format!("198.51.100.{number}:8080") } else { format!("[2001:db8:2::{number:x}]:8080") }
        };
        let backends: Vec<_> = (11..71).map(backend).collect();
        let backends: Vec<_> = backends.iter().map(String::as_str).collect();
        homes.service(self.vip, Protocol::TCP, Mode::FullNat, &backends);
        homes
    }

    fn client(self, number: u16) -> SocketAddr {
        let mut client: SocketAddr = self.clients.parse().unwrap();
        client.set_port(10_000 + number);
        client
    }

    fn request(self, client: SocketAddr, flags: u8) -> Frame {
        Frame::tcp(&client.to_string(), self.vip, flags)
    }

    fn reply(self, (source, backend): (SocketAddr, SocketAddr), flags: u8) -> Frame {
        let mut frame = Frame::tcp(&backend.to_string(), &source.to_string(), flags);
        (frame.from_mac, frame.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
        frame
    }
}

/// What is used on several CPUs.
struct Shared<'h> {
    program: &'h Xdp,
    wrapper: &'h Xdp,
    family: Family,
    backends: Vec<Backend>,
    ready: AtomicU32,
}

/// The daemon's side of the table.
struct Daemon {
    records: FlowRecords,
    keeper: FlowKeeper,
    view: Arc<TablesView>,
    tables: Arc<Tables>,
}

impl Daemon {
    fn new(homes: &Homes) -> Self {
        let tables = Arc::new(homes.kernel.read().unwrap());
        let view = Arc::new(TablesView::new(Arc::clone(&tables)));
        let keeper = homes.kernel.flow_keeper(Arc::clone(&view)).unwrap();
        Self { records: homes.kernel.flow_records(), keeper, view, tables }
    }

    /// Removes all records, as of backends that have gone.
    fn forget_all(&mut self) {
        for tables in [Arc::default(), Arc::clone(&self.tables)] {
            self.view.hide();
            self.view.show(tables);
            self.keeper.count().unwrap();
        }
    }
}

/// Has the wrapper of the benchmarks send clients' packets with these flags, of so many flows, and hands out what is shared.
fn with<R>(
    homes: &mut Homes,
    family: Family,
    flags: u8,
    flows: u32,
    run: impl FnOnce(&Shared<'_>, &mut Daemon) -> R,
) -> R {
    let mut daemon = Daemon::new(homes);
    let backends = homes.host.backends.clone();
    homes.kernel.spend();
    let object = homes.kernel.object();
    let frame = family.request(family.clients.parse().unwrap(), flags).bytes();
    let mut plan: Array<_, Plain<Plan>> = object.take_map("BENCH_PLAN").unwrap().try_into().unwrap();
    plan.set(0, Plain(Plan::of(&frame).varied(&frame, flows, family.varies)), 0).unwrap();
    let wrapper: &mut Xdp = object.program_mut("xdp_bench").unwrap().try_into().unwrap();
    wrapper.load().unwrap();
    let mut programs: ProgramArray<_> = object.take_map("BENCH_PROGRAM").unwrap().try_into().unwrap();
    let object = &*object;
    let program = |name| -> &Xdp { object.program(name).unwrap().try_into().unwrap() };
    programs.set(0, program("xdp_lb").fd().unwrap(), 0).unwrap();
    let shared = Shared {
        program: program("xdp_lb"),
        wrapper: program("xdp_bench"),
        family,
        backends,
        ready: AtomicU32::new(0),
    };
    run(&shared, &mut daemon)
}

impl Shared<'_> {
    /// Sends a frame; what the program returns, and what leaves.
    fn send(&self, bytes: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; bytes.len() + 256];
        let options =
            TestRunOptions { data_in: Some(bytes), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = self.program.test_run(options).expect("BPF_PROG_TEST_RUN");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// Sends the next so many packets of the wrapper's flows.
    fn send_many(&self, packets: u32) {
        let frame = self.family.request(self.family.clients.parse().unwrap(), ACK).bytes();
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        self.wrapper.test_run(options).expect("BPF_PROG_TEST_RUN");
    }

    /// Waits until as many are here, so that all begin within some nanoseconds.
    fn meet(&self, all: u32) {
        let arrived = self.ready.fetch_add(1, Ordering::SeqCst) + 1;
        let awaited = arrived.next_multiple_of(all);
        while self.ready.load(Ordering::SeqCst) < awaited {
            spin_loop();
        }
    }

    /// Runs both, each on a CPU of its own, while this thread is the daemon.
    fn on_two_cpus(&self, daemon: &mut Daemon, one: impl FnOnce() + Send, other: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let working = [
                scope.spawn(|| {
                    pin(0);
                    one();
                }),
                scope.spawn(|| {
                    pin(1);
                    other();
                }),
            ];
            while !working.iter().all(|it| it.is_finished()) {
                daemon.records.read(|record| self.is_whole(record));
                daemon.keeper.count().unwrap();
            }
        });
    }

    /// Fails where a record is made of parts of two.
    fn is_whole(&self, record: &Record) {
        let backend = &self.backends[record.backend().0 as usize];
        assert_eq!(record.destination(), backend.endpoint(Protocol::TCP), "{record:?}");
        assert_eq!(record.vip().socket(), self.family.vip.parse().unwrap(), "{record:?}");
        assert_eq!(record.source().address, address(self.family.snat), "{record:?}");
        assert!((2_000..3_000).contains(&record.source().port.get()), "{record:?}");
        let way = record.way_back();
        assert!([CLIENT_MAC, OTHER_MAC].contains(&way.destination_mac.octets()), "{record:?}");
    }
}

/// Keeps this thread on one CPU; on a machine with one, all are there.
fn pin(cpu: usize) {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(cpu % cpus).unwrap();
    // Where that CPU is not this process's to use, threads are wherever the kernel puts them.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

fn address(text: &str) -> Address {
    Address::from(text.parse::<std::net::IpAddr>().unwrap())
}

#[test]
fn flows_that_two_cpus_begin_at_once_have_one_record_each() {
    // A quarter of the lines for IPv4, half of them for IPv6: all find room.
    const FLOWS: u32 = 2_048;
    for family in FAMILIES {
        let mut homes = family.homes();
        let counters = homes.kernel.counters().unwrap();
        let rounds = with(&mut homes, family, SYN, FLOWS, |shared, daemon| {
            let begin = Instant::now();
            let mut rounds = 0;
            while begin.elapsed() < TIME {
                rounds += 1;
                let both = || {
                    shared.meet(2);
                    // Every flow once, in the same order on both.
                    shared.send_many(FLOWS);
                };
                shared.on_two_cpus(daemon, both, both);
                let (mut keys, mut ports) = (BTreeSet::new(), BTreeSet::new());
                daemon.records.read(|record| {
                    shared.is_whole(record);
                    let client = record.client().socket();
                    assert!(keys.insert(client), "{client} has two records");
                    let port = (record.source().socket(), record.destination().socket());
                    assert!(ports.insert(port), "{port:?} has two flows");
                });
                assert_eq!(keys.len(), FLOWS as usize, "a flow has no record");
                daemon.forget_all();
            }
            rounds
        });
        let reasons = counters.reasons().unwrap();
        let busy = reasons[Reason::FlowBusy as usize];
        println!("{}: {rounds} rounds, {busy} packets came while the other CPU began their flow", family.vip);
        // Of the two packets that begin a flow, the later one is dropped where it would have to wait for long.
        assert!(busy <= u64::from(rounds * FLOWS), "{busy} packets were dropped");
        assert_eq!(reasons[Reason::FlowTableFull as usize], 0);
    }
}

#[test]
fn no_established_flow_is_lost_to_another_cpu_s_flood() {
    const ESTABLISHED: u16 = 500;
    for family in FAMILIES {
        let mut homes = family.homes();
        let rounds = with(&mut homes, family, SYN, 1 << 24, |shared, daemon| {
            let flows: Vec<_> = (0..ESTABLISHED).map(|number| establish(shared, number)).collect();
            let rounds = AtomicU32::new(0);
            let since = Instant::now();
            let flood = || {
                while since.elapsed() < TIME {
                    shared.send_many(10_000);
                }
            };
            let go_on = || {
                while since.elapsed() < TIME {
                    flows.iter().for_each(|flow| goes_on(shared, flow));
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            };
            shared.on_two_cpus(daemon, flood, go_on);
            flows.iter().for_each(|flow| goes_on(shared, flow));
            let mut recorded = BTreeSet::new();
            daemon.records.read(|record| {
                recorded.insert(record.client().socket());
            });
            assert!(flows.iter().all(|flow| recorded.contains(&flow.client)));
            assert!(recorded.len() > 3_000, "{} records: the flood has not filled the table", recorded.len());
            rounds.into_inner()
        });
        println!("{}: {rounds} times both ways", family.vip);
        assert!(rounds > 0);
    }
}

/// A flow that is established, and whom its backend knows its client as.
struct Flow {
    client: SocketAddr,
    port: (SocketAddr, SocketAddr),
}

fn establish(shared: &Shared<'_>, number: u16) -> Flow {
    let client = shared.family.client(number);
    let (action, bytes) = shared.send(&shared.family.request(client, SYN).bytes());
    assert_eq!(action, XDP_REDIRECT);
    let flow = Flow { client, port: ends(&bytes) };
    let (action, _) = shared.send(&shared.family.reply(flow.port, SYN | ACK).bytes());
    assert_eq!(action, XDP_TX);
    goes_on(shared, &flow);
    flow
}

/// Packets of both directions go where they went before.
fn goes_on(shared: &Shared<'_>, flow: &Flow) {
    let (action, bytes) = shared.send(&shared.family.request(flow.client, ACK).bytes());
    assert_eq!((action, ends(&bytes)), (XDP_REDIRECT, flow.port), "{} to its backend", flow.client);
    let (action, bytes) = shared.send(&shared.family.reply(flow.port, ACK).bytes());
    let expected = (shared.family.vip.parse().unwrap(), flow.client);
    assert_eq!((action, ends(&bytes)), (XDP_TX, expected), "{:?} to its client", flow.port);
}

#[test]
fn replies_reach_their_client_whatever_that_does_on_another_cpu() {
    const FLOWS: u64 = 24;
    for family in FAMILIES {
        let mut homes = family.homes();
        with(&mut homes, family, SYN, 1, |shared, daemon| {
            // Every port that a client ever had towards a backend, and which clients those were.
            let had = Mutex::new(BTreeMap::<(SocketAddr, SocketAddr), BTreeSet<SocketAddr>>::new());
            let replies = AtomicU32::new(0);
            let since = Instant::now();
            let client = || {
                for number in 0.. {
                    let flags = chosen(&[SYN, SYN, ACK, ACK, FIN | ACK, RST], number);
                    let client = family.client((mixed(number >> 1) % FLOWS) as u16);
                    let mut frame = family.request(client, flags);
                    frame.from_mac = chosen(&[CLIENT_MAC, OTHER_MAC], number >> 3);
                    let (action, bytes) = shared.send(&frame.bytes());
                    if action == XDP_REDIRECT {
                        had.lock().unwrap().entry(ends(&bytes)).or_default().insert(client);
                    }
                    if since.elapsed() >= TIME {
                        return;
                    }
                }
            };
            let backend = || {
                for number in 0.. {
                    if since.elapsed() >= TIME {
                        return;
                    }
                    let port = {
                        let had = had.lock().unwrap();
                        match had.keys().nth(mixed(number) as usize % had.len().max(1)) {
                            Some(port) => *port,
                            None => continue,
                        }
                    };
                    let flags = chosen(&[SYN | ACK, ACK, ACK, FIN | ACK, RST], number);
                    let (action, bytes) = shared.send(&family.reply(port, flags).bytes());
                    if action != XDP_TX {
                        continue;
                    }
                    let (from, to) = ends(&bytes);
                    assert_eq!(from, family.vip.parse().unwrap());
                    assert!(had.lock().unwrap()[&port].contains(&to), "{port:?} was never {to}'s");
                    let mac: [u8; 6] = bytes[..6].try_into().unwrap();
                    assert!([CLIENT_MAC, OTHER_MAC].contains(&mac), "{mac:x?}");
                    replies.fetch_add(1, Ordering::SeqCst);
                }
            };
            shared.on_two_cpus(daemon, client, backend);
            let mut keys = BTreeSet::new();
            daemon.records.read(|record| assert!(keys.insert(record.client().socket()), "{record:?}"));
            assert!(keys.len() as u64 <= FLOWS);
            println!("{}: {replies:?} replies over {} ports", family.vip, had.lock().unwrap().len());
            assert!(replies.into_inner() > 0);
        });
    }
}

/// One of them: the same for the same number.
fn chosen<T: Copy>(choices: &[T], number: u64) -> T {
    choices[mixed(number) as usize % choices.len()]
}

/// The same for the same number, in no order that repeats soon.
fn mixed(number: u64) -> u64 {
    // 2^64 over the golden ratio (Knuth, TAOCP 6.4).
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}
