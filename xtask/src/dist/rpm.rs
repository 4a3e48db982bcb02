//! The package of Fedora and its relatives, by rpmbuild.

use std::path::Path;

use anyhow::{Context, Result};
use std::fs;
use xdp_lb_tests::paths::{target_dir, workspace};

use super::Release;
use crate::say;
use crate::workspace::run;

/// Makes the package.
pub fn make(release: &Release, tree: &Path) -> Result<()> {
    say::step("Making the RPM package");
    let top = target_dir().join("dist-rpm");
    if top.exists() {
        fs::remove_dir_all(&top).context("cannot remove the earlier one")?;
    }
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    run(release
        .command("rpmbuild")
        .args(["-bb", "--quiet"])
        .args(define("_topdir", &top.display().to_string()))
        .args(define("version", release.version))
        .args(define("tree", &tree.display().to_string()))
        .args(define("use_source_date_epoch_as_buildtime", "1"))
        .args(define("clamp_mtime_to_source_date_epoch", "1"))
        .args(define("_buildhost", "reproducible"))
        .arg(workspace().join("packaging/xdp-lb.spec")))?;
    let made = top.join("RPMS").join(std::env::consts::ARCH);
    for entry in fs::read_dir(&made).context("rpmbuild made no package")?.flatten() {
        fs::copy(entry.path(), release.folder.join(entry.file_name())).context("cannot copy the package")?;
    }
    Ok(())
}
