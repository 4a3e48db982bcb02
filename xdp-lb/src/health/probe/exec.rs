//! The check by a program on this host, which must end with exit code 0.
//!
//! It runs without the daemon's privileges: as another user, without capabilities and unable to gain any (`no_new_privs`), with an
//! environment that only describes the check, and without the daemon's open files. All of its output is read, so that it never
//! blocks, and the beginning is kept. It is killed with its process group at the timeout; other processes of that group are killed
//! when it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::health::attempt::Attempt;
use crate::health::failure::Failure;

/// Maximum number of programs that run at a time. Others wait.
pub(super) const MAX_PROGRAMS: usize = 64;

/// How much of the output is kept, in bytes.
const MAX_OUTPUT: usize = 4096;

/// How much of it is reported, in characters.
const MAX_TOLD: usize = 200;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn probe(
    attempt: Attempt<'_>,
    command: &[String],
    user: &str,
    turns: &Semaphore,
) -> Result<(), Failure> {
    let Ok(_slot) = timeout_at(attempt.time.end, turns.acquire()).await else {
        return Err(Failure::here(format!(
            "{MAX_PROGRAMS} programs of other checks are running, and none ended in time"
        )));
    };
    let user = attempt.time.limit("no such user was found", identify(user.to_owned())).await??;
    let mut program = Program::start(attempt, command, user)?;
    let status = attempt.time.limit("the program did not end", program.end()).await??;
    if status.success() { Ok(()) } else { Err(Failure::Backend(told(status, &program.printed))) }
}

/// The user and group to run as. `None`: the daemon is not root, so the program runs as the daemon's user.
async fn identify(name: String) -> Result<Option<(u32, u32)>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    // The host may query a directory over the network.
    let shown = name.clone();
    match tokio::task::spawn_blocking(move || User::from_name(&name)).await {
        Ok(Ok(Some(user))) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        Ok(Ok(None)) => Err(Failure::here(format!("the check's user {shown} does not exist on this host"))),
        Ok(Err(errno)) => Err(io::Error::from(errno).into()),
        Err(error) => Err(Failure::Here(io::Error::other(error))),
    }
}

/// A running program and its output. Killed with its process group when dropped.
struct Program {
    child: Child,
    group: Pid,
    output: pipe::Receiver,
    printed: Vec<u8>,
}

impl Program {
    fn start(attempt: Attempt<'_>, words: &[String], user: Option<(u32, u32)>) -> Result<Self, Failure> {
        let [program, arguments @ ..] = words else {
            return Err(Failure::Backend("the check has no program".to_owned()));
        };
        let (output, input) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .process_group(0)
            .kill_on_drop(true)
            .env_clear()
            .env("PATH", PATH)
            .env("XDP_LB_SERVICE", attempt.service)
            .env("XDP_LB_ADDRESS", attempt.backend.ip().to_string())
            .env("XDP_LB_PORT", attempt.backend.port().to_string())
            .env("XDP_LB_TIMEOUT_MS", attempt.time.all.as_millis().to_string());
        if let Some(source) = attempt.source {
            command.env("XDP_LB_SOURCE", source.to_string());
        }
        if let Some((user, group)) = user {
            // std also drops root's supplementary groups.
            command.uid(user).gid(group);
        }
        // SAFETY: between fork and exec the closure only makes three system calls, and does not access its parent's memory.
        unsafe {
            command.pre_exec(drop_privileges);
        }
        let child = command.spawn().map_err(|error| refused(program, user.is_some(), &error))?;
        // The command's own descriptors would keep the pipe open.
        drop(command);
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let group = group.ok_or_else(|| Failure::Here(io::Error::other("a program without a process id")))?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        Ok(Self { child, group, output, printed: Vec::new() })
    }

    /// Waits for its end, and reads its output.
    async fn end(&mut self) -> Result<ExitStatus, Failure> {
        let mut buffer = [0; 1024];
        loop {
            tokio::select! {
                read = self.output.read(&mut buffer) => match read {
                    Ok(length @ 1..) => keep(&mut self.printed, &buffer[..length]),
                    // It has closed its output, but may still be running.
                    _ => return Ok(self.child.wait().await?),
                },
                ended = self.child.wait() => {
                    // Reads the rest of the pipe, bypassing tokio, which may not have been notified. Does not wait for later
                    // output of its children.
                    while self.printed.len() < MAX_OUTPUT
                        && let Ok(length @ 1..) = nix::unistd::read(&self.output, &mut buffer)
                    {
                        keep(&mut self.printed, &buffer[..length]);
                    }
                    return Ok(ended?);
                }
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // If the group is empty, this has no effect: the kernel reuses its number only after all others.
        match killpg(self.group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                tracing::warn!("health checks: cannot end a program: {}; CAP_KILL is missing", errno.desc());
            }
        }
    }
}

/// Drops everything that could give a program privileges: ambient capabilities, which a service manager may have given to the
/// daemon; set-user-ID bits; and files that the daemon inherited (its own are close-on-exec).
fn drop_privileges() -> io::Result<()> {
    // SAFETY: prctl(2) and close_range(2) with these arguments do not access memory, and the latter closes nothing yet.
    let results = unsafe {
        [
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).into(),
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(),
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC),
        ]
    };
    if results.contains(&-1) { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn keep(printed: &mut Vec<u8>, more: &[u8]) {
    printed.extend_from_slice(&more[..more.len().min(MAX_OUTPUT - printed.len())]);
}

/// The failure if it could not be started.
fn refused(program: &str, as_another: bool, error: &io::Error) -> Failure {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) if as_another => {
            "the daemon is not allowed to switch users; give it CAP_SETUID, CAP_SETGID and CAP_KILL"
                .to_owned()
        }
        Some(errno @ (Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)) => {
            return Failure::Here(errno.into());
        }
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    };
    Failure::here(format!("cannot run {program}: {why}"))
}

