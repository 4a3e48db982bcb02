//! Debian's package, by debhelper.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{target_dir, workspace};

use super::Release;
use crate::say;
use crate::workspace::run;

/// Makes the package and that of its debug symbols, and has lintian look at them.
pub fn make(release: &Release, tree: &Path, program: &Path) -> Result<()> {
    say::step("Making the Debian package");
    let folder = target_dir().join("dist-deb");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove the earlier one")?;
    }
    let source = folder.join(format!("xdp-lb-{}", release.version));
    fs::create_dir_all(&source).context("cannot make a folder")?;
    run(release.command("cp").arg("-a").arg(tree).arg(source.join("tree")))?;
    run(release.command("cp").arg("-a").arg(workspace().join("packaging/debian")).arg(&source))?;
    // debhelper takes the symbols out, installs the unit, and compresses.
    fs::copy(program, source.join("tree/usr/sbin/xdp-lb")).context("cannot copy the program")?;
    let unit = source.join("tree/usr/lib/systemd/system/xdp-lb.service");
    fs::rename(&unit, source.join("debian/xdp-lb.service")).context("cannot move the unit")?;
    for folder in ["tree/usr/lib/systemd/system", "tree/usr/lib/systemd", "tree/usr/lib"] {
        fs::remove_dir(source.join(folder)).context("cannot remove a folder")?;
    }
    // Their licence is in debian/copyright.
    fs::remove_file(source.join("tree/usr/share/doc/xdp-lb/LICENSE-MIT")).context("cannot remove a file")?;
    let doc = source.join("tree/usr/share/doc/xdp-lb");
    fs::rename(doc.join("CHANGELOG.md"), doc.join("changelog")).context("cannot move the changelog")?;
    fs::write(source.join("debian/changelog"), changelog(release)?).context("cannot write the changelog")?;
    run(release
        .command("dpkg-buildpackage")
        .args(["--build=binary", "--no-sign", "--no-check-builddeps", "--no-pre-clean"])
        .current_dir(&source))?;
    for entry in fs::read_dir(&folder).context("cannot list what was made")?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(".deb") {
            fs::copy(entry.path(), release.folder.join(&name)).context("cannot copy a package")?;
            say::note(format_args!("{}: lintian", name.to_string_lossy()));
            run(release.command("lintian").args(["--fail-on", "error"]).arg(entry.path()))?;
        }
    }
    Ok(())
}

/// Debian's changelog: this version, at the time of the commit.
fn changelog(release: &Release) -> Result<String> {
    let version = release.version;
    let date = output(
        release.command("date").args(["--utc", "--rfc-email", "--date"]).arg(format!("@{}", release.epoch)),
    )?;
    let maintainer = maintainer()?;
    Ok(format!(
        "xdp-lb ({version}) unstable; urgency=medium\n\n  * This version; /usr/share/doc/xdp-lb/changelog.gz has its changes.\n\n \
         -- {maintainer}  {date}"
    ))
}

fn maintainer() -> Result<String> {
    let control = fs::read_to_string(workspace().join("packaging/debian/control"))
        .context("there is no control file")?;
    let line = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    line.map(str::to_owned).context("the control file names no maintainer")
}
