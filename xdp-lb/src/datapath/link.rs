//! Detaching a pinned link at once, which aya does not offer: where only its pin is removed, the kernel detaches it
//! after a grace period, and refuses a link of another mode until then.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `enum bpf_cmd` (include/uapi/linux/bpf.h); the latter since kernel 5.9.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr`'s part for `BPF_OBJ_GET`.
#[repr(C)]
struct Get {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// `union bpf_attr`'s part for `BPF_LINK_DETACH`.
#[repr(C)]
struct Detach {
    link: u32,
}

/// Detaches the link that is pinned here. The pin stays.
///
/// # Errors
/// Where there is no such pin, or it is not a link's.
pub fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = call(BPF_OBJ_GET, &Get { path: path.as_ptr() as u64, descriptor: 0, flags: 0 })?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    call(BPF_LINK_DETACH, &Detach { link: link.as_raw_fd() as u32 }).map(drop)
}

fn call<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` is the command's own part of `union bpf_attr`, of the length said; both commands only read it,
    // and the path that it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *const T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
