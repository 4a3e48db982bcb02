//! Loading: what the verifier says.

use aya::programs::Xdp;

use crate::homes::Homes;

/// What an operator's kernel has to look at before it lets the program in: 1,000,000 at the most
/// (`BPF_COMPLEXITY_LIMIT_INSNS`). A bound far below that makes growth seen.
const VERIFIED_INSTRUCTIONS: u32 = 250_000;

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
    println!("verified instructions: {verified} (bound {VERIFIED_INSTRUCTIONS})");
    assert!(verified < VERIFIED_INSTRUCTIONS, "{verified} instructions were verified");
}
