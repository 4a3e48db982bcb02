//! The resolver against the kernel: each test in network namespaces of its own, which are gone when
//! its threads are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, Uid, gettid};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use xdp_lb::net::{Event, NextHop, NoNextHop, OwnMacs, Resolver};
use xdp_lb_common::net::MacAddress;
use xdp_lb_common::tables::{RouterAddresses, RouterInterface};

/// As long as a neighbour that does not answer can take to be noticed, and some.
const PATIENCE: Duration = Duration::from_secs(60);

const BALANCER_MAC: &str = "02:00:00:00:00:01";
const PEER_MAC: &str = "02:00:00:00:00:02";
const OTHER_MAC: &str = "02:00:00:00:00:03";

/// A thread in a network namespace of its own, which does what it is sent.
struct Namespace {
    jobs: std_mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: Pid,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, inbox) = std_mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (id, ids) = std_mpsc::channel();
        thread::spawn(move || {
            enter_new_namespace();
            id.send(gettid()).expect("the test waits for it");
            for job in inbox {
                job();
            }
        });
        Self { jobs, thread: ids.recv().expect("no new namespace") }
    }

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (done, wait) = std_mpsc::channel();
        let job = move || {
            job();
            done.send(()).expect("the test waits for it");
        };
        self.jobs.send(Box::new(job)).expect("the namespace's thread panicked");
        wait.recv().expect("the namespace's thread panicked");
    }

    fn ip(&self, arguments: &'static str) {
        self.run(move || ip(arguments));
    }
}

fn enter_new_namespace() {
    assert!(Uid::effective().is_root(), "this test makes network namespaces: run it as root");
    unshare(CloneFlags::CLONE_NEWNET).expect("cannot make a network namespace");
}

/// `ip` in the calling thread's namespace.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.expect("cannot run `ip`: install iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// A balancer with `eth1` (192.0.2.1/24, 2001:db8::1/64), and its peer at the other end with `eth0`,
/// which has no addresses yet.
fn pair(peer: &Namespace) {
    ip(&format!(
        "link add eth1 address {BALANCER_MAC} type veth peer name eth0 address {PEER_MAC} netns {}",
        peer.thread
    ));
    ip("addr add 192.0.2.1/24 dev eth1");
    ip("addr add 2001:db8::1/64 dev eth1 nodad");
    ip("link set eth1 up");
    peer.ip("link set eth0 up");
}

fn address_peer(peer: &Namespace) {
    peer.ip("addr add 192.0.2.2/24 dev eth0");
    peer.ip("addr add 2001:db8::2/64 dev eth0 nodad");
}

/// Whether this kernel has VLAN devices; says so where it has not.
fn has_vlans() -> bool {
    let arguments = "link add link lo name probe type vlan id 1";
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip");
    let lacks = String::from_utf8_lossy(&output.stderr).contains("Unknown device type");
    if lacks {
        eprintln!("SKIPPED: this kernel has no VLAN devices (CONFIG_VLAN_8021Q)");
    } else {
        ip("link del probe");
    }
    !lacks
}

