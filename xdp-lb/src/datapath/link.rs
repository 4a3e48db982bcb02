//! Detaching a pinned link at once (`BPF_LINK_DETACH`, kernel 5.9), which aya does not offer. Where only
//! its pin is removed, the kernel detaches some time later, and until then refuses another program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{Immutable, IntoBytes};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The part of `union bpf_attr` for `BPF_OBJ_GET`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_DETACH`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

/// Detaches the link that is pinned here. The pin stays.
///
/// # Errors
/// `ENOLINK` where its interface is gone.
pub fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let descriptor =
        call(BPF_OBJ_GET, &ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) };
    call(BPF_LINK_DETACH, &DetachAttr { link_fd: link.as_raw_fd() as u32 }).map(drop)
}

fn call<T: IntoBytes + Immutable>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are the command's own, which only reads them, and what they point to
    // outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