/// How it ended, and the first line of its output.
fn told(status: ExitStatus, printed: &[u8]) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    let text = String::from_utf8_lossy(printed);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect();
    if line.is_empty() { how } else { format!("{how}: {line}") }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::tests::{check, check_so};
    use super::*;
    use crate::model::{HealthCheck, Probe};

    fn backend() -> SocketAddr {
        "[2001:db8::7]:8080".parse().expect("an address")
    }

    fn exec(command: &[&str]) -> Probe {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Probe::Exec { command, user: "nobody".into() }
    }

    async fn shell(script: &str) -> Result<(), String> {
        check(backend(), exec(&["/bin/sh", "-c", script])).await
    }

    #[tokio::test]
    async fn the_exit_code_decides_and_the_first_line_says_why() {
        assert_eq!(shell("echo all is well; exit 0").await, Ok(()));
        assert_eq!(shell("exit 3").await, Err("exit code 3".into()));
        let failed = shell("echo; echo '  no \x1b[1mreplica ' >&2; echo more; exit 1").await;
        assert_eq!(failed, Err("exit code 1: no [1mreplica".into()));
        assert_eq!(shell("kill -9 $$").await, Err("killed by signal 9".into()));
        let long = shell("head -c 100000 /dev/zero | tr '\\0' x; exit 1").await;
        assert_eq!(long, Err(format!("exit code 1: {}", "x".repeat(MAX_TOLD))));
    }

    #[tokio::test]
    async fn the_environment_describes_the_check_and_nothing_else() {
        let script =
            "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort | tr '\\n' ' '; pwd; exit 1";
        let check = HealthCheck {
            port: Some(9000),
            source: "2001:db8::1".parse().ok(),
            ..HealthCheck::new(exec(&["/bin/sh", "-c", script]))
        };
        let expected = format!(
            "exit code 1: PATH={PATH} XDP_LB_ADDRESS=2001:db8::7 XDP_LB_PORT=9000 XDP_LB_SERVICE=web \
             XDP_LB_SOURCE=2001:db8::1 XDP_LB_TIMEOUT_MS=3000 /"
        );
        assert_eq!(check_so(backend(), check).await, Err(expected[..expected.len().min(213)].trim().into()));
    }

    #[tokio::test]
    async fn it_has_neither_the_daemons_user_nor_its_capabilities_nor_its_files() {
        let (_kept_open, _too) = io::pipe().expect("a pipe");
        let script = "id -u; grep -e CapPrm -e CapAmb -e NoNewPrivs /proc/self/status; ls /proc/self/fd";
        let words = shell(&format!("echo $({script}); exit 1")).await.expect_err("it fails");
        let user = if geteuid().is_root() { 65534 } else { geteuid().as_raw() };
        // Descriptor 3 is the folder that `ls` lists.
        assert_eq!(
            words,
            format!(
                "exit code 1: {user} CapPrm: 0000000000000000 CapAmb: 0000000000000000 NoNewPrivs: 1 0 1 2 3"
            )
        );
    }

    #[tokio::test]
    async fn at_the_timeout_it_is_killed_with_what_it_started() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .expect("open");
        let file = directory.path().join("alive");
        // Two shells in the program's group that keep writing: one in the background, one that it waits for.
        let write = format!("while :; do date +%N > {}; sleep 0.02; done", file.display());
        let began = std::time::Instant::now();
        let words = shell(&format!("({write}) & {write}")).await;
        assert_eq!(words, Err("the program did not end within 3s".into()));
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert_dead(&file).await;
        // A process that outlives its program.
        assert_eq!(shell(&format!("({write}) & sleep 0.1")).await, Ok(()));
        assert_dead(&file).await;
    }

    async fn assert_dead(file: &std::path::Path) {
        sleep(Duration::from_millis(100)).await;
        let before = std::fs::read(file).expect("it was alive");
        sleep(Duration::from_millis(200)).await;
        assert_eq!(std::fs::read(file).expect("it was alive"), before, "it writes on");
    }

    #[tokio::test]
    async fn late_or_endless_output_does_not_delay_the_check() {
        assert_eq!(shell("exec >&- 2>&-; sleep 0.05; exit 4").await, Err("exit code 4".into()));
        assert_eq!(
            shell("yes & sleep 0.05; exit 5").await.map_err(|words| words[..11].into()),
            Err("exit code 5".to_owned())
        );
        let endless = shell("yes").await;
        assert_eq!(endless, Err("the program did not end within 3s".into()));
    }

    #[tokio::test]
    async fn a_missing_program_or_user_is_reported() {
        let nothing = check(backend(), exec(&["/nonexistent/check"])).await;
        assert_eq!(
            nothing,
            Err("this host cannot check: cannot run /nonexistent/check: no such file or directory".into())
        );
        if geteuid().is_root() {
            let probe = Probe::Exec { command: vec!["/bin/true".into()], user: "no-such-user".into() };
            let words = "this host cannot check: the check's user no-such-user does not exist on this host";
            assert_eq!(check(backend(), probe).await, Err(words.into()));
        }
    }
}
