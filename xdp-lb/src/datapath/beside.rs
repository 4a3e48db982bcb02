//! Today's program and tables, beside those of an earlier layout, which forward until the links are given this program.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, Xdp};
use tracing::{info, warn};
use xdp_lb_common::flow_table::carry::Carried;

use super::classifier::Role;
use super::clock::monotonic_seconds;
use super::former::{self, Former};
use super::load::{Descriptors, Options, open, pinned_in, take_tables, verify};
use super::maps::{Maps, STALE, Sizes};
use super::pins::{self, Pins};
use super::plain::Plain;
use crate::tables::{Tables, Write};

/// The program, verified, and tables of its own, which hold the flows of the earlier ones.
pub struct Beside {
    pub object: Ebpf,
    pub maps: Maps,
    pub sizes: Sizes,
    pub pinned: Descriptors,
    pub pins: Pins,
    pub earlier: Earlier,
}

/// The tables that are taken over from.
pub struct Earlier {
    former: Box<dyn Former>,
    /// The second of the kernel's clock from which on flows may have had packets that are not known here.
    since: u32,
}

impl Beside {
    /// Loads the program with tables beside those in `directory`, and copies what lives longer than a daemon. The earlier tables are
    /// only read.
    ///
    /// # Errors
    /// As [`Datapath::load`](super::Datapath::load), and where the earlier tables cannot be read. Nothing is left behind.
    pub fn prepare(options: &Options, object: &[u8], pin_path: &Path, other: &pins::Other) -> Result<Self> {
        let former = former::open(&other.directory, other.version, options)
            .with_context(|| format!("cannot read the tables in {}", other.directory.display()))?;
        let pins = Pins::stage(pin_path, other)?;
        let options = Options { limits: former.limits(), ..options.clone() };
        Self::load(&options, object, &pins, former).inspect_err(|_| pins.unstage()).map(|parts| {
            let (object, (maps, sizes, pinned), earlier) = parts;
            Self { object, maps, sizes, pinned, pins, earlier }
        })
    }

    fn load(
        options: &Options,
        object: &[u8],
        pins: &Pins,
        former: Box<dyn Former>,
    ) -> Result<(Ebpf, (Maps, Sizes, Descriptors), Earlier)> {
        let mut object = open(options, object, &pinned_in(pins.directory()))?;
        let mut tables = take_tables(&mut object)?;
        verify(&mut object, &options.limits)?;
        let xdp: &mut Xdp = object.program_mut("xdp_lb").context(STALE)?.try_into()?;
        let xdp = xdp.fd()?.as_fd().try_clone_to_owned()?;
        let balancer: &mut SchedClassifier =
            object.program_mut(Role::Balancer.name()).context(STALE)?.try_into()?;
        pins.pin_programs(xdp.as_fd(), balancer.fd()?.as_fd())?;
        let maps = &mut tables.0;
        let mut settings = options.policy.settings(Some(&former.settings()?));
        settings.flow_buckets = maps.flow_buckets();
        settings.heartbeat = monotonic_seconds()?;
        maps.settings.set(0, Plain(settings), 0).context("cannot write the settings")?;
        let mut earlier = Earlier { former, since: 0 };
        earlier.carry_flows(maps)?;
        Ok((object, tables, earlier))
    }

    /// What stands in the earlier tables.
    pub fn tables(&self) -> Result<Tables> {
        self.earlier.former.tables()
    }
}

impl Earlier {
    /// The writes that bring new tables to what stands in the earlier ones.
    ///
    /// # Errors
    /// Where those cannot be read.
    pub fn writes(&self) -> Result<Vec<Write>> {
        let tables = self.former.tables()?;
        let backends = tables.backends.iter().map(|(index, backend)| Write::Backend(*index, *backend));
        let addresses = tables.snat_addresses.iter().map(|(at, address)| Write::SnatAddress(*at, *address));
        let rings = tables.rings.iter().map(|(at, slots)| Write::Slots(*at, slots.clone()));
        let replies = tables.replies.iter().map(|(endpoint, reply)| Write::Reply(*endpoint, *reply));
        let servers = tables.quic_servers.iter().map(|(key, backend)| Write::QuicServer(*key, *backend));
        let sources = tables.sources.iter().map(|(range, verdict)| Write::Source(*range, *verdict));
        let services = tables.services.iter().map(|(vip, service)| Write::Service(*vip, *service));
        let all = backends.chain(addresses).chain(rings).chain(replies).chain(servers).chain(sources);
        Ok(all.chain(services).collect())
    }

    /// Copies what packets counted so far, and the VLAN devices.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn carry_counts(&self, maps: &mut Maps) -> Result<()> {
        let counts = self.former.counts(&self.former.tables()?)?;
        maps.set_counts(&counts.reasons, &counts.backends)?;
        for (service, traffic) in counts.former {
            maps.set_former_traffic(service.0, traffic)?;
        }
        maps.set_vlans(&self.former.vlans()?)
    }

    /// Copies the flows that have had packets since they were copied last: first all of them.
    ///
    /// # Errors
    /// Where the earlier tables cannot be read.
    pub fn carry_flows(&mut self, maps: &Maps) -> Result<()> {
        let now = monotonic_seconds()?;
        let (mut there, mut lost) = (0u64, 0u64);
        let Plain(settings) = maps.settings.get(&0, 0).context("cannot read the settings")?;
        self.former.records(self.since, &mut |record| {
            if record.life().is_over(record.protocol(), now, &settings) {
                return;
            }
            match maps.carry(&settings, record, now) {
                Carried::There => there += 1,
                Carried::WithoutPort | Carried::Lost => lost += 1,
            }
        })?;
        info!("{there} recorded flows were copied from the tables of the earlier layout");
        if lost > 0 {
            warn!("{lost} recorded flows found no room, or no port, in the new tables: raise limits.flows");
        }
        // A packet of this very second may come behind.
        self.since = now.saturating_sub(1);
        Ok(())
    }
}
