//! A lab: a folder for what its hosts write, and the hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::paths;

/// Set by `cargo xtask` inside its sandbox, to a word that no other sandbox has now.
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

impl Drop for Shared {
    fn drop(&mut self) {
        // What a failed test left is looked at.
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Lab {
    /// A new lab. Its folder is under `target/lab`, and removed with the lab's last host unless the test panics.
    ///
    /// Refused outside the sandbox of `cargo xtask test` and `cargo xtask demo`.
    pub fn new(name: &str) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let Ok(sandbox) = std::env::var(SANDBOX_VARIABLE) else {
            bail!("this needs a sandbox of its own: run `cargo xtask test` (as root)");
        };
        // Process ids are the sandbox's own, and two labs of one process may have one name.
        let unique = format!("{name}-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir = paths::target_dir().join("lab").join(sandbox).join(&unique);
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
