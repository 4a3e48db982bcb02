//! Loads programs through the kernel's verifier.

use std::io::ErrorKind;

use aya::programs::ProgramError;

/// How often to try: each signal costs the time since the previous one.
const TRIES: usize = 50;

/// Loads a program with `load`, again if a signal interrupted the verifier, which then fails with EAGAIN (`signal_pending` in
/// kernel/bpf/verifier.c). The end of a child is enough, such as a check's program.
///
/// # Errors
/// If the kernel refuses it.
pub fn load(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let is_interruption = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.kind() == ErrorKind::WouldBlock,
        _ => false,
    };
    uninterrupted(load, is_interruption)
}

fn uninterrupted<E>(
    mut load: impl FnMut() -> Result<(), E>,
    is_interruption: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..TRIES {
        match load() {
            Err(error) if is_interruption(&error) => {}
            ended => return ended,
        }
    }
    load()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_does_not_keep_a_program_from_being_loaded_and_all_else_does() {
        let tries = |answers: &[Result<(), &'static str>]| {
            let mut left = answers.iter().cycle();
            let mut count = 0;
            let load = || {
                count += 1;
                *left.next().unwrap()
            };
            (uninterrupted(load, |error| *error == "signal"), count)
        };
        assert_eq!(tries(&[Err("signal"), Err("signal"), Ok(())]), (Ok(()), 3));
        assert_eq!(tries(&[Err("refused"), Ok(())]), (Err("refused"), 1));
        assert_eq!(tries(&[Err("signal")]), (Err("signal"), TRIES));
    }
}
