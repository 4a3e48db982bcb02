//! `cargo xtask test --packages`: the packages on a clean Debian with systemd.
//!
//! mmdebstrap makes the system from the package lists of this host, qemu boots it, and `packaging/test/machine.sh` runs there.
//! It is the host of a load balancer, with clients and backends in network namespaces of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use xdp_lb_tests::guide::{self, Place, Step};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{program, target_dir, workspace};

use crate::emulator::{self, Machine};
use crate::workspace::run;
use crate::{dist, packages, say};

/// What the system has besides the essential packages.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,iproute2,ethtool,curl,procps,nginx-light,runc";

/// What qemu needs, beside the emulator itself.
const PROGRAMS: [(&str, &str); 3] =
    [emulator::PROGRAM, ("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")];

/// The last word of `machine.sh`.
const PASSED: &str = "ALL PASSED";

/// Makes the machine, and boots it.
pub fn run_all() -> Result<ExitCode> {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(name, _)| program(name).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        packages::install(&missing, "a clean Debian is made and booted with them")?;
    }
    let folder = target_dir().join("debian");
    fs::create_dir_all(&folder).context("cannot make a folder")?;
    let base = base(&folder)?;
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot remove the earlier system")?;
    }
    run(Command::new("cp").args(["-a", "--reflink=auto"]).args([&base, &root]))?;
    furnish(&root)?;
    let disk = folder.join("disk");
    let _ = fs::remove_file(&disk);
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).args([&root, &disk]).arg("3G"))?;
    say::step("Booting it, emulated: some minutes");
    let drive = format!("file={},format=raw,if=virtio", disk.display());
    let machine = Machine {
        kernel: &base.join("vmlinuz"),
        initrd: &base.join("initrd.img"),
        append: "root=/dev/vda rw systemd.show_status=0",
        arguments: &["-m", "3072", "-smp", "2", "-drive", &drive],
        patience: 1800,
    };
    let mut passed = false;
    machine.run(|line| {
        println!("{line}");
        passed |= line.ends_with(PASSED);
    })?;
    fs::remove_file(&disk).context("cannot remove the disk")?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The system as Debian has it, made once.
fn base(folder: &Path) -> Result<PathBuf> {
    let base = folder.join("base");
    if !base.join("initrd.img").exists() {
        say::step("Making a clean Debian 12");
        let _ = fs::remove_dir_all(&base);
        run(Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--include", PACKAGES, "bookworm"])
            .arg(&base))?;
    }
    Ok(base)
}

/// Puts the test, the packages, the guide's first page and the image into the system.
fn furnish(root: &Path) -> Result<()> {
    let home = root.join("root");
    let package = package()?;
    copy(&package, &home)?;
    fs::create_dir(home.join("next")).context("cannot make a folder")?;
    next(&package, &home.join("next"))?;
    let guide = home.join("guide");
    fs::create_dir(&guide).context("cannot make a folder")?;
    for (number, block) in guide::blocks("first-hour")?.iter().enumerate() {
        let what = match &block.step {
            _ if block.text.contains("apt-get remove") => "remove.sh",
            Step::Run(Place::Lb | Place::Debian) => "lb.sh",
            Step::Run(Place::Client) => "client.sh",
            Step::Write { .. } => "config.toml",
            Step::Run(Place::Backends) | Step::Start => bail!("the first page needs nothing on backends"),
        };
        fs::write(guide.join(format!("{number:02}.{what}")), &block.text).context("cannot write a block")?;
    }
    bundle(&home.join("image"))?;
    copy(&workspace().join("packaging/test/machine.sh"), &home)?;
    let units = root.join("etc/systemd/system");
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/bash /root/machine.sh\nExecStopPost=systemctl poweroff --force\n\
                StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n";
    fs::write(units.join("machine.service"), unit).context("cannot write a unit")?;
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted).context("cannot make a folder")?;
    symlink("/etc/systemd/system/machine.service", wanted.join("machine.service"))
        .context("cannot enable a unit")?;
    // The backends run their own.
    let _ = fs::remove_file(wanted.join("nginx.service"));
    Ok(())
}

