//! A lab: a folder for what its hosts write, and the hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::paths;

/// Set by `cargo xtask` inside its sandbox.
pub const SANDBOX_VARIABLE: &str = "XDP_LB_SANDBOX";

/// A network of its own, of hosts that reach each other and nothing else.
#[derive(Clone)]
pub struct Lab {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    dir: PathBuf,
}

impl Lab {
    /// A new lab. Its folder is `target/lab/NAME`, emptied of what an earlier one of this name left.
    ///
    /// Refused outside the sandbox of `cargo xtask test` and `cargo xtask demo`.
    pub fn new(name: &str) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os(SANDBOX_VARIABLE).is_none() {
            bail!("this needs a sandbox of its own: run `cargo xtask test` (as root)");
        }
        // Two labs of one name in one process, or in two test binaries at once, do not share a folder.
        let unique = format!("{name}-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir = paths::target_dir().join("lab").join(&unique);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { shared: Arc::new(Shared { name: unique, dir }) })
    }

    /// The lab's name, which no other lab in this sandbox has.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where the lab's hosts write their configs and logs.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// A new host of this name, with loopback up and no link yet.
    pub fn host(&self, name: &str) -> Result<Host> {
        Host::new(self, name)
    }
}
