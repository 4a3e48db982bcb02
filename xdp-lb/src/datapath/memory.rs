//! BPF arrays in this process's memory (`BPF_F_MMAPABLE`, kernel 5.5).

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};
use xdp_lb_common::flow_table::{self, Line, WAYS};
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::tables::directory::Keyed;

#[cfg(test)]
pub use self::anonymous::Reader;

/// An object's table differs from the expected one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub String);

/// An array of 64-bit words, each read and written atomically.
pub struct Words {
    memory: Memory,
    length: u32,
}

impl Words {
    /// # Errors
    /// If the map is not an array of words that can be mapped.
    pub fn new(map: &Map) -> Result<Self> {
        let (memory, length) = map_array::<u64>(map)?;
        Ok(Self { memory, length })
    }

    /// A second handle of the same words.
    pub fn share(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), length: self.length }
    }

    /// The number of words.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// All of them.
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, has as many words and lives as long as self; the kernel
        // side reads and this side writes whole words.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast::<AtomicU64>(), self.length as usize) }
    }

    /// One of them.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn load(&self, place: u32) -> Result<u64> {
        Ok(self.range(place, 1)?.iter().map(|word| word.load(Ordering::Relaxed)).sum())
    }

    /// Sets one of them.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn store(&self, place: u32, value: u64) -> Result<()> {
        self.range(place, 1)?.iter().for_each(|word| word.store(value, Ordering::Relaxed));
        Ok(())
    }

    /// Adds to one of them, wrapping around.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn add(&self, place: u32, by: u64) -> Result<()> {
        for word in self.range(place, 1)? {
            word.fetch_add(by, Ordering::Relaxed);
        }
        Ok(())
    }

    /// `count` of them, from `first` on.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn range(&self, first: u32, count: usize) -> Result<&[AtomicU64]> {
        let range = self.all().get(first as usize..).and_then(|rest| rest.get(..count));
        range.with_context(|| format!("{count} words from {first} on do not fit into {}", self.length))
    }
}

/// An array of a directory's records.
pub struct Records<R> {
    memory: Memory,
    length: u32,
    of: PhantomData<R>,
}

impl<R: Copy> Records<R> {
    /// # Errors
    /// If the map is not an array of such records that can be mapped.
    pub fn new(map: &Map) -> Result<Self> {
        let (memory, length) = map_array::<Keyed<R>>(map)?;
        Ok(Self { memory, length, of: PhantomData })
    }

    /// The number of records.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The record at this index.
    ///
    /// # Errors
    /// If the index is out of range.
    pub fn read(&self, place: u32) -> Result<Keyed<R>> {
        // SAFETY: the index is within the mapping, and only this side writes records, through `write`.
        Ok(unsafe { self.at(place)?.read() })
    }

    /// Writes a record at an index that no packet reads.
    ///
    /// # Errors
    /// If the index is out of range.
    pub fn write(&mut self, place: u32, record: Keyed<R>) -> Result<()> {
        // SAFETY: the index is within the mapping, and only this side writes records.
        unsafe { self.at(place)?.write(record) };
        Ok(())
    }

    fn at(&self, place: u32) -> Result<*mut Keyed<R>> {
        ensure!(place < self.length, "there is no place {place} among {} records", self.length);
        // SAFETY: the index is within the mapping, whose pages are aligned for any record.
        Ok(unsafe { self.memory.as_mut_ptr().cast::<Keyed<R>>().add(place as usize) })
    }
}

/// The flow table, in the kernel's layout.
pub struct FlowMemory {
    tags: Words,
    lines: Memory,
    ports: Words,
    locks: Words,
}

impl FlowMemory {
    /// # Errors
    /// If the maps are not the parts of one flow table.
    pub fn new(tags: Words, lines: &Map, ports: Words, locks: Words) -> Result<Self> {
        let (lines, count) = map_array::<Line<u64>>(lines)?;
        let expected = u64::from(tags.length()) * u64::from(WAYS);
        let is_whole = u64::from(count) == expected
            && u64::from(ports.length()) == expected
            && locks.length() == flow_table::LOCKS;
        ensure!(is_whole, Misfit("the parts of the flow table do not fit each other".to_owned()));
        Ok(Self { tags, lines, ports, locks })
    }

