//! Walking a BPF hash many entries at a time (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6), which aya does not
//! offer: a million entries one by one cost two million system calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// Only entries that are there are updated.
const BPF_EXIST: u64 = 2;

/// Entries a call. A bucket's entries come together, so this must exceed the longest bucket.
const ENTRIES: usize = 4096;

/// The batch commands' part of `union bpf_attr`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for commands about one entry.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Shows every entry to `visit`, and deletes those for which it returns true. Entries that come or
/// go meanwhile may be missed or seen.
pub fn sweep<K, V>(map: BorrowedFd<'_>, mut visit: impl FnMut(&K, &V) -> bool) -> io::Result<()>
where
    K: FromBytes + IntoBytes + Immutable + KnownLayout + Copy,
    V: FromBytes + IntoBytes + KnownLayout,
{
    let mut keys = vec![K::new_zeroed(); ENTRIES];
    let mut values: Vec<V> = std::iter::repeat_with(V::new_zeroed).take(ENTRIES).collect();
    // A position is a bucket's number; none at the start.
    let mut position: Option<u32> = None;
    loop {
        let mut next: u32 = 0;
        let mut attr = BatchAttr {
            in_batch: position.as_ref().map_or(0, |position| position as *const u32 as u64),
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ENTRIES as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Default::default()
        };
        let is_last = match call(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = attr.count as usize;
        let over: Vec<K> = keys[..count]
            .iter()
            .zip(&values[..count])
            .filter(|(key, value)| visit(key, value))
            .map(|(key, _)| *key)
            .collect();
        delete(map, &over)?;
        if is_last {
            return Ok(());
        }
        position = Some(next);
    }
}

/// Puts another value under a key; one that is gone is no error. One at a time: the batch command takes no `BPF_EXIST`.
pub fn replace<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes,
{
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: key as *const K as u64,
        value: value as *const V as u64,
        flags: BPF_EXIST,
    };
    // SAFETY: the attributes are the command's own, the key and the value are of the map's own sizes (the loader made the map
    // from these very types) and outlive the call, which only reads them.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const attr, size_of::<ElementAttr>())
    };
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}

/// Deletes entries; one that is gone already is no error.
fn delete<K>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<()> {
    while !keys.is_empty() {
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Default::default()
        };
        match call(BPF_MAP_DELETE_BATCH, &mut attr) {
            Ok(()) => return Ok(()),
            // It stopped at an entry that is gone: go on behind it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                keys = &keys[attr.count as usize + 1..]
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn call(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: the attributes are the command's own, their pointers are to arrays of `count` keys and
    // values of the map's own sizes (the loader made the map from these very types), and all of them
    // outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
