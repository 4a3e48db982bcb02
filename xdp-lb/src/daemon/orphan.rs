//! Starts a program that is not a child of this process.
//!
//! The service manager adopts orphans, and supervises them as if it had started them: it learns when and how they end. It does
//! not learn that of another process's child ("Supervising process N which is not our child. We'll most likely not notice when it
//! exits": systemd 252). So it would not restart a daemon that an upgrade had started, and would kill it at once to stop it.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;
use std::{iter, ptr};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a killed process may take to end: it may be in a system call that must end first.
const TO_DIE: Duration = Duration::from_secs(10);

/// A process that this one has started and that is not its child.
#[derive(Debug)]
pub(crate) struct Orphan {
    id: Pid,
    /// It identifies the process even after its id has been reused (`pidfd_open(2)`, Linux 5.3).
    process: OwnedFd,
}

impl Orphan {
    /// Starts a program, named by its path, with the command's arguments and streams.
    ///
    /// # Errors
    /// If it cannot be executed, or has ended at once.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let (theirs, ours) = io::pipe().context("cannot create a pipe")?;
        let place = ours.as_raw_fd();
        let words = Words::of(&command)?;
        // SAFETY: the code between fork and exec only makes system calls. The pipe is open as long as the command, which is dropped
        // before `ours`.
        unsafe {
            command.pre_exec(move || {
                fork_again(place)?;
                Err(words.execute())
            });
        }
        let mut between = command.spawn().context("cannot start it")?;
        drop(command);
        drop(ours);
        between.wait().context("cannot wait for the process that started it")?;
        let mut id = [0; 4];
        File::from(OwnedFd::from(theirs)).read_exact(&mut id).context("cannot get its process ID")?;
        let id = Pid::from_raw(i32::from_ne_bytes(id)).context("cannot get its process ID")?;
        let process = pidfd_open(id, PidfdFlags::empty()).context("it exited at once")?;
        Ok(Self { id, process })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.id.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends it SIGTERM, if it still runs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM).context("cannot send it SIGTERM")
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        match pidfd_send_signal(&self.process, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Kills it, if it still runs, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) fn end(&self) -> Result<()> {
        self.signal(Signal::KILL).context("cannot kill it")?;
        let mut gone = [PollFd::new(&self.process, PollFlags::IN)];
        let patience = Timespec::try_from(TO_DIE).expect("a few seconds");
        let ended = poll(&mut gone, Some(&patience)).context("cannot wait for it to exit")?;
        ensure!(ended == 1, "it did not exit within {TO_DIE:?}");
        Ok(())
    }
}

/// A program's path and arguments, as execv(3) takes them.
struct Words {
    /// The strings that the pointers refer to.
    _words: Vec<CString>,
    /// The last one is null.
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers refer to the strings beside them, which nobody changes.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn of(command: &Command) -> Result<Self> {
        let words = iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<_, _>>()
            .context("a zero in a word")?;
        let pointers = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { _words: words, pointers })
    }

    /// Executes the program, and returns only if that fails. Not by execvp(3), as the command itself would: that passes a file that
    /// is not a program to a shell.
    fn execute(&self) -> io::Error {
        // SAFETY: the strings end with a zero byte, and a null pointer follows the last one.
        unsafe { libc::execv(self.pointers[0], self.pointers.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Forks; the child goes on, and the parent writes the child's id and ends.
fn fork_again(pipe: i32) -> io::Result<()> {
    // SAFETY: this process has just been forked, so it has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        child => {
            let id = child.to_ne_bytes();
            // SAFETY: the bytes are valid, and so few that a pipe takes them at once. If the write fails, the reader finds none. Then
            // the process ends without running its parent's exit handlers.
            unsafe {
                libc::write(pipe, id.as_ptr().cast(), id.len());
                libc::_exit(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::Stdio;
    use std::thread::sleep;

    use super::*;

    /// The state of a process (proc_pid_stat(5)) and its parent's id. `None` if it is gone.
    fn state(id: u32) -> Option<(String, u32)> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        Some((fields.next()?.into(), fields.next()?.parse().ok()?))
    }

    #[test]
    fn an_orphan_is_not_this_process_s_child_and_ends_when_it_is_told() {
        let mut command = Command::new("/bin/sleep");
        command.arg("60");
        let orphan = Orphan::start(command).unwrap();
        let (_, parent) = state(orphan.id()).unwrap();
        assert_ne!(parent, std::process::id());
        orphan.end().unwrap();
        // The process that adopted it may not have waited for it yet.
        assert!(state(orphan.id()).is_none_or(|(state, _)| state == "Z" || state == "X"));
        // It may be called more than once.
        orphan.end().unwrap();
    }

    #[test]
    fn what_it_is_given_is_its_own_and_gone_with_it() {
        let (mut output, input) = io::pipe().unwrap();
        let mut command = Command::new("/bin/echo");
        command.arg("here").stdout(Stdio::from(OwnedFd::from(input)));
        let orphan = Orphan::start(command);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here\n");
        if let Ok(orphan) = orphan {
            orphan.end().unwrap();
        }
    }

    #[test]
    fn what_cannot_be_executed_is_an_error_and_leaves_no_child() {
        let text = tempfile::NamedTempFile::new().unwrap();
        fs::write(text.path(), "exit 0").unwrap();
        fs::set_permissions(text.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let text = text.into_temp_path();
        for (program, why) in
            [(Path::new("/nonexistent/program"), "No such file"), (&text, "Exec format error")]
        {
            let error = Orphan::start(Command::new(program)).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        sleep(Duration::from_millis(10));
        let own = std::process::id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        assert!(
            !children
                .split(' ')
                .filter_map(|id| id.parse().ok())
                .any(|id| state(id).is_some_and(|it| it.0 == "Z"))
        );
    }
}
