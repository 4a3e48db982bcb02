//! Tables with the same contents as the current ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::tables::Settings;

use super::tables::{Counts, Former};
use crate::datapath::load::{OBJECT, Options, all_pinned, open};
use crate::datapath::maps::{Maps, Sizes};
use crate::model::Limits;
use crate::tables::Tables;

/// The tables.
pub struct Alike {
    maps: Maps,
    sizes: Sizes,
    directory: PathBuf,
    options: Options,
}

impl Alike {
    /// Opens those pinned in this directory.
    ///
    /// # Errors
    /// If some are missing.
    pub fn open(directory: &Path, options: &Options) -> Result<Self> {
        let (maps, sizes) = take(directory, options)?;
        Ok(Self { maps, sizes, directory: directory.to_owned(), options: options.clone() })
    }
}

fn take(directory: &Path, options: &Options) -> Result<(Maps, Sizes)> {
    Maps::take(&mut open(options, OBJECT, &all_pinned(directory)?)?)
}

impl Former for Alike {
    fn limits(&self) -> Limits {
        self.sizes.limits
    }

    fn settings(&self) -> Result<Settings> {
        Ok(self.maps.settings.get(&0, 0).context("cannot read the settings")?.0)
    }

    fn tables(&self) -> Result<Tables> {
        // Opened anew: the places of services are read once, and change while another daemon uses the tables.
        let (maps, sizes) = take(&self.directory, &self.options)?;
        maps.read(&sizes)
    }

    fn counts(&self, tables: &Tables) -> Result<Counts> {
        let services = tables.services.values().map(|service| service.index);
        Ok(Counts {
            reasons: self.maps.reasons()?,
            backends: tables
                .backends
                .keys()
                .map(|index| Ok((*index, self.maps.backend_traffic(index.0)?)))
                .collect::<Result<_>>()?,
            former: services
                .map(|index| Ok((index, self.maps.former_traffic(index.0)?)))
                .collect::<Result<_>>()?,
        })
    }

    fn vlans(&self) -> Result<BTreeMap<u32, (u32, u16)>> {
        self.maps.vlans()
    }

    fn records(&self, since: u32, visit: &mut dyn FnMut(&Record)) -> Result<()> {
        self.maps.flow_records().read(|record| {
            if record.life().last_seen() >= since {
                visit(record);
            }
        });
        Ok(())
    }
}
