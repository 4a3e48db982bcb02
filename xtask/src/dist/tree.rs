//! What is installed on a host, where it lies there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xdp_lb_tests::paths::{target_dir, workspace};

use super::{Release, sbom};
use crate::say;
use crate::workspace::{cargo, run};

/// Where a file of the repository lies on a host.
const FILES: [(&str, &str); 8] = [
    ("packaging/config.toml", "etc/xdp-lb/config.toml"),
    ("README.md", "usr/share/doc/xdp-lb/README.md"),
    ("CHANGELOG.md", "usr/share/doc/xdp-lb/CHANGELOG.md"),
    ("SECURITY.md", "usr/share/doc/xdp-lb/SECURITY.md"),
    ("docs/openapi.json", "usr/share/doc/xdp-lb/openapi.json"),
    ("docs/metrics.json", "usr/share/doc/xdp-lb/metrics.json"),
    ("examples/xdp-lb.toml", "usr/share/doc/xdp-lb/examples/xdp-lb.toml"),
    ("LICENSE-MIT", "usr/share/doc/xdp-lb/LICENSE-MIT"),
];

/// Makes the folder with everything in it, and returns it.
pub fn make(release: &Release, program: &Path) -> Result<PathBuf> {
    say::step("Putting together what is installed");
    let tree = target_dir().join("dist-tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("cannot remove the earlier one")?;
    }
    for (from, to) in FILES {
        copy(&workspace().join(from), &tree.join(to))?;
    }
    let docs = tree.join("usr/share/doc/xdp-lb/docs");
    copy_pages(&workspace().join("docs"), &docs)?;
    let unit = fs::read_to_string(workspace().join("examples/xdp-lb.service")).context("there is no unit")?;
    let comment_ends = unit.find("\n\n").context("the unit has no comment on its top")?;
    let unit = unit[comment_ends + 2..].replace("/usr/local/sbin/", "/usr/sbin/");
    write(&tree.join("usr/lib/systemd/system/xdp-lb.service"), &unit)?;
    write(&tree.join("usr/share/doc/xdp-lb/xdp-lb.cdx.json"), &sbom::make(release)?)?;
    copy(program, &tree.join("usr/sbin/xdp-lb"))?;
    run(Command::new("strip").arg("--strip-all").arg(tree.join("usr/sbin/xdp-lb")))?;
    manual(&tree)?;
    fs::copy(tree.join("usr/share/doc/xdp-lb/xdp-lb.cdx.json"), release.folder.join("xdp-lb.cdx.json"))
        .context("cannot copy the list of components")?;
    fs::copy(workspace().join("docs/openapi.json"), release.folder.join("openapi.json"))
        .context("cannot copy the API's document")?;
    settle(&tree)?;
    Ok(tree)
}

/// The tree as an archive in the release.
pub fn archive(release: &Release, tree: &Path) -> Result<()> {
    let name = format!("xdp-lb-{}-{}.tar.gz", release.version, std::env::consts::ARCH);
    let time = format!("--mtime=@{}", release.epoch);
    let mut tar = release.command("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip --no-name",
    ])
    .arg(time)
    .arg("--create")
    .arg("--file")
    .arg(release.folder.join(name))
    .arg("--directory")
    .arg(tree)
    .arg(".");
    run(&mut tar)
}

/// The man pages and the completions.
fn manual(tree: &Path) -> Result<()> {
    let made = target_dir().join("manual");
    if made.exists() {
        fs::remove_dir_all(&made).context("cannot remove the earlier manual")?;
    }
    run(cargo().args(["run", "--quiet", "-p", "xdp-lb", "--example", "manual", "--"]).arg(&made))?;
    for page in entries(&made.join("man"))? {
        let section =
            page.extension().and_then(|it| it.to_str()).context("a page has no section")?.to_owned();
        let place = tree.join(format!("usr/share/man/man{section}"));
        copy(&page, &place.join(page.file_name().expect("it is a file")))?;
        run(Command::new("gzip")
            .args(["-9", "--no-name"])
            .arg(place.join(page.file_name().expect("it is a file"))))?;
    }
    for (made_as, place) in [
        ("xdp-lb.bash", "usr/share/bash-completion/completions/xdp-lb"),
        ("_xdp-lb", "usr/share/zsh/vendor-completions/_xdp-lb"),
        ("xdp-lb.fish", "usr/share/fish/vendor_completions.d/xdp-lb.fish"),
    ] {
        copy(&made.join("completions").join(made_as), &tree.join(place))?;
    }
    Ok(())
}

/// Copies the pages and pictures of a folder, and of those below it.
fn copy_pages(from: &Path, to: &Path) -> Result<()> {
    for entry in entries(from)? {
        let place = to.join(entry.file_name().expect("it has a name"));
        if entry.is_dir() {
            copy_pages(&entry, &place)?;
        } else if entry.extension().is_some_and(|it| it == "md" || it == "svg") {
            copy(&entry, &place)?;
        }
    }
    Ok(())
}

/// Sets the modes that do not depend on who builds.
fn settle(folder: &Path) -> Result<()> {
    for entry in entries(folder)? {
        let is_program = entry.ends_with("usr/sbin/xdp-lb");
        let mode = if entry.is_dir() || is_program { 0o755 } else { 0o644 };
        fs::set_permissions(&entry, fs::Permissions::from_mode(mode)).context("cannot set a mode")?;
        if entry.is_dir() {
            settle(&entry)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().expect("it lies in a folder")).context("cannot make a folder")?;
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(to.parent().expect("it lies in a folder")).context("cannot make a folder")?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}
