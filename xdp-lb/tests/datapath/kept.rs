//! Tables in the kernel, kept and put back: so that a frame can be sent through one program without a trace, before another one
//! gets it, and so that a test finds nothing of the one before it.
#![expect(
    unsafe_code,
    reason = "tables are read and written as the kernel has them, by system calls and by mapped memory"
)]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{MapFd, MapInfo, MapType};
use memmap2::{MmapMut, MmapOptions};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;
/// `enum bpf_cmd`.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;

/// Some of an object's tables, and what stood in them.
pub struct Kept {
    tables: Vec<(Table, Content)>,
}

struct Table {
    fd: MapFd,
    is_array: bool,
    key_size: usize,
    /// As system calls have a value: of a table of each CPU, all CPUs' values.
    value_size: usize,
    entries: u32,
    memory: Option<MmapMut>,
}

enum Content {
    Memory(Vec<u8>),
    Entries(Vec<(Vec<u8>, Vec<u8>)>),
}

impl Kept {
    /// These tables, among those with the kernel's ids, and what stands in them now.
    pub fn new(ids: &[u32], names: &[&str]) -> Self {
        let infos: Vec<_> =
            ids.iter().map(|id| MapInfo::from_id(*id).expect("a table of the object")).collect();
        let table = |name: &&str| {
            // The kernel cuts names to 15 bytes.
            let cut = &name[..name.len().min(15)];
            let info = infos.iter().find(|info| info.name_as_str() == Some(cut));
            let table = Table::new(info.unwrap_or_else(|| panic!("no program uses {name}")));
            let content = table.content();
            (table, content)
        };
        Self { tables: names.iter().map(table).collect() }
    }

    /// Keeps what stands in them now.
    pub fn save(&mut self) {
        for (table, content) in &mut self.tables {
            match (&table.memory, content) {
                (Some(memory), Content::Memory(bytes)) => bytes.copy_from_slice(memory),
                (_, content) => *content = table.content(),
            }
        }
    }

    /// Puts back what is kept.
    pub fn restore(&mut self) {
        self.tables.iter_mut().for_each(|(table, content)| table.put(content));
    }
}

impl Table {
    fn new(info: &MapInfo) -> Self {
        let kind = info.map_type().expect("a kind of table");
        let (value, entries) = (info.value_size() as usize, info.max_entries());
        let cpus =
            if kind == MapType::PerCpuArray { aya::util::nr_cpus().expect("the number of CPUs") } else { 1 };
        let fd = info.fd().expect("the table's descriptor");
        let memory = (info.map_flags() & MMAPABLE != 0).then(|| {
            let length = value.next_multiple_of(8) * entries as usize;
            // SAFETY: it is an array that may be mapped, and as long as that.
            unsafe { MmapOptions::new().len(length).map_mut(fd.as_fd().as_raw_fd()) }.expect("mapped memory")
        });
        Self {
            fd,
            is_array: matches!(kind, MapType::Array | MapType::PerCpuArray),
            key_size: info.key_size() as usize,
            value_size: value.next_multiple_of(8) * cpus,
            entries,
            memory,
        }
    }

    fn content(&self) -> Content {
        if let Some(memory) = &self.memory {
            return Content::Memory(memory.to_vec());
        }
        let value = |key: Vec<u8>| {
            let value = self.value(&key);
            (key, value)
        };
        Content::Entries(self.keys().into_iter().map(value).collect())
    }

    fn put(&mut self, content: &Content) {
        match (content, &mut self.memory) {
            (Content::Memory(bytes), Some(memory)) => {
                // Pages that nobody has changed stay as they are.
                for (page, kept) in memory.chunks_mut(4096).zip(bytes.chunks(4096)) {
                    if page != kept {
                        page.copy_from_slice(kept);
                    }
                }
            }
            (Content::Entries(entries), _) => {
                if !self.is_array {
                    for key in self.keys() {
                        self.call(BPF_MAP_DELETE_ELEM, key.as_ptr(), std::ptr::null_mut()).expect("removed");
                    }
                }
                for (key, value) in entries {
                    if !self.is_array || self.value(key) != *value {
                        self.call(BPF_MAP_UPDATE_ELEM, key.as_ptr(), value.as_ptr().cast_mut())
                            .expect("written");
                    }
                }
            }
            _ => unreachable!("a table stays what it is"),
        }
    }

    fn value(&self, key: &[u8]) -> Vec<u8> {
        let mut value = vec![0; self.value_size];
        self.call(BPF_MAP_LOOKUP_ELEM, key.as_ptr(), value.as_mut_ptr()).expect("an entry");
        value
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        if self.is_array {
            return (0..self.entries).map(|place| place.to_ne_bytes().to_vec()).collect();
        }
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let last = keys.last().map_or(std::ptr::null(), Vec::as_ptr);
            if self.call(BPF_MAP_GET_NEXT_KEY, last, next.as_mut_ptr()).is_err() {
                return keys;
            }
            keys.push(next);
        }
    }

    fn call(&self, command: libc::c_long, key: *const u8, value: *mut u8) -> io::Result<()> {
        // The part of `union bpf_attr` for these commands: the map, the key, the value or the next key, flags.
        let attr = [self.fd.as_fd().as_raw_fd() as u64, key as u64, value as u64, 0];
        // SAFETY: key and value are as long as the table's, or null where the command takes none.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
