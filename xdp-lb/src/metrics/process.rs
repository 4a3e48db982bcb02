//! What Prometheus' client libraries report of the process that serves them, by the same names.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::families::Families;

/// This process, as the kernel sees it (proc(5)).
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    open_files: u64,
    most_files: u64,
    threads: u64,
}

impl Process {
    /// Reads /proc/self; what cannot be read is 0.
    pub(super) fn read() -> Self {
        let number = |variable| sysconf(variable).ok().flatten().and_then(|it| u64::try_from(it).ok());
        let ticks = number(SysconfVar::CLK_TCK).unwrap_or(100) as f64;
        let page = number(SysconfVar::PAGE_SIZE).unwrap_or(4096);
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the name in parentheses, which may contain anything; the rest begins with the third.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let field = |number: usize| -> u64 {
            rest.split(' ').nth(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        Self {
            cpu_seconds: (field(14) + field(15)) as f64 / ticks,
            virtual_bytes: field(23),
            resident_bytes: field(24) * page,
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            most_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            threads: field(20),
        }
    }

    pub(super) fn encode(&self, families: &mut Families<'_>, start_time: u64) -> fmt::Result {
        families.single_counter(
            "cpu_seconds",
            "User and system time that the process has taken, in seconds",
            self.cpu_seconds,
        )?;
        families.single_gauge("virtual_memory_bytes", "Virtual memory, in bytes", self.virtual_bytes)?;
        families.single_gauge("resident_memory_bytes", "Resident memory, in bytes", self.resident_bytes)?;
        families.single_gauge("open_fds", "Open file descriptors", self.open_files)?;
        families.single_gauge("max_fds", "Maximum number of open file descriptors", self.most_files)?;
        families.single_gauge("threads", "Threads of the process", self.threads)?;
        families.single_gauge(
            "start_time_seconds",
            "Start time of the process, in seconds of Unix time",
            start_time,
        )
    }
}

/// One family of it, by its number from 0; nothing where there are not as many.
#[derive(Debug)]
pub(super) struct OfProcess {
    pub(super) process: std::sync::Arc<Process>,
    pub(super) start_time: u64,
    pub(super) number: usize,
}

impl Collector for OfProcess {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.process.encode(&mut Families::new(encoder, self.number), self.start_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_files_and_threads() {
        let began = std::time::Instant::now();
        while Process::read().cpu_seconds == 0.0 {
            assert!(began.elapsed().as_secs() < 60, "it takes no time of the processor");
        }
        let process = Process::read();
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_files >= 3 && process.most_files >= process.open_files && process.threads >= 1);
    }
}
