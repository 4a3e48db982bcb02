//! Walking a BPF hash many entries at a time (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6), which aya does not
//! offer: a million entries one by one cost two million system calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
/// For hashes from 5.14 on.
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Only entries that are not there are written.
const BPF_NOEXIST: u64 = 1;
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
///
/// What is read a batch at a time may be milliseconds old once it is decided that an entry goes, and a new flow may have its key
/// by then. So what was deleted is shown to `visit` again, and put back where that wants to keep it.
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
        for key in &over {
            if let Some(present) = take(map, key)?
                && !visit(key, &present)
            {
                write(map, key, &present, BPF_NOEXIST)?;
            }
        }
        if is_last {
            return Ok(());
        }
        position = Some(next);
    }
}

/// Puts another value under a key; one that is gone is not an error. One at a time: the batch command takes no `BPF_EXIST`.
pub fn replace<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes,
{
    write(map, key, value, BPF_EXIST)
}

/// Writes a value under a key, by these flags; that they forbid it is not an error.
fn write<K, V>(map: BorrowedFd<'_>, key: &K, value: &V, flags: u64) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes,
{
    match call_for_one(BPF_MAP_UPDATE_ELEM, map, key, value as *const V as u64, flags) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST)) => Ok(()),
        result => result,
    }
}

/// Deletes an entry and returns its value at that moment; nothing where it is gone already.
fn take<K, V>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>>
where
    K: IntoBytes + Immutable,
    V: FromBytes,
{
    let mut value = V::new_zeroed();
    match call_for_one(BPF_MAP_LOOKUP_AND_DELETE_ELEM, map, key, &raw mut value as u64, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result.map(|()| Some(value)),
    }
}

/// A command about the entry under this key; `value` is the address of a value of the map's type.
fn call_for_one<K: IntoBytes + Immutable>(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: &K,
    value: u64,
    flags: u64,
) -> io::Result<()> {
    let key = key as *const K as u64;
    call(command, &mut ElementAttr { map_fd: map.as_raw_fd() as u32, padding: 0, key, value, flags })
}

fn call<A>(command: libc::c_long, attr: &mut A) -> io::Result<()> {
    // SAFETY: the attributes are the command's own, their pointers are to keys and values, `count` of them or one, of the map's
    // own sizes (the loader made the map from these very types), and all of them outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
