//! Operations on links and pins that aya lacks: links that only need a program's descriptor, the kernel's info on a link,
//! detaching a link at once (`BPF_LINK_DETACH`, kernel 5.9), and pinning any object by its descriptor. If only a link's pin is
//! removed, the kernel detaches it some time later, and refuses another program until then.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

use zerocopy::{Immutable, IntoBytes};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
/// `enum bpf_link_type`.
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;
/// Only in the place of the program that a command names.
const BPF_F_REPLACE: u32 = 1 << 2;
/// Before the program that the command names; if it names none, before all.
const BPF_F_BEFORE: u32 = 1 << 3;

/// How an XDP program is attached (include/uapi/linux/if_link.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Flags {
    /// Generic XDP, `XDP_FLAGS_SKB_MODE`.
    Generic = 1 << 1,
    /// Native, `XDP_FLAGS_DRV_MODE`.
    Native = 1 << 2,
}

impl Flags {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }
}

/// The part of `union bpf_attr` for `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
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

/// The part of `union bpf_attr` for `BPF_LINK_UPDATE`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_DETACH`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_GET_NEXT_ID` and `BPF_LINK_GET_FD_BY_ID`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct NextIdAttr {
    start_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, for an XDP link (kernel 5.9) or a TCX link (kernel 6.6).
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

/// The kernel's info on an XDP or TCX link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// The link's id.
    pub id: u32,
    /// The id of its program.
    pub program: u32,
    /// The index of its interface. 0 if the interface is gone, or the link was detached.
    pub ifindex: u32,
}

/// Attaches an XDP program to an interface as long as the link is held or pinned.
///
/// # Errors
/// `EBUSY` or `EEXIST` if the interface has a program. Another error if the interface does not exist, or its driver refuses.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, flags: Flags) -> io::Result<OwnedFd> {
    create(program, ifindex, BPF_XDP, flags as u32)
}

/// Attaches a program at an interface's TC ingress, before all others there, as long as the link is held or pinned.
///
/// # Errors
/// `EINVAL` on kernels before 6.6, which lack these links. Another error if the interface does not exist.
pub fn attach_at_tc_ingress(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    create(program, ifindex, BPF_TCX_INGRESS, BPF_F_BEFORE)
}

fn create(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let attr =
        CreateAttr { prog_fd: program.as_raw_fd() as u32, target_ifindex: ifindex, attach_type, flags };
    let link = call(BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(link as RawFd) })
}

/// Replaces a link's program, between two packets.
///
/// # Errors
/// `ENOLINK` if it is detached.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = UpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    call(BPF_LINK_UPDATE, &attr).map(drop)
}

/// The same, if the link holds another program, `instead_of` (`BPF_F_REPLACE`).
///
/// # Errors
/// `EPERM` where it holds a third one; `ENOLINK` where it is detached.
pub fn exchange(link: BorrowedFd<'_>, program: BorrowedFd<'_>, instead_of: BorrowedFd<'_>) -> io::Result<()> {
    let attr = UpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: BPF_F_REPLACE,
        old_prog_fd: instead_of.as_raw_fd() as u32,
    };
    call(BPF_LINK_UPDATE, &attr).map(drop)
}

/// The memory that the kernel accounts for a map, in bytes: `memlock` in its descriptor's fdinfo (proc_pid_fdinfo(5)).
///
/// # Errors
/// If /proc is not mounted, or this is not a map.
pub fn memory(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let mut bytes = text.lines().filter_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.next().ok_or_else(|| io::Error::other("the kernel does not say how much memory a map takes"))
}

/// Detaches a link at once. Its pin, if any, stays.
///
/// # Errors
/// `ENOLINK` if its interface is gone.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    call(BPF_LINK_DETACH, &DetachAttr { link_fd: link.as_raw_fd() as u32 }).map(drop)
}

/// The kernel's info on an XDP or TCX link.
///
/// # Errors
/// If the descriptor is of another kind.
pub fn info(link: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = LinkInfo::default();
    object_info(link, &raw mut info)?;
    if !matches!(info.kind, BPF_LINK_TYPE_XDP | BPF_LINK_TYPE_TCX) {
        return Err(io::Error::other("not a link to an interface"));
    }
    Ok(Info { id: info.id, program: info.program, ifindex: info.ifindex })
}

/// The id of the XDP link on the interface of this index, whoever holds it; nothing where a program is attached without a link.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn on_interface(ifindex: u32) -> io::Result<Option<u32>> {
    let mut id = 0;
    loop {
        let mut next = NextIdAttr { start_id: id, next_id: 0, open_flags: 0 };
        match call_mut(BPF_LINK_GET_NEXT_ID, &mut next) {
            Ok(_) => id = next.next_id,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        let opened = call(BPF_LINK_GET_FD_BY_ID, &NextIdAttr { start_id: id, next_id: 0, open_flags: 0 });
        // It may have gone since.
        let Ok(link) = opened else { continue };
        // SAFETY: the kernel has just returned this descriptor, which nobody else owns.
        let link = unsafe { OwnedFd::from_raw_fd(link as RawFd) };
        let mut info = LinkInfo::default();
        object_info(link.as_fd(), &raw mut info)?;
        if info.kind == BPF_LINK_TYPE_XDP && info.ifindex == ifindex {
            return Ok(Some(id));
        }
    }
}

/// The id of a map or a program. The `info` of both kinds begins with the type and the id.
///
/// # Errors
/// If the descriptor is of neither.
pub fn object_id(object: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0_u32; 2];
    object_info(object, &raw mut info)?;
    Ok(info[1])
}

/// Pins a map, a program or a link.
///
/// # Errors
/// If there is a pin already, or the directory is not on a bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr =
        ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: object.as_raw_fd() as u32, file_flags: 0 };
    call(BPF_OBJ_PIN, &attr).map(drop)
}

/// Opens a pinned object.
///
/// # Errors
/// If there is none.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let descriptor =
        call(BPF_OBJ_GET, &ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })?;
    // SAFETY: the kernel has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// Reads as much of an object's info as `T` has room for.
fn object_info<T>(object: BorrowedFd<'_>, info: *mut T) -> io::Result<()> {
    let attr =
        InfoAttr { bpf_fd: object.as_raw_fd() as u32, info_len: size_of::<T>() as u32, info: info as u64 };
    call(BPF_OBJ_GET_INFO_BY_FD, &attr).map(drop)
}

/// A command that writes into its attributes.
fn call_mut<T: IntoBytes + Immutable>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: as for `call`, and they are this call's alone.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn call<T: IntoBytes + Immutable>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes have the command's layout, and what they point to outlives the call and has the given length.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