/// Runs a test in a namespace of its own, with another for its peer.
fn test<F: Future<Output = ()>>(body: impl FnOnce(Namespace) -> F + Send + 'static) {
    let test = thread::spawn(move || {
        enter_new_namespace();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(body(Namespace::new()));
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A resolver, and what it told.
struct Watch {
    resolver: Resolver,
    events: mpsc::Receiver<Event>,
    next_hops: BTreeMap<IpAddr, Result<NextHop, NoNextHop>>,
    vlans: Option<BTreeMap<u32, (u32, u16)>>,
    own_macs: OwnMacs,
    router_addresses: BTreeMap<RouterInterface, RouterAddresses>,
    addresses: BTreeSet<IpAddr>,
    interfaces: BTreeMap<String, (Option<u32>, bool)>,
}

impl Watch {
    async fn start(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (sender, events) = mpsc::channel(16);
        let (resolver, _) = Resolver::start(sender).await.expect("the resolver starts");
        resolver.watch(addresses.into_iter().collect());
        Self {
            resolver,
            events,
            next_hops: BTreeMap::new(),
            vlans: None,
            own_macs: OwnMacs::new(),
            router_addresses: BTreeMap::new(),
            addresses: BTreeSet::new(),
            interfaces: BTreeMap::new(),
        }
    }

    async fn take_in(&mut self, deadline: Instant, waiting_for: &str) {
        let event = timeout_at(deadline, self.events.recv()).await;
        let Ok(event) = event else {
            panic!("no {waiting_for}; known: {:#?} {:?} {:?}", self.next_hops, self.vlans, self.interfaces)
        };
        match event.expect("the resolver ended") {
            Event::NextHop { address, next_hop } => {
                let was = self.next_hops.insert(address, next_hop.clone());
                assert_ne!(was, Some(next_hop), "nothing new was told of {address}");
            }
            Event::Addresses(addresses) => self.addresses = addresses,
            Event::Vlans(vlans) => self.vlans = Some(vlans),
            Event::OwnMacs(own_macs) => self.own_macs = own_macs,
            Event::RouterAddresses(addresses) => self.router_addresses = addresses,
            Event::Interface { name, index, up } => {
                self.interfaces.insert(name, (index, up));
            }
        }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.take_in(deadline, what).await;
        }
    }

    async fn resolved(&mut self, address: IpAddr, mac: &str) -> NextHop {
        let reached = |hop: &NextHop| hop.destination_mac.to_string() == mac;
        let what = format!("next hop {mac} of {address}");
        self.until(&what, |told| matches!(told.next_hops.get(&address), Some(Ok(hop)) if reached(hop))).await;
        self.next_hops[&address].clone().expect("it is resolved")
    }

    async fn refused(&mut self, address: IpAddr, reason: &str) {
        let what = format!("refusal of {address}: {reason}");
        self.until(
            &what,
            |told| matches!(told.next_hops.get(&address), Some(Err(told)) if told.to_string() == reason),
        )
        .await;
    }

    /// Nothing may be told of next hops for this time.
    async fn silent_for(&mut self, time: Duration) {
        let next_hops = self.next_hops.clone();
        let deadline = Instant::now() + time;
        while let Ok(event) = timeout_at(deadline, self.events.recv()).await {
            if let Some(Event::NextHop { address, next_hop }) = event {
                panic!("told {address} {next_hop:?}, known was {:?}", next_hops.get(&address));
            }
        }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mac(text: &str) -> MacAddress {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    MacAddress::new(bytes.try_into().expect("six bytes"))
}

#[test]
fn backends_on_the_link_resolve_to_their_own_mac_in_both_families() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        let (v4, v6) = (address("192.0.2.2"), address("2001:db8::2"));
        let mut watch = Watch::start([v4, v6]).await;
        let hop = watch.resolved(v4, PEER_MAC).await;
        let index = watch.interfaces["eth1"].0.expect("eth1 is there");
        let expected = NextHop {
            interface: "eth1".into(),
            ifindex: index,
            vlan: None,
            source_mac: mac(BALANCER_MAC),
            destination_mac: mac(PEER_MAC),
            router: None,
            source: address("192.0.2.1"),
            on_link_bits: Some(24),
            mtu: 1500,
        };
        assert_eq!(hop, expected);
        let hop = watch.resolved(v6, PEER_MAC).await;
        assert_eq!(hop, NextHop { source: address("2001:db8::1"), on_link_bits: Some(64), ..expected });
    });
}

#[test]
fn a_backend_behind_a_gateway_is_reached_by_the_gateways_mac_and_the_routes_mtu() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1400");
        ip("route add 2001:db8:1::/48 via 2001:db8::2 mtu 1300");
        let (v4, v6) = (address("198.51.100.11"), address("2001:db8:1::11"));
        let mut watch = Watch::start([v4, v6]).await;
        let hop = watch.resolved(v4, PEER_MAC).await;
        assert_eq!((hop.mtu, hop.source), (1400, address("192.0.2.1")));
        let hop = watch.resolved(v6, PEER_MAC).await;
        assert_eq!((hop.mtu, hop.source), (1300, address("2001:db8::1")));
    });
}

