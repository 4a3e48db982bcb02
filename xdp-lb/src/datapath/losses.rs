//! Packets that the kernel drops after the program's verdict, counted by programs at its tracepoints (`xdp-lb-ebpf`, `losses.rs`).

#![forbid(unsafe_code)]

use std::os::fd::AsFd as _;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData};
use aya::programs::RawTracePoint;
use xdp_lb_common::tables::loss::{LossKey, Watched};

use super::kernel_types::KernelTypes;
use super::plain::Plain;

/// The programs, and their tracepoints.
const PROGRAMS: [(&str, &str); 2] =
    [("xdp_lost_redirect", "xdp_redirect_err"), ("xdp_lost_otherwise", "xdp_exception")];

/// Packets of one kind that the kernel dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The interface, the program's verdict, and the error.
    pub key: LossKey,
    /// The number of packets.
    pub packets: u64,
}

/// The counts of such packets.
pub struct Losses(HashMap<MapData, Plain<LossKey>, u64>);

impl Losses {
    /// Starts counting, as long as the object exists, the packets of the programs with these ids.
    ///
    /// # Errors
    /// If the kernel has no such tracepoints, or no information about its structures' fields.
    pub fn start(object: &mut Ebpf, programs: &[u32]) -> Result<Self> {
        let types = KernelTypes::of_this_kernel()?;
        let mut watched = Watched {
            programs: Default::default(),
            program_aux: types.offset("bpf_prog", "aux")?,
            aux_id: types.offset("bpf_prog_aux", "id")?,
            device_ifindex: types.offset("net_device", "ifindex")?,
        };
        for (to, from) in watched.programs.iter_mut().zip(programs) {
            *to = *from;
        }
        let table = object.map_mut("WATCHED").context("no table")?;
        Array::<_, Plain<Watched>>::try_from(table)?.set(0, Plain(watched), 0)?;
        for (name, tracepoint) in PROGRAMS {
            let program: &mut RawTracePoint = object.program_mut(name).context("no program")?.try_into()?;
            program
                .load()
                .with_context(|| format!("the kernel's verifier refused the program at {tracepoint}"))?;
            program.attach(tracepoint).with_context(|| format!("cannot attach to {tracepoint}"))?;
        }
        let losses = object.take_map("LOSSES").context("no table")?;
        Ok(Self(losses.try_into()?))
    }

    /// Counts those of one more program, too.
    ///
    /// # Errors
    /// If the kernel refuses, or as many programs are watched as can be.
    pub fn also_watch(object: &mut Ebpf, program: u32) -> Result<()> {
        let table = object.map_mut("WATCHED").context("no table")?;
        let mut table = Array::<_, Plain<Watched>>::try_from(table)?;
        let Plain(mut watched) = table.get(&0, 0)?;
        if !watched.programs.contains(&program) {
            let free = watched.programs.iter_mut().find(|id| **id == 0);
            *free.context("too many programs are watched")? = program;
            table.set(0, Plain(watched), 0)?;
        }
        Ok(())
    }

    /// A second handle of the same counts.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn share(&self) -> Result<Self> {
        let descriptor = self.0.map().fd().as_fd().try_clone_to_owned().context("cannot share a table")?;
        Ok(Self(Map::HashMap(MapData::from_fd(descriptor)?).try_into()?))
    }

    /// The counts since the daemon started.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn read(&self) -> Result<Vec<Loss>> {
        let entries = self.0.iter().map(|entry| entry.map(|(Plain(key), packets)| Loss { key, packets }));
        let mut losses: Vec<Loss> =
            entries.collect::<Result<_, _>>().context("cannot read the lost packets")?;
        losses.sort_by_key(|loss| loss.key);
        Ok(losses)
    }
}