/// The package, as `cargo xtask dist` made it.
fn package() -> Result<PathBuf> {
    made(|name| name.starts_with("xdp-lb_") && name.ends_with(".deb"))
}

fn made(is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let folder = dist::folder();
    let files = fs::read_dir(&folder)
        .with_context(|| format!("run `cargo xtask dist` first: there is no {}", folder.display()))?;
    let mut paths = files.flatten().map(|entry| entry.path());
    let found = paths.find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_it));
    found.with_context(|| {
        format!("run `cargo xtask dist` first: something is missing in {}", folder.display())
    })
}

/// The same package as a later version.
fn next(package: &Path, folder: &Path) -> Result<()> {
    let unpacked = target_dir().join("debian/next");
    let _ = fs::remove_dir_all(&unpacked);
    run(Command::new("dpkg-deb").arg("-R").args([package, &unpacked]))?;
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).context("the package has no control file")?;
    let text: String = text
        .lines()
        .map(
            |line| if line.starts_with("Version: ") { format!("{line}+next\n") } else { format!("{line}\n") },
        )
        .collect();
    fs::write(&control, text).context("cannot write the control file")?;
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zgzip", "-z1", "-b"])
        .arg(&unpacked)
        .arg(folder.join("xdp-lb_next.deb")))
}

/// The image as runc takes it: its file system, and the capabilities that the guide gives it.
fn bundle(folder: &Path) -> Result<()> {
    let archive = made(|name| name.ends_with(".oci.tar"))?;
    let member = |name: &str| -> Result<Value> {
        let text = output(Command::new("tar").arg("-xOf").arg(&archive).arg(name))?;
        serde_json::from_str(&text).with_context(|| format!("{name} is not JSON"))
    };
    let blob = |descriptor: &Value| -> Result<String> {
        let digest = descriptor["digest"].as_str().context("a part of the image has no digest")?;
        Ok(format!("blobs/{}", digest.replace(':', "/")))
    };
    let manifest = member(&blob(&member("index.json")?["manifests"][0])?)?;
    let config = member(&blob(&manifest["config"])?)?;
    let root = folder.join("rootfs");
    for folder in ["etc/xdp-lb", "proc", "sys/fs/bpf", "run/xdp-lb", "var/lib/xdp-lb", "dev"] {
        fs::create_dir_all(root.join(folder)).context("cannot make a folder")?;
    }
    for layer in manifest["layers"].as_array().context("the image has no layers")? {
        run(Command::new("sh")
            .args([
                "-ec",
                "tar -xOf \"$1\" \"$2\" >\"$3.layer\"; tar -xf \"$3.layer\" -C \"$3\"; rm \"$3.layer\"",
                "sh",
            ])
            .arg(&archive)
            .arg(blob(layer)?)
            .arg(&root))?;
    }
    let words = |key: &str| config["config"][key].as_array().cloned().unwrap_or_default();
    let arguments = [words("Entrypoint"), words("Cmd")].concat();
    let capabilities = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_CHOWN"];
    let bind = |path: &str| json!({"destination": path, "source": path, "options": ["bind", "rw"]});
    let bundle = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "args": arguments, "cwd": "/", "noNewPrivileges": true, "env": ["PATH=/usr/sbin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            bind("/sys/fs/bpf"), bind("/etc/xdp-lb"), bind("/run/xdp-lb"), bind("/var/lib/xdp-lb"),
        ],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    });
    fs::write(folder.join("config.json"), bundle.to_string()).context("cannot write the bundle")
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().expect("it is a file");
    fs::copy(file, folder.join(name)).map(drop).with_context(|| format!("cannot copy {}", file.display()))
}
