//! An XDP program that passes every packet, for the devices that a load balancer under test sends to: a veth device
//! takes what its peer sends by `XDP_TX` or a redirect only while it has a program of its own (drivers/net/veth.c).

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::host::Host;

/// The program, attached to a device for as long as this lives.
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Attaches it to a host's device.
    pub fn attach(host: &Host, device: &str) -> Result<Self> {
        host.enter(|| attach_here(device))?.with_context(|| format!("on {}", host.name()))
    }
}

/// Attaches it to a device of the caller's own network namespace. Needs Linux 5.9 (BPF links for XDP) and a driver
/// with native XDP.
pub fn attach_here(device: &str) -> Result<XdpPass> {
    let program = load()?;
    let index = if_nametoindex(device).with_context(|| format!("there is no device {device}"))?;
    let attributes = LinkCreate {
        program: program.as_raw_fd(),
        device: index,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    let link = bpf(BPF_LINK_CREATE, &attributes)
        .with_context(|| format!("cannot attach an XDP program to {device}"))?;
    Ok(XdpPass { _link: link })
}

/// Loads it into the kernel.
pub fn load() -> Result<OwnedFd> {
    // r0 = XDP_PASS; exit
    const INSTRUCTIONS: [Instruction; 2] = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 2 },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    let attributes = ProgramLoad {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &attributes).context("the kernel does not load XDP programs")
}

/// Detaches the link that is pinned here, by force; the pin stays.
pub fn detach_pinned(pin: &Path) -> Result<()> {
    let link = open_pinned(pin)?;
    bpf_order(BPF_LINK_DETACH, &[link.as_raw_fd() as u32])
        .map(drop)
        .with_context(|| format!("cannot detach {}", pin.display()))
}

/// Writes zeros over every entry of the array that is pinned here and is not zero; returns how many those were.
pub fn zero_pinned_array(pin: &Path) -> Result<usize> {
    let map = open_pinned(pin)?;
    let mut info = [0_u32; 6];
    let attributes = InfoByFd { descriptor: map.as_raw_fd(), length: 24, info: info.as_mut_ptr() as u64 };
    bpf_order(BPF_OBJ_GET_INFO_BY_FD, &attributes).context("cannot ask for a map's sizes")?;
    let [_, _, _, value_size, entries, _] = info;
    let zeros = vec![0_u8; value_size as usize];
    let mut changed = 0;
    for index in 0..entries {
        let mut value = zeros.clone();
        let element = |value: *const u8| MapElement {
            map: map.as_raw_fd() as u32,
            padding: 0,
            key: &raw const index as u64,
            value: value as u64,
            flags: 0,
        };
        bpf_order(BPF_MAP_LOOKUP_ELEM, &element(value.as_mut_ptr())).context("cannot read an entry")?;
        if value != zeros {
            bpf_order(BPF_MAP_UPDATE_ELEM, &element(zeros.as_ptr())).context("cannot write an entry")?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// The object that is pinned here.
fn open_pinned(pin: &Path) -> Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = ObjectGet { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    bpf(BPF_OBJ_GET, &attributes).with_context(|| format!("nothing is pinned at {}", pin.display()))
}

// linux/bpf.h and linux/if_link.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: RawFd,
    device: u32,
    attach_type: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectGet {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    descriptor: RawFd,
    length: u32,
    info: u64,
}

/// The beginning of `union bpf_attr` for commands about one entry of a map.
#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The bpf system call, for commands that return a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let descriptor = bpf_order(command, attributes)?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// The bpf system call.
fn bpf_order<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` as long as said, and what it points to outlives the call and is as
    // long as it says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
