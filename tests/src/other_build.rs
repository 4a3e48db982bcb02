//! Another build of the daemon, made of the one that there is: the same but for one instruction of its XDP program,
//! so that the kernel tells the two programs apart.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::paths;

/// `r = immediate`, 64 bits wide, and the same 32 bits wide, which clears the rest: the same where it is not negative
/// (RFC 9669, sections 4.1 and 4.2).
const MOV64_IMMEDIATE: u8 = 0xb7;
const MOV32_IMMEDIATE: u8 = 0xb4;

/// Writes the other build to this path.
pub fn write(to: &Path) -> Result<()> {
    let object = fs::read(paths::target_dir().join("bpf/xdp-lb-ebpf")).context("there is no eBPF object")?;
    let mut binary = fs::read(paths::daemon()).context("there is no daemon")?;
    let at = binary.windows(4096).position(|window| window == &object[..4096]);
    let at = at
        .filter(|at| binary[*at..].starts_with(&object))
        .context("the daemon was not built with the eBPF object that there is: run `cargo xtask build`")?;
    let place = at + instruction(&object)?;
    binary[place] = MOV32_IMMEDIATE;
    put(to, &binary)
}

/// Writes one whose tables have another layout's number, though the same layout, to this path: so it takes nothing for its own.
pub fn write_of_another_layout(to: &Path) -> Result<()> {
    const BEFORE: &[u8] = b"xdp-lb layout ";
    const OTHER: &[u8] = b"999999";
    let mut binary = fs::read(paths::daemon()).context("there is no daemon")?;
    let is_it =
        |window: &[u8]| window.starts_with(BEFORE) && window[BEFORE.len()..].iter().all(u8::is_ascii_digit);
    let found = binary.windows(BEFORE.len() + OTHER.len()).position(is_it);
    let at = found.context("the daemon does not say which layout its tables have")? + BEFORE.len();
    binary[at..at + OTHER.len()].copy_from_slice(OTHER);
    put(to, &binary)
}

fn put(to: &Path, binary: &[u8]) -> Result<()> {
    // Written beside and renamed, as an installer does: the binary that runs cannot be written to.
    let new = to.with_extension("new");
    fs::write(&new, binary).with_context(|| format!("cannot write {}", new.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, to).with_context(|| format!("cannot replace {}", to.display()))
}

/// Where in the object the XDP program has the first instruction that can be written in two ways.
fn instruction(object: &[u8]) -> Result<usize> {
    let file = object::File::parse(object).context("the eBPF object is none")?;
    let program = file.symbols().find(|symbol| symbol.name() == Ok("xdp_lb"));
    let program = program.context("the eBPF object has no program xdp_lb")?;
    let section = file.section_by_index(program.section_index().context("the program is in no section")?)?;
    let (start, _) = section.file_range().context("the program's section is empty")?;
    let start = start + program.address();
    let code = &object[start as usize..(start + program.size()) as usize];
    let mut at = 0;
    while at + 8 <= code.len() {
        let is_not_negative = code[at + 7] & 0x80 == 0;
        if code[at] == MOV64_IMMEDIATE && is_not_negative {
            return Ok(start as usize + at);
        }
        // A 64-bit immediate takes two places.
        at += if code[at] == 0x18 { 16 } else { 8 };
    }
    ensure!(false, "the XDP program sets no register");
    unreachable!()
}