#[test]
fn a_neighbour_that_does_not_answer_is_told_and_asked_again_until_it_does() {
    test(async |peer| {
        pair(&peer);
        let (v4, v6) = (address("192.0.2.2"), address("2001:db8::2"));
        let mut watch = Watch::start([v4, v6]).await;
        watch.refused(v4, "192.0.2.2 on eth1 does not answer ARP").await;
        watch.refused(v6, "2001:db8::2 on eth1 does not answer neighbour discovery").await;
        address_peer(&peer);
        watch.resolved(v4, PEER_MAC).await;
        watch.resolved(v6, PEER_MAC).await;
    });
}

#[test]
fn a_neighbour_that_changes_its_mac_is_told() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        sysctl("ipv4/neigh/eth1/locktime", "0");
        peer.run(|| sysctl("ipv4/conf/eth0/arp_notify", "1"));
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        watch.resolved(backend, PEER_MAC).await;
        peer.ip("link set eth0 address 02:00:00:00:00:03");
        watch.resolved(backend, OTHER_MAC).await;
    });
}

#[test]
fn a_neighbour_that_falls_silent_is_noticed_without_any_traffic_to_it() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        // Reachable for 1 to 3 seconds, then stale: some ten times as fast as by default. Not faster
        // than the time to the first probe, or the kernel probes without being asked.
        sysctl("ipv4/neigh/eth1/base_reachable_time_ms", "2000");
        sysctl("ipv4/neigh/eth1/delay_first_probe_time", "1");
        sysctl("ipv4/neigh/eth1/retrans_time_ms", "300");
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        watch.resolved(backend, PEER_MAC).await;
        watch.silent_for(Duration::from_secs(5)).await;
        peer.ip("addr flush dev eth0");
        watch.refused(backend, "192.0.2.2 on eth1 does not answer ARP").await;
    });
}

#[test]
fn a_neighbour_that_the_kernel_forgot_is_resolved_anew_without_a_word() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        watch.resolved(backend, PEER_MAC).await;
        ip("neigh flush dev eth1");
        watch.silent_for(Duration::from_secs(1)).await;
        assert!(neighbours().contains(PEER_MAC), "the kernel was not asked again: {}", neighbours());
    });
}

#[test]
fn a_link_that_goes_down_takes_its_backends_and_brings_them_back() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        ip("route add 198.51.100.0/24 via 192.0.2.2");
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        watch.resolved(backend, PEER_MAC).await;
        let index = watch.interfaces["eth1"].0;

        peer.ip("link set eth0 down");
        watch.refused(backend, "eth1 has no carrier").await;
        peer.ip("link set eth0 up");
        watch.resolved(backend, PEER_MAC).await;

        ip("link set eth1 down");
        watch.until("eth1 down", |told| told.interfaces["eth1"] == (index, false)).await;
        watch.refused(backend, "no route to 192.0.2.2").await;
        ip("link set eth1 up");
        watch.resolved(backend, PEER_MAC).await;
        watch.until("eth1 up", |told| told.interfaces["eth1"] == (index, true)).await;
    });
}

#[test]
fn a_neighbour_that_the_operator_set_is_not_used_without_a_carrier() {
    test(async |peer| {
        pair(&peer);
        ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth1 nud permanent");
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        watch.resolved(backend, PEER_MAC).await;
        // Let the kernel have done with its link-local addresses, whose changes would wake us too.
        watch.silent_for(Duration::from_secs(3)).await;
        peer.ip("link set eth0 down");
        watch.refused(backend, "eth1 has no carrier").await;
        peer.ip("link set eth0 up");
        watch.resolved(backend, PEER_MAC).await;
    });
}

#[test]
fn an_interface_that_is_deleted_and_made_again_is_followed() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        let first = watch.resolved(backend, PEER_MAC).await;
        ip("link del eth1");
        watch.until("eth1 gone", |told| told.interfaces["eth1"] == (None, false)).await;
        watch.refused(backend, "no route to 192.0.2.2").await;
        pair(&peer);
        address_peer(&peer);
        let second = watch.resolved(backend, PEER_MAC).await;
        assert_ne!(first.ifindex, second.ifindex);
        watch.until("eth1 back", |told| told.interfaces["eth1"] == (Some(second.ifindex), true)).await;

        ip("link set eth1 down");
        ip("link set eth1 name eth2");
        watch.until("eth1 gone", |told| told.interfaces["eth1"] == (None, false)).await;
        watch.until("eth2", |told| told.interfaces.get("eth2") == Some(&(Some(second.ifindex), false))).await;
    });
}

