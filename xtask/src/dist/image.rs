//! The container image, by buildah: no daemon is needed, and no other image.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::target_dir;

use super::{Release, binary};
use crate::say;
use crate::workspace::run;

/// Makes the image, as an OCI archive: the program, the libraries that it is linked with, and nothing else.
pub fn make(release: &Release, program: &Path) -> Result<()> {
    say::step("Making the container image");
    let root = target_dir().join("dist-image");
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot remove the earlier one")?;
    }
    fs::create_dir_all(root.join("usr/sbin")).context("cannot make a folder")?;
    binary::strip(program, &root.join("usr/sbin/xdp-lb"))?;
    for library in libraries(program)? {
        let place = root.join(library.strip_prefix('/').expect("it is absolute"));
        fs::create_dir_all(place.parent().expect("it lies in a folder")).context("cannot make a folder")?;
        fs::copy(&library, &place).with_context(|| format!("cannot copy {library}"))?;
    }
    // Where the host's folders are mounted: the image itself is read-only.
    for folder in ["etc/xdp-lb", "proc", "run/xdp-lb", "sys/fs/bpf", "var/lib/xdp-lb"] {
        fs::create_dir_all(root.join(folder)).context("cannot make a folder")?;
    }
    let buildah = || {
        let mut command = release.command("buildah");
        // Works on every file system, and as root of a container, too.
        command.args(["--storage-driver", "vfs"]);
        command
    };
    let container = output(buildah().args(["from", "scratch"]))?.trim().to_owned();
    let made = (|| {
        run(buildah().args(["copy", "--quiet"]).arg(&container).arg(&root).arg("/"))?;
        run(buildah()
            .args(["config", "--entrypoint", r#"["/usr/sbin/xdp-lb"]"#])
            .args(["--cmd", "run --config /etc/xdp-lb/config.toml", "--workingdir", "/"])
            .args(["--label", &format!("org.opencontainers.image.version={}", release.version)])
            .args(["--label", "org.opencontainers.image.title=xdp-lb"])
            .args(["--label", "org.opencontainers.image.licenses=MIT OR Apache-2.0"])
            .arg(&container))?;
        let file = format!("xdp-lb-{}-{}.oci.tar", release.version, std::env::consts::ARCH);
        let archive = format!("oci-archive:{}:{}", release.folder.join(file).display(), release.version);
        run(buildah()
            .args(["commit", "--quiet", "--omit-history", "--timestamp", &release.epoch])
            .arg(&container)
            .arg(archive))
    })();
    run(buildah().arg("rm").arg(&container))?;
    made
}

/// The shared libraries of a program and its loader, by their paths on this host.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let said = output(Command::new("ldd").arg(program))?;
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}
