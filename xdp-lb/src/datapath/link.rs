//! What aya does not offer of links: one that only needs a program's descriptor; and of pinned ones which interface they
//! are on, and detaching them at once (`BPF_LINK_DETACH`, kernel 5.9). Where only its pin is removed, the kernel detaches some time later,
//! and until then refuses another program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{Immutable, IntoBytes};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_XDP` of `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
/// Generic XDP (include/uapi/linux/if_link.h).
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;

/// The part of `union bpf_attr` for `BPF_OBJ_GET`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_CREATE`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct CreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_DETACH`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, for an XDP link (kernel 5.9).
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    more_padding: u32,
}

/// Attaches an XDP program to an interface, in generic mode, for as long as the link is held.
///
/// # Errors
/// Where there is no such interface, or it has a program.
pub fn attach_generic(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let attr = CreateAttr {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_SKB_MODE,
    };
    let link = call(BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(link as RawFd) })
}

/// Detaches the link that is pinned here. The pin stays.
///
/// # Errors
/// `ENOLINK` where its interface is gone.
pub fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    call(BPF_LINK_DETACH, &DetachAttr { link_fd: link.as_raw_fd() as u32 }).map(drop)
}

/// The index of the interface that the XDP link pinned here is attached to; 0 where that is gone.
///
/// # Errors
/// Where there is no link.
pub fn interface(pin: &Path) -> io::Result<u32> {
    let link = open(pin)?;
    let mut info = LinkInfo::default();
    let attr = InfoAttr {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(info.ifindex)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let descriptor =
        call(BPF_OBJ_GET, &ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

fn call<T: IntoBytes + Immutable>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are the command's own, and what they point to outlives the call and is as
    // long as they say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
