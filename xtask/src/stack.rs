//! `cargo xtask stack`: how much stack the programs of the eBPF object take, with the calls that lead there.
//!
//! A program and its calls share 512 bytes (`MAX_BPF_STACK` in Linux). The verifier rounds each function's part up: to 16
//! bytes from Linux 6.8 on, to 32 before, and names the function that was too much, not those above it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use object::{
    File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, Section, SectionIndex,
    SymbolKind,
};

use crate::workspace::ebpf_object;
use crate::{build, say, toolchain};

/// What a program and its calls may take together, bytes.
const MOST: u32 = 512;

/// Each function's part is a multiple of this for Linux before 6.8, bytes.
const ROUNDED_TO: u32 = 32;

/// Where a function is: the number of its section, and its first byte there.
type Place = (usize, u64);

/// A function of the object.
#[derive(Debug, Default)]
struct Function {
    name: String,
    /// What it takes of the stack itself, bytes.
    frame: u32,
    calls: Vec<Place>,
}

/// Functions that call each other, the program first: names, and what each takes, rounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain(Vec<(String, u32)>);

impl Chain {
    fn depth(&self) -> u32 {
        self.0.iter().map(|(_, frame)| frame).sum()
    }
}

/// Builds the object and shows each program's deepest chain.
pub fn show() -> Result<ExitCode> {
    build::ebpf(&toolchain::find_or_install()?, false)?;
    let chains = deepest_of_object()?;
    for chain in &chains {
        println!("{} of {MOST} bytes", chain.depth());
        chain.0.iter().for_each(|(name, frame)| println!("  {frame:>4} {name}"));
    }
    say::note(format_args!("each part rounded up to {ROUNDED_TO} bytes, as Linux before 6.8 does"));
    let fits = chains.iter().all(|chain| chain.depth() <= MOST);
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The deepest chain of each program in the object as built, the deepest of all first.
fn deepest_of_object() -> Result<Vec<Chain>> {
    let path = ebpf_object();
    let bytes = std::fs::read(&path)
        .with_context(|| format!("there is no {}: run `cargo xtask build`", path.display()))?;
    let file = File::parse(&*bytes).with_context(|| format!("{} is not an object", path.display()))?;
    let functions = functions(&file)?;
    let programs = functions.keys().filter(|(section, _)| {
        file.section_by_index(SectionIndex(*section)).is_ok_and(|section| section.name() != Ok(".text"))
    });
    let mut chains: Vec<_> = programs.map(|program| deepest(&functions, *program)).collect();
    chains.sort_by_key(|chain| std::cmp::Reverse(chain.depth()));
    Ok(chains)
}

/// The deepest chain from a function on. There is no recursion: the verifier refuses it.
fn deepest(functions: &BTreeMap<Place, Function>, place: Place) -> Chain {
    let Some(function) = functions.get(&place) else { return Chain::default() };
    let below = function.calls.iter().map(|call| deepest(functions, *call)).max_by_key(Chain::depth);
    let own = (function.name.clone(), function.frame.max(1).next_multiple_of(ROUNDED_TO));
    Chain([own].into_iter().chain(below.into_iter().flat_map(|chain| chain.0)).collect())
}

fn functions(file: &File<'_>) -> Result<BTreeMap<Place, Function>> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let section =
            file.section_by_index(symbol.section_index().context("a function without a section")?)?;
        let code = section.data_range(symbol.address(), symbol.size())?.context("a function without code")?;
        let calls = calls(file, &section, code, symbol.address())?;
        let name = format!("{:#}", rustc_demangle::demangle(symbol.name()?));
        functions.insert((section.index().0, symbol.address()), Function { name, frame: frame(code), calls });
    }
    ensure!(!functions.is_empty(), "the object has no functions");
    Ok(functions)
}

/// One instruction (RFC 9669, section 3).
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    destination: usize,
    source: usize,
    offset: i32,
    immediate: i32,
}

/// Sizes in bytes, registers and codes, as RFC 9669 has them.
const INSTRUCTION: u64 = 8;
const STACK: usize = 10;
const CALL: u8 = 0x85;
const CALL_BY_NUMBER: usize = 1;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const WIDE: u8 = 0x18;

fn instructions(code: &[u8]) -> impl Iterator<Item = Instruction> {
    let (chunks, _) = code.as_chunks::<8>();
    chunks.iter().map(|&[code, registers, low, high, immediate @ ..]| Instruction {
        code,
        destination: usize::from(registers & 15),
        source: usize::from(registers >> 4),
        offset: i16::from_le_bytes([low, high]).into(),
        immediate: i32::from_le_bytes(immediate),
    })
}

