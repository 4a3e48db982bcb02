//! Messages over a Unix socket, each with a file descriptor or without (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends a message, which has to fit into the socket's buffer.
///
/// # Errors
/// Where nobody is at the other end any more, or the kernel refuses.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let raw = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
    let parts = [IoSlice::new(message)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, rights.as_slice(), MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives a message of this many bytes at the most; an empty one where nobody is at the other end any more.
///
/// # Errors
/// Where the kernel refuses.
pub fn receive(socket: BorrowedFd<'_>, most: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut message = vec![0; most];
    let mut space = cmsg_space!([RawFd; 1]);
    loop {
        let mut parts = [IoSliceMut::new(&mut message)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok((Vec::new(), None)),
            Err(error) => return Err(error.into()),
            Ok(received) => {
                let rights = received.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
                    _ => None,
                });
                // SAFETY: the kernel has just made it, for this process, which has no other owner of it.
                let descriptor = rights.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
                let length = received.bytes;
                message.truncate(length);
                return Ok((message, descriptor));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_message_comes_with_its_descriptor_and_the_end_as_an_empty_one() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (mut reader, writer) = UnixStream::pair().expect("sockets");
        send(ours.as_fd(), b"with", Some(writer.as_fd())).expect("it is sent");
        drop(writer);
        let (message, descriptor) = receive(theirs.as_fd(), 100).expect("a message");
        assert_eq!(message, b"with");
        File::from(descriptor.expect("a descriptor")).write_all(b"through it").expect("it is open");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("what was written");
        assert_eq!(text, "through it");

        send(ours.as_fd(), b"without", None).expect("it is sent");
        let (message, descriptor) = receive(theirs.as_fd(), 100).expect("a message");
        assert_eq!((message.as_slice(), descriptor.is_none()), (b"without".as_slice(), true));
        drop(ours);
        assert!(receive(theirs.as_fd(), 100).expect("the end").0.is_empty());
        assert_eq!(
            send(theirs.as_fd(), b"?", None).map_err(|error| error.kind()),
            Err(io::ErrorKind::BrokenPipe)
        );
    }
}
