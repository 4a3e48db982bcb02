//! Loading the object: its tables, made or found pinned, and its programs, verified.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::Map;
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use xdp_lb_common::flow_table::{self, Line, WAYS};
use xdp_lb_common::tables::{Backend, SourceKey, Traffic};

use super::classifier::Role;
use super::maps::{Maps, STALE, Sizes};
use super::settings::Policy;
use super::{rows, verifier};
use crate::model::Limits;

/// The kernel side, built by `cargo xtask build`.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-lb-ebpf.o"));

/// What to load, and how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bpffs directory of the pins; nothing: nothing is pinned, and all ends with the process.
    pub pin_path: Option<PathBuf>,
    /// The sizes of the tables.
    pub limits: Limits,
    /// What holds for every service.
    pub policy: Policy,
}

/// Where the tables are pinned in this directory.
pub fn pinned_in(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    rows::pinned().map(|name| (name, directory.join(name))).collect()
}

/// The same, where they are all there.
///
/// # Errors
/// Where one is not.
pub fn all_pinned(directory: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let pinned = pinned_in(directory);
    if let Some((_, missing)) = pinned.iter().find(|(_, path)| !path.exists()) {
        bail!("there are no tables to take over: {} is missing", missing.display());
    }
    Ok(pinned)
}

/// Opens the object: its tables are those that are pinned, where they are, and new ones of these limits where not.
pub fn open(options: &Options, object: &[u8], pinned: &[(&str, PathBuf)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, path) in pinned {
        loader.map_pin_path(name, path.clone());
    }
    for (name, entries) in rows::sizes(&options.limits) {
        loader.map_max_entries(name, entries);
    }
    loader.load(object).map_err(|error| why_not_loaded(error.into(), &options.limits))
}

/// Descriptors of the tables that are pinned, by their names.
pub type Descriptors = Vec<(&'static str, OwnedFd)>;

/// Takes the tables out of an opened object, and says how large they are.
pub fn take_tables(object: &mut Ebpf) -> Result<(Maps, Sizes, Descriptors)> {
    let own = |name: &'static str| -> Result<(&'static str, OwnedFd)> {
        let map = object.map(name).with_context(|| format!("the object has no map {name}: {STALE}"))?;
        Ok((name, descriptor(map)?.try_clone_to_owned()?))
    };
    let descriptors = rows::pinned().map(own).collect::<Result<_>>()?;
    let (maps, sizes) = Maps::take(object)?;
    Ok((maps, sizes, descriptors))
}

/// Has the kernel verify the programs.
pub fn verify(object: &mut Ebpf, limits: &Limits) -> Result<()> {
    let program: &mut Xdp = object.program_mut("xdp_lb").context(STALE)?.try_into()?;
    verifier::load(|| program.load()).map_err(|error| why_refused(error.into(), limits))?;
    let checks: &mut Xdp = object.program_mut("xdp_check").context(STALE)?.try_into()?;
    verifier::load(|| checks.load()).context("the kernel's verifier refused the program of health checks")?;
    for role in Role::ALL {
        let program: &mut SchedClassifier = object.program_mut(role.name()).context(STALE)?.try_into()?;
        let loaded = verifier::load(|| program.load());
        loaded.with_context(|| {
            format!("the kernel's verifier refused {}, the program at TC ingress", role.name())
        })?;
    }
    Ok(())
}

/// A map's descriptor, whatever its kind.
fn descriptor(map: &Map) -> Result<BorrowedFd<'_>> {
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::LpmTrie(data)
    | Map::RingBuf(data)) = map
    else {
        return Err(anyhow!("a table is of another kind: {STALE}"));
    };
    Ok(data.fd().as_fd())
}

/// What the kernel said, where it said anything.
fn code(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
}

/// Why the tables could not be made.
fn why_not_loaded(error: anyhow::Error, limits: &Limits) -> anyhow::Error {
    match code(&error) {
        Some(libc::ENOMEM) => error.context(no_memory(limits)),
        Some(libc::EPERM | libc::EACCES) => error.context(
            "cannot load the datapath into the kernel: this needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
        ),
        _ => error.context(
            "cannot load the datapath into the kernel: this needs a kernel of 5.15 or later with BPF and BTF",
        ),
    }
}

/// Why the program could not be loaded.
fn why_refused(error: anyhow::Error, limits: &Limits) -> anyhow::Error {
    match code(&error) {
        Some(libc::ENOMEM) => error.context(no_memory(limits)),
        _ => error.context("the kernel's verifier refused the datapath"),
    }
}

fn no_memory(limits: &Limits) -> String {
    format!(
        "the kernel has too little memory for the datapath, whose tables take about {} MB with these limits: raise the \
         limit of memory that the daemon runs under (MemoryMax= of its unit, memory.max of its cgroup), or lower \
         limits.flows ({})",
        table_bytes(limits).div_ceil(1_000_000),
        limits.flows
    )
}

/// About how much memory the tables of these limits take in the kernel, bytes.
fn table_bytes(limits: &Limits) -> u64 {
    /// What the kernel keeps for an entry of a hash table beside its key and value (kernel/bpf/hashtab.c).
    const ENTRY: usize = 64;
    // A bucket: its tags, its lines and as many words of the ports.
    let bucket = size_of::<u64>() + WAYS as usize * (size_of::<Line<u64>>() + size_of::<u64>());
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    let backend = size_of::<Backend>() + 3 * 64 + cpus * size_of::<Traffic>();
    let parts = [
        (flow_table::buckets(limits.flows), bucket),
        (limits.slots, size_of::<u64>()),
        (limits.backends, backend),
        (limits.services, 4 * 64),
        (limits.source_ranges, ENTRY + size_of::<SourceKey>()),
        (limits.source_rates, 2 * ENTRY),
        (limits.fragments, 2 * ENTRY),
    ];
    parts.into_iter().map(|(entries, bytes)| u64::from(entries) * bytes as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_told_from_what_the_caller_lacks() {
        let said = |code| {
            let error =
                anyhow!(io::Error::from_raw_os_error(code)).context("failed to create map `FLOW_LINES`");
            format!("{:#}", why_not_loaded(error, &Limits::default()))
        };
        let memory = said(libc::ENOMEM);
        assert!(memory.contains("too little memory") && memory.contains("limits.flows"), "{memory}");
        assert!(!memory.contains("root"), "{memory}");
        assert!(said(libc::EPERM).contains("root"));
        assert!(said(libc::EINVAL).contains("5.15") && !said(libc::EINVAL).contains("root"));
        // As many flows as fit by default take their hundreds of megabytes.
        assert!(table_bytes(&Limits::default()) > 100_000_000, "{}", table_bytes(&Limits::default()));
    }
}