/// The functions that this code calls, which begins at `start` in its section.
fn calls(file: &File<'_>, section: &Section<'_, '_>, code: &[u8], start: u64) -> Result<Vec<Place>> {
    let mut relocated = BTreeMap::new();
    for (at, relocation) in section.relocations() {
        if let RelocationTarget::Symbol(symbol) = relocation.target() {
            relocated.insert(at, file.symbol_by_index(symbol)?);
        }
    }
    let mut calls = Vec::new();
    for (at, instruction) in (start..).step_by(INSTRUCTION as usize).zip(instructions(code)) {
        if instruction.code != CALL || instruction.source != CALL_BY_NUMBER {
            continue;
        }
        // Counted in instructions from the next one on; with a symbol, from the one before the symbol's.
        let ahead = (i64::from(instruction.immediate) + 1) * INSTRUCTION as i64;
        let (section, base) = match relocated.get(&at) {
            Some(symbol) => (symbol.section_index().context("a call leaves the object")?.0, symbol.address()),
            None => (section.index().0, at),
        };
        calls.push((section, base.checked_add_signed(ahead).context("a call leaves its section")?));
    }
    Ok(calls)
}

/// How far below its begin a function uses its part of the stack, bytes.
fn frame(code: &[u8]) -> u32 {
    // What of the stack each register is known to point to.
    let mut pointers = [None; 16];
    pointers[STACK] = Some(0);
    let mut lowest = 0;
    let mut is_second_half = false;
    for Instruction { code, destination, source, offset, immediate } in instructions(code) {
        let is_wide = code == WIDE && !is_second_half;
        if std::mem::replace(&mut is_second_half, is_wide) {
            continue;
        }
        // Load, store of a number, store of a register, and arithmetic of 64 bits (section 3.2).
        match code & 7 {
            1 => lowest = lowest.min(pointers[source].map_or(0, |pointer| pointer + offset)),
            2 | 3 => {
                lowest = lowest.min(pointers[destination].map_or(0, |pointer| pointer + offset));
                continue;
            }
            _ => {}
        }
        pointers[destination] = match code {
            MOVE => pointers[source],
            ADD => pointers[destination].map(|pointer| pointer + immediate),
            CALL => {
                pointers[..6].fill(None);
                None
            }
            // Jumps write to no register.
            _ if matches!(code & 7, 5 | 6) => pointers[destination],
            _ => None,
        };
        pointers[STACK] = Some(0);
        lowest = lowest.min(pointers[destination].unwrap_or(0));
    }
    lowest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        [code, destination | source << 4, low, high, a, b, c, d]
    }

    #[test]
    fn a_frame_reaches_to_the_lowest_byte_that_is_used() {
        let store = instruction(0x7b, 10, 1, -24, 0);
        let load = instruction(0x79, 1, 10, -40, 0);
        let moved = [instruction(MOVE, 2, 10, 0, 0), instruction(ADD, 2, 0, 0, -72)];
        let through = instruction(0x7b, 2, 1, -8, 0);
        let elsewhere = instruction(0x7b, 1, 2, -400, 0);
        assert_eq!(frame(&store), 24);
        assert_eq!(frame(&[store, load].concat()), 40);
        assert_eq!(frame(&moved.concat()), 72);
        assert_eq!(frame(&[moved.concat(), through.to_vec()].concat()), 80);
        assert_eq!(frame(&[elsewhere, store].concat()), 24, "not through a pointer into a map");
        let second_half = instruction(0x7b, 10, 1, -400, 0);
        assert_eq!(frame(&[instruction(WIDE, 1, 0, 0, 0), second_half].concat()), 0, "a number, no store");
    }

    #[test]
    fn the_deepest_chain_is_found() {
        let place = |at| (1, at);
        let function = |name: &str, frame, calls: &[u64]| Function {
            name: name.to_owned(),
            frame,
            calls: calls.iter().copied().map(place).collect(),
        };
        let functions = BTreeMap::from([
            (place(0), function("program", 33, &[8, 16])),
            (place(8), function("wide", 100, &[])),
            (place(16), function("narrow", 0, &[24])),
            (place(24), function("wider", 120, &[])),
        ]);
        let chain = deepest(&functions, place(0));
        let expected = [("program", 64), ("narrow", 32), ("wider", 128)];
        assert_eq!(chain, Chain(expected.map(|(name, frame)| (name.to_owned(), frame)).to_vec()));
    }

    #[test]
    fn every_program_fits_the_stack_of_kernels_before_6_8() {
        let chains = deepest_of_object().unwrap_or_else(|error| panic!("{error:#}"));
        let xdp_lb = chains.iter().find(|chain| chain.0[0].0 == "xdp_lb").expect("the program");
        assert!(xdp_lb.0.len() > 3, "it has calls: {xdp_lb:?}");
        for chain in chains {
            assert!(chain.depth() <= MOST, "{} of {MOST} bytes: {:#?}", chain.depth(), chain.0);
        }
    }
}
