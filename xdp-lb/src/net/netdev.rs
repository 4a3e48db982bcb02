//! The XDP features of an interface's driver, read over generic netlink (family `netdev`, Linux 6.3;
//! Documentation/netlink/specs/netdev.yaml).

use std::io;
use std::os::fd::AsFd as _;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike as _};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

/// A driver's XDP features (`enum netdev_xdp_act`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features(u64);

impl Features {
    /// Whether it runs XDP programs with all the basic verdicts (`NETDEV_XDP_ACT_BASIC`).
    pub const fn runs_programs(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it transmits frames that are redirected to it (`NETDEV_XDP_ACT_NDO_XMIT`). If so, it may still want more, such as a
    /// program of its own.
    pub const fn transmits_redirected(self) -> bool {
        self.0 & 1 << 2 != 0
    }
}

/// The kernel answers within microseconds. Only a lost answer takes this long, in seconds.
const PATIENCE: i64 = 1;

// linux/netlink.h, linux/genetlink.h, linux/netdev.h.
const HEADERS: usize = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// A socket for requests about interfaces of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netdev {
    socket: Socket,
    family: u16,
}

impl Netdev {
    /// Looks up the family's number. `None` if the kernel does not have it.
    ///
    /// # Errors
    /// If there is no socket, or no answer.
    pub fn open() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        socket.bind_auto()?;
        let request = message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        match ask(&socket, &request) {
            Ok(answer) => {
                let family = attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|it| it.try_into().ok());
                let family = u16::from_ne_bytes(family.ok_or_else(not_understood)?);
                Ok(Some(Self { socket, family }))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The features of an interface's driver.
    ///
    /// # Errors
    /// If the interface does not exist, or the kernel does not answer.
    pub fn features(&self, ifindex: u32) -> io::Result<Features> {
        let request = message(self.family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
        let answer = ask(&self.socket, &request)?;
        let features = attribute(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|it| it.try_into().ok());
        Ok(Features(u64::from_ne_bytes(features.ok_or_else(not_understood)?)))
    }
}

/// A request with one attribute.
fn message(family: u16, command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    let attribute_length = 4 + value.len();
    let length = HEADERS + attribute_length.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((attribute_length as u16).to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    message
}

/// The answer to a request, one message.
fn ask(socket: &Socket, request: &[u8]) -> io::Result<Vec<u8>> {
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(NLMSG_ERROR) {
        let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(answer)
}

/// The value of the first attribute of this kind.
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = answer.get(HEADERS..)?;
    loop {
        let half = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn not_understood() -> io::Error {
    io::Error::other("unexpected response from the kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_and_a_cut_answer_is_not_read_beyond_its_end() {
        let mut answer = vec![0; HEADERS];
        for (kind, value) in [(1u16, &[7u8, 0, 0, 0][..]), (2, &[]), (3, &[5, 0, 0, 0, 0, 0, 0, 0])] {
            answer.extend((4 + value.len() as u16).to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(value);
        }
        assert_eq!(attribute(&answer, 3), Some(&[5, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(attribute(&answer, 9), None);
        for length in 0..answer.len() {
            assert_eq!(attribute(&answer[..length], 3), None);
        }
        // An attribute shorter than its own header ends the list.
        assert_eq!(attribute(&[vec![0; HEADERS], vec![0; 8]].concat(), 9), None);
    }

    #[test]
    fn the_kernel_tells_of_lo_and_not_of_an_interface_that_is_not_there() {
        let Some(netdev) = Netdev::open().unwrap() else { return };
        let features = netdev.features(1).unwrap();
        assert!(!features.runs_programs() && !features.transmits_redirected(), "lo has no XDP in its driver");
        assert!(netdev.features(u32::MAX >> 1).is_err());
    }
}
