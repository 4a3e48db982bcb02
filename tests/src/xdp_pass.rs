//! An XDP program that passes every packet, for the devices that a load balancer under test sends to: a veth device
//! takes what its peer sends by `XDP_TX` or a redirect only while it has a program of its own (drivers/net/veth.c).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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

// linux/bpf.h and linux/if_link.h.
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

/// The bpf system call, for commands that return a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` as long as said, and what it points to is static. Both
    // commands only read it.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match RawFd::try_from(descriptor) {
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}
