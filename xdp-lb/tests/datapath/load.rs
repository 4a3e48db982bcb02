//! Loading: what the verifier says.

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, Xdp};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use xdp_lb::datapath::{Datapath, Options};
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::{COUNTED_REASONS, REASONS, Reason};
use xdp_lb_common::tables::Mode;

use crate::homes::{EGRESS, Homes, LIMITS, options};
use crate::packets::{Frame, SYN};

/// What an operator's kernel has to look at before it lets the program in: 1,000,000 at the most
/// (`BPF_COMPLEXITY_LIMIT_INSNS`). A bound far below that makes growth seen.
const VERIFIED_INSTRUCTIONS: u32 = 400_000;

/// The same for the verifiers of older kernels, which look at more of the same program before they know it safe: 6.1 at
/// more than twice as much as 6.12.
const VERIFIED_INSTRUCTIONS_BEFORE_6_12: u32 = 600_000;

fn bound() -> u32 {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    if version < (6, 12) { VERIFIED_INSTRUCTIONS_BEFORE_6_12 } else { VERIFIED_INSTRUCTIONS }
}

#[test]
fn the_program_passes_the_verifier_with_room_to_grow() {
    let mut homes = Homes::new();
    let info = homes.program().info().unwrap();
    let verified = info.verified_instruction_count().expect("kernel 5.16 or later tells");
    let mut decapsulator = xdp_lb::datapath::Decapsulator::load(6080, 3, &[]).unwrap();
    let program: &mut Xdp = decapsulator.object().program_mut("xdp_decap").unwrap().try_into().unwrap();
    let on_a_backend = program.info().unwrap().verified_instruction_count().unwrap();
    println!("verified instructions of the decapsulator: {on_a_backend}");
    assert!(on_a_backend < verified, "{on_a_backend} instructions were verified");
    let bound = bound();
    println!("verified instructions: {verified} (bound {bound})");
    assert!(verified < bound, "{verified} instructions were verified");
    let at_tc: &SchedClassifier = homes.kernel.object().program("tc_lb").unwrap().try_into().unwrap();
    let at_tc = at_tc.info().unwrap().verified_instruction_count().unwrap();
    println!("verified instructions at TC ingress: {at_tc} (bound {bound})");
    assert!(at_tc < bound, "{at_tc} instructions were verified at TC ingress");
}

/// Little, but of each mode: loaded once, which takes half a minute on a kernel that is emulated.
#[test]
fn once_loaded_the_program_forwards_in_each_mode_what_it_would_on_the_host() {
    let mut homes = Homes::new();
    for (port, mode) in (80..).zip([Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue]) {
        let (vip, vip6) = (format!("192.0.2.10:{port}"), format!("[2001:db8::10]:{port}"));
        let (backend, backend6) = (format!("198.51.100.11:{port}"), format!("[2001:db8:2::11]:{port}"));
        let over_tcp = Frame::tcp("203.0.113.5:40000", &vip, SYN);
        let over_udp = Frame::udp("[2001:db8:9::5]:40000", &vip6);
        homes.service(&vip, Protocol::TCP, mode, &[&backend]);
        homes.service(&vip6, Protocol::UDP, mode, &[&backend6]);
        for frame in [&over_tcp, &over_udp, &over_tcp, &over_udp] {
            let outcome = homes.send(frame);
            assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS), "{mode:?}");
            let outer = outcome.bytes.len() - frame.bytes().len();
            assert_eq!(outer > 0, matches!(mode, Mode::Ipip | Mode::Gue), "{mode:?}: {outer} bytes");
        }
    }
}

/// Where in the object the definition of this table says how many bytes a value has: behind its type and the size
/// of its keys, each 32 bits.
fn size_of_values(object: &[u8], table: &str) -> usize {
    let file = object::File::parse(object).unwrap();
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(table)).unwrap();
    let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
    (section.file_range().unwrap().0 + symbol.address()) as usize + 8
}

#[test]
fn an_object_of_another_version_is_refused_with_what_to_do() {
    let object = include_bytes!(concat!(env!("OUT_DIR"), "/xdp-lb-ebpf.o"));
    for table in ["SETTINGS", "SERVICES", "FLOW_LINES"] {
        let mut other = object.to_vec();
        other[size_of_values(object, table)] += 8;
        let error = Datapath::load_object(&options(LIMITS), &other).err().unwrap();
        let said = format!("{error:#}");
        assert!(said.contains("another version of xdp-lb"), "{table}: {said}");
        assert!(said.contains("cargo xtask build"), "{table}: {said}");
    }
}

#[test]
fn what_a_build_with_more_reasons_counted_stays_where_one_with_fewer_adopts_its_tables() {
    let pin_path = std::path::Path::new("/sys/fs/bpf/xdp-lb-reasons");
    let options = Options { pin_path: Some(pin_path.to_owned()), ..options(LIMITS) };
    let load = || Datapath::load(&options).unwrap_or_else(|error| panic!("{error:#}"));
    let counters = || {
        let layout = std::fs::read_dir(pin_path).unwrap().next().unwrap().unwrap();
        let map = MapData::from_pin(layout.path().join("REASON_COUNTERS")).unwrap();
        PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(map)).unwrap()
    };
    let counted = |reason: u32| counters().get(&reason, 0).unwrap().iter().sum::<u64>();
    let of_others = COUNTED_REASONS - 1;
    assert!(of_others >= REASONS, "no reason of this build");
    drop(load());
    let cpus = aya::util::nr_cpus().unwrap();
    for (reason, packets) in [(Reason::NoBackend as u32, 7), (of_others, 9)] {
        counters().set(reason, PerCpuValues::try_from(vec![packets; cpus]).unwrap(), 0).unwrap();
    }
    let adopted = load();
    assert!(adopted.is_adopted());
    let cpus = cpus as u64;
    assert_eq!(adopted.reasons().unwrap()[Reason::NoBackend as usize], 7 * cpus);
    assert_eq!((counted(Reason::NoBackend as u32), counted(of_others)), (7 * cpus, 9 * cpus));
    drop(adopted);
    xdp_lb::datapath::unload(pin_path).unwrap();
}
