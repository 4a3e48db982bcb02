//! Where things are.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}

/// Where all that is built goes: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => workspace().join(dir),
        _ => workspace().join("target"),
    }
}

/// The daemon and CLI, as `cargo xtask build` makes it.
pub fn daemon() -> PathBuf {
    target_dir().join("release/xdp-lb")
}

/// The virtual environment of Python in which `cargo xtask setup` puts Schemathesis.
pub fn schemathesis_dir() -> PathBuf {
    target_dir().join("schemathesis")
}

/// Schemathesis, where it is installed.
pub fn schemathesis() -> Option<PathBuf> {
    Some(schemathesis_dir().join("bin/schemathesis")).filter(|program| is_executable(program))
}

/// Where `cargo xtask setup` puts what drives a browser, with its libraries.
pub fn browser_dir() -> PathBuf {
    target_dir().join("browser")
}

/// What drives a browser, where it and its libraries are installed.
pub fn browser_driver() -> Option<PathBuf> {
    let dir = browser_dir();
    let is_installed = dir.join("installed.txt").exists();
    is_installed.then(|| dir.join("driver.mjs"))
}

/// Where a program of this name is found: on PATH, or where Debian keeps the programs that an ordinary user's
/// PATH does not name.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether the file is there and can be run.
pub fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// nginx's stream module, where Debian's package libnginx-mod-stream puts it.
pub const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Debian's packages of the load balancers that the benchmark compares with, as far as they are not installed.
pub fn missing_peers() -> Vec<&'static str> {
    [
        ("nftables", program("nft").is_some()),
        ("haproxy", program("haproxy").is_some()),
        ("libnginx-mod-stream", Path::new(NGINX_STREAM_MODULE).exists()),
    ]
    .into_iter()
    .filter(|(_, is_there)| !is_there)
    .map(|(package, _)| package)
    .collect()
}
