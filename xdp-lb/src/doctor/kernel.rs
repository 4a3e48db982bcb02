//! The kernel and what it must have.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::utsname::uname;

use super::Finding;

/// The oldest kernel: see docs/configuration.md.
const OLDEST: (u32, u32) = (5, 15);

pub(super) fn examine() -> Vec<Finding> {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    look(&release, Path::new("/sys/kernel/btf/vmlinux").exists(), jit.as_deref().map(str::trim))
}

fn look(release: &str, has_btf: bool, jit: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if version(release).is_some_and(|version| version < OLDEST) {
        findings.push(Finding::new(
            "kernel",
            format!("the kernel is {release}, and the datapath needs {}.{}", OLDEST.0, OLDEST.1),
            "install a later kernel",
        ));
    }
    if !has_btf {
        findings.push(Finding::new(
            "kernel",
            "the kernel has no BTF type information (/sys/kernel/btf/vmlinux), which the BPF tables need",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y, such as your distribution's",
        ));
    }
    if jit == Some("0") {
        findings.push(Finding::new(
            "kernel",
            "the BPF JIT compiler is off, so programs are interpreted and each packet is several times as expensive",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether the pins can lie where the config wants them.
pub(super) fn pins(pin_path: &Path) -> Option<Finding> {
    let present = pin_path.ancestors().find(|path| path.exists())?;
    let is_bpffs = statfs(present).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    (!is_bpffs).then(|| {
        let mount = if pin_path.starts_with("/sys/fs/bpf") { Path::new("/sys/fs/bpf") } else { pin_path };
        Finding::new(
            "pins",
            format!("pin_path {} is not on a BPF file system, so nothing can be pinned", pin_path.display()),
            format!("mount -t bpf bpf {}", mount.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_one_without_types_and_one_that_interprets_are_found() {
        assert_eq!(look("6.1.0-18-amd64", true, Some("1")), []);
        assert_eq!(look("5.15.0", true, None), []);
        assert!(look("5.10.0-28-amd64", true, Some("1"))[0].what.contains("needs 5.15"));
        assert!(look("6.12.1", false, Some("1"))[0].fix.contains("CONFIG_DEBUG_INFO_BTF"));
        assert_eq!(look("6.12.1", true, Some("0"))[0].fix, "sysctl -w net.core.bpf_jit_enable=1");
    }

    #[test]
    fn a_pin_path_elsewhere_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let found = pins(&directory.path().join("xdp-lb")).unwrap();
        assert!(found.fix.starts_with("mount -t bpf bpf "), "{found:?}");
    }
}