    fn lines(&self) -> &[Line<AtomicU64>] {
        let count = self.tags.length() as usize * WAYS as usize;
        // SAFETY: the mapping is page-aligned, has this many lines and lives as long as self; both sides read and write whole
        // words of it.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<Line<AtomicU64>>(), count) }
    }
}

impl flow_table::Memory for FlowMemory {
    type Word = AtomicU64;

    fn buckets(&self) -> u32 {
        self.tags.length()
    }

    fn tags(&self, bucket: u32) -> Option<&AtomicU64> {
        self.tags.all().get(bucket as usize)
    }

    fn line(&self, place: u32) -> Option<&Line<AtomicU64>> {
        self.lines().get(place as usize)
    }

    fn lock(&self, hash: FlowHash) -> Option<&AtomicU64> {
        self.locks.all().get((hash.bits() % flow_table::LOCKS) as usize)
    }

    fn port(&self, place: u32) -> Option<&AtomicU64> {
        self.ports.all().get(place as usize)
    }
}

/// The daemon only begins flows when it copies them from other tables.
impl flow_table::steps::Plain for FlowMemory {}

/// The mapping is shared by several readers and writers.
type Memory = Arc<MmapRaw>;

fn map_array<T>(map: &Map) -> Result<(Memory, u32)> {
    let Map::Array(data) = map else { bail!(Misfit("a table is not an array".to_owned())) };
    let info = data.info().context("cannot ask the kernel about a map")?;
    check_size("values", info.value_size(), size_of::<T>())?;
    let length = info.max_entries();
    let memory = MmapOptions::new()
        .len(length as usize * size_of::<T>())
        .map_raw(data.fd().as_fd().as_raw_fd())
        .context("cannot map a table into memory")?;
    Ok((memory.into(), length))
}

/// Checks the size of a table's keys or values, in bytes.
///
/// # Errors
/// [`Misfit`] if it is wrong.
pub fn check_size(what: &str, found: u32, expected: usize) -> Result<()> {
    ensure!(
        found as usize == expected,
        Misfit(format!("the {what} of a table have {found} bytes instead of {expected}"))
    );
    Ok(())
}

/// Private memory, for tests of what is written to it.
#[cfg(test)]
mod anonymous {
    use std::sync::atomic::Ordering;

    use memmap2::MmapMut;
    use xdp_lb_common::tables::directory::Source;

    use super::*;

    fn zeros<T>(length: u32) -> Memory {
        let memory = MmapMut::map_anon(length as usize * size_of::<T>()).expect("memory");
        Memory::new(memory.into())
    }

    impl Words {
        pub fn anonymous(length: u32) -> Self {
            Self { memory: zeros::<u64>(length), length }
        }

        pub fn copy(&self) -> Self {
            let copy = Self::anonymous(self.length);
            for (to, from) in copy.all().iter().zip(self.all()) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            copy
        }
    }

    impl<R: Copy> Records<R> {
        pub fn anonymous(length: u32) -> Self {
            Self { memory: zeros::<Keyed<R>>(length), length, of: PhantomData }
        }

        pub fn share(&self) -> Self {
            Self { memory: self.memory.clone(), length: self.length, of: PhantomData }
        }

        pub fn copy(&self) -> Self {
            let mut copy = Self::anonymous(self.length);
            for place in 0..self.length {
                copy.write(place, self.read(place).expect("a place")).expect("a place");
            }
            copy
        }
    }

    /// A packet's view of a directory.
    pub struct Reader<'a, R>(pub &'a Words, pub &'a Records<R>);

    impl<R> Clone for Reader<'_, R> {
        fn clone(&self) -> Self {
            *self
        }
    }

    impl<R> Copy for Reader<'_, R> {}

    impl<'a, R: Copy> Source<'a> for Reader<'a, R> {
        type Record = R;

        fn word(self, place: u32) -> Option<u64> {
            Some(self.0.all().get(place as usize)?.load(Ordering::Acquire))
        }

        fn record(self, place: u32) -> Option<&'a Keyed<R>> {
            // SAFETY: the index is within the mapping, and the writer does not write there while it may be read.
            self.1.at(place).ok().map(|record| unsafe { &*record })
        }
    }
}