#[test]
fn a_backend_on_a_vlan_is_reached_through_the_parent_with_the_tag() {
    test(async |peer| {
        if !has_vlans() {
            return;
        }
        pair(&peer);
        ip("link add link eth1 name eth1.7 type vlan id 7");
        ip("link set eth1.7 address 02:00:00:00:00:07 mtu 1450 up");
        ip("addr add 203.0.113.1/24 dev eth1.7");
        peer.ip("link add link eth0 name eth0.7 type vlan id 7");
        peer.ip("link set eth0.7 address 02:00:00:00:00:08 up");
        peer.ip("addr add 203.0.113.2/24 dev eth0.7");
        let backend = address("203.0.113.2");
        let mut watch = Watch::start([backend]).await;
        let hop = watch.resolved(backend, "02:00:00:00:00:08").await;
        let parent = watch.interfaces["eth1"].0.expect("eth1 is there");
        let device = watch.interfaces["eth1.7"].0.expect("eth1.7 is there");
        let expected = NextHop {
            interface: "eth1.7".into(),
            ifindex: parent,
            vlan: Some(7),
            source_mac: mac("02:00:00:00:00:07"),
            destination_mac: mac("02:00:00:00:00:08"),
            router: None,
            source: address("203.0.113.1"),
            on_link_bits: Some(24),
            mtu: 1450,
        };
        assert_eq!(hop, expected);
        assert_eq!(watch.vlans, Some(BTreeMap::from([(device, (parent, 7))])));

        ip("link del eth1.7");
        watch.until("no VLANs", |told| told.vlans == Some(BTreeMap::new())).await;
        watch.refused(backend, "no route to 203.0.113.2").await;
    });
}

#[test]
fn a_provider_tag_and_a_vlan_within_a_vlan_are_refused_in_words() {
    test(async |peer| {
        if !has_vlans() {
            return;
        }
        pair(&peer);
        ip("link add link eth1 name provider type vlan proto 802.1ad id 7");
        ip("link set provider up");
        ip("addr add 203.0.113.1/25 dev provider");
        ip("link add link provider name inner type vlan id 8");
        ip("link set inner up");
        ip("addr add 203.0.113.129/25 dev inner");
        let (behind_provider, behind_inner) = (address("203.0.113.2"), address("203.0.113.130"));
        let mut watch = Watch::start([behind_provider, behind_inner]).await;
        watch
            .refused(behind_provider, "provider is an 802.1ad VLAN, which is not supported (802.1Q is)")
            .await;
        watch.refused(behind_inner, "inner is a VLAN within a VLAN, which is not supported").await;
        assert_eq!(watch.vlans, Some(BTreeMap::new()));
    });
}

#[test]
fn a_backend_without_a_route_is_resolved_once_there_is_one() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        let (v4, v6) = (address("198.51.100.11"), address("2001:db8:1::11"));
        let mut watch = Watch::start([v4, v6]).await;
        watch.refused(v4, "no route to 198.51.100.11").await;
        watch.refused(v6, "no route to 2001:db8:1::11").await;
        ip("route add default via 192.0.2.2");
        ip("route add default via 2001:db8::2");
        watch.resolved(v4, PEER_MAC).await;
        watch.resolved(v6, PEER_MAC).await;
        ip("route add unreachable 198.51.100.0/24");
        watch.refused(v4, "the route to 198.51.100.11 is an unreachable route").await;
        ip("route add blackhole 198.51.100.11/32");
        watch.refused(v4, "the route to 198.51.100.11 is a blackhole route").await;
        ip("route replace prohibit 198.51.100.11/32");
        watch.refused(v4, "the route to 198.51.100.11 is a prohibit route").await;
        ip("rule add to 198.51.100.11 lookup 77");
        watch.silent_for(Duration::from_millis(300)).await;
        ip("route add 198.51.100.11 via 192.0.2.2 table 77");
        watch.resolved(v4, PEER_MAC).await;
    });
}

