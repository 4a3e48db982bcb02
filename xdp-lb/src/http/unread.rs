//! How much of what was sent the other end has not taken yet.

use std::os::fd::{AsRawFd, RawFd};

/// The outgoing bytes of a connection's socket.
#[derive(Clone, Copy, Debug)]
pub struct Unread(RawFd);

impl Unread {
    /// Those of this socket.
    pub(super) fn of(socket: &impl AsRawFd) -> Self {
        Self(socket.as_raw_fd())
    }

    /// How many bytes the kernel still holds: of a Unix socket those that the other end has not read (with some overhead of
    /// the kernel's), of TCP those that it has not acknowledged (`SIOCOUTQ`, tcp(7) and unix(7)). 0 if the kernel does not tell.
    /// To be asked by what serves the connection alone: afterwards the number may be another file's.
    pub fn bytes(self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the kernel writes one int, which `bytes` is; any other file answers with an error, or with a number.
        let done = unsafe { libc::ioctl(self.0, libc::TIOCOUTQ, &raw mut bytes) };
        if done == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_are_unread_until_the_other_end_reads_them() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let unread = Unread::of(&here);
        assert_eq!(unread.bytes(), 0);
        here.write_all(b"hello").unwrap();
        assert!(unread.bytes() > 0);
        there.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(unread.bytes(), 0);
    }
}
