//! Ctrl-C, and the other signals that ask a process to end.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What a shell shows for a process that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static CHILD: AtomicI32 = AtomicI32::new(0);
/// A descriptor that the first signal closes instead; none is negative.
static FIRST: AtomicI32 = AtomicI32::new(-1);

/// While it lives, these signals end the child that [`kill_also`] names, and this process goes on, to put things
/// back. Programs that it starts have the signals' default effect.
pub struct Outlive(());

impl Drop for Outlive {
    fn drop(&mut self) {
        // It worked before, so it does now.
        let _ = handle(SigHandler::SigDfl);
    }
}

/// Begins to outlive the signals.
pub fn outlive() -> Result<Outlive> {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::SeqCst);
        let first = FIRST.swap(-1, Ordering::SeqCst);
        if first >= 0 {
            // SAFETY: close is async-signal-safe, and whoever named the descriptor gave it away.
            unsafe { libc::close(first) };
            return;
        }
        let child = CHILD.load(Ordering::SeqCst);
        if child > 0 {
            // SAFETY: kill is async-signal-safe (POSIX.1-2017, 2.4.3) and takes no pointer.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    }
    handle(SigHandler::Handler(note))?;
    Ok(Outlive(()))
}

/// From now on these signals end this process at once: the first process of a PID namespace otherwise ignores them.
pub fn exit_at_once() -> Result<()> {
    extern "C" fn exit(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(libc::c_int::from(EXIT_CODE)) }
    }
    handle(SigHandler::Handler(exit))
}

/// Names the process that is killed when a signal comes.
pub fn kill_also(child: i32) {
    CHILD.store(child, Ordering::SeqCst);
}

/// Gives away a descriptor for the first signal to close, so that who reads the other end can end by itself. Only the next
/// one kills.
pub fn close_first(descriptor: OwnedFd) {
    FIRST.store(descriptor.into_raw_fd(), Ordering::SeqCst);
}

/// Whether a signal has come.
pub fn came() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn handle(handler: SigHandler) -> Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: both handlers only make async-signal-safe calls and touch atomics.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    Ok(())
}