#[test]
fn a_backend_on_this_host_or_behind_a_device_without_ethernet_is_refused_in_words() {
    test(async |peer| {
        pair(&peer);
        ip("tuntap add tun0 mode tun");
        ip("link set tun0 up");
        ip("addr add 203.0.113.1/24 dev tun0");
        let (here, there) = (address("192.0.2.1"), address("203.0.113.2"));
        let mut watch = Watch::start([here, there]).await;
        let reason = "192.0.2.1 is an address of this host: \
                      XDP cannot reach a backend on the load balancer itself";
        watch.refused(here, reason).await;
        let reason = "tun0 is not an Ethernet device: the XDP program cannot send through it";
        watch.refused(there, reason).await;
    });
}

#[test]
fn a_new_watch_tells_of_an_address_again_and_forgets_the_old() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        peer.ip("addr add 192.0.2.3/24 dev eth0");
        let (one, other) = (address("192.0.2.2"), address("192.0.2.3"));
        let mut watch = Watch::start([one]).await;
        watch.resolved(one, PEER_MAC).await;
        watch.resolver.watch(BTreeSet::from([other]));
        watch.resolved(other, PEER_MAC).await;
        ip("link set eth1 address 02:00:00:00:00:0a");
        watch
            .until("the new source", |told| {
                matches!(&told.next_hops[&other], Ok(hop) if hop.source_mac == mac("02:00:00:00:00:0a"))
            })
            .await;
        assert_eq!(watch.next_hops[&one].as_ref().expect("as it was").source_mac, mac(BALANCER_MAC));
        watch.next_hops.clear();
        watch.resolver.watch(BTreeSet::from([one, other]));
        watch.resolved(one, PEER_MAC).await;
        assert!(!watch.next_hops.contains_key(&other), "the undisturbed one was told again");
    });
}

#[test]
fn the_datapath_has_an_unknown_client_resolved() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        let mut watch = Watch::start([]).await;
        watch.until("eth1", |told| told.interfaces.contains_key("eth1")).await;
        let index = watch.interfaces["eth1"].0.expect("eth1 is there");
        watch.resolver.solicit(index, address("192.0.2.2"));
        let deadline = Instant::now() + PATIENCE;
        while !neighbours().contains(PEER_MAC) {
            assert!(Instant::now() < deadline, "not resolved: {}", neighbours());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_change_that_was_lost_in_a_burst_is_found_by_reading_all_anew() {
    test(async |peer| {
        pair(&peer);
        ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth1 nud permanent");
        let backend = address("192.0.2.2");
        let mut watch = Watch::start([backend]).await;
        watch.resolved(backend, PEER_MAC).await;
        // While this holds the runtime's one thread, the kernel's queue fills and drops the last change.
        let mut batch = String::new();
        for host in 0..20_000 {
            let (high, low) = (host / 250, host % 250 + 1);
            writeln!(batch, "neigh add 198.18.{high}.{low} lladdr {PEER_MAC} dev eth1 nud permanent")
                .unwrap();
        }
        writeln!(batch, "neigh replace 192.0.2.2 lladdr {OTHER_MAC} dev eth1 nud permanent").unwrap();
        let mut command = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
        command.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("ip reads");
        assert!(command.wait().expect("ip ends").success());
        watch.resolved(backend, OTHER_MAC).await;
    });
}

#[test]
fn ten_thousand_backends_behind_one_gateway_follow_it() {
    test(async |peer| {
        pair(&peer);
        address_peer(&peer);
        ip("route add 198.18.0.0/16 via 192.0.2.2");
        let backends: Vec<IpAddr> = (0..10_000u16)
            .map(|host| IpAddr::from([198, 18, (host / 250) as u8, (host % 250) as u8 + 1]))
            .collect();
        let mut watch = Watch::start(backends.iter().copied()).await;
        for backend in &backends {
            watch.resolved(*backend, PEER_MAC).await;
        }
        ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:03 dev eth1 nud permanent");
        for backend in &backends {
            watch.resolved(*backend, OTHER_MAC).await;
        }
    });
}

fn neighbours() -> String {
    let output = Command::new("ip").args(["neigh", "show"]).output().expect("ip");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
