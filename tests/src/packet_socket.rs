//! Whole frames, as a device takes and gives them (packet(7)).

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::client::set_option;

/// A VLAN tag: its EtherType and its control field (priority and VLAN id).
pub type Tag = (u16, u16);

/// How long to wait for a frame, so that whoever does can look whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Room for a frame of the usual MTU with two tags.
const LONGEST: usize = 2048;

/// linux/if_packet.h (4.20).
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// A socket for the frames of one device.
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens one for a device of the caller's namespace.
    pub fn open(device: &str) -> Result<Self> {
        let index = if_nametoindex(device).context("the device does not exist")?;
        // Bound to every protocol at once: nothing is lost or doubled between the two calls, since 0 is none.
        // SAFETY: the call takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error()).context("cannot make a packet socket");
        }
        // SAFETY: the kernel has just given this descriptor to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let timeout = libc::timeval { tv_sec: 0, tv_usec: PATIENCE.as_micros() as libc::suseconds_t };
        // SAFETY: a timeval is two integers without padding.
        let timeout = unsafe { mem::transmute::<libc::timeval, [u8; size_of::<libc::timeval>()]>(timeout) };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout).context("cannot set a timeout")?;
        for option in [libc::PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
            set_option(&socket, libc::SOL_PACKET, option, &1_i32.to_ne_bytes())
                .context("cannot set a packet socket's option")?;
        }
        let size = 4_000_000_i32.to_ne_bytes();
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)
            .context("cannot widen the buffer")?;
        // SAFETY: all zeros are a value of this C type.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: the address is of the length that is said.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error()).context("cannot bind a packet socket");
        }
        Ok(Self { socket })
    }

    /// The next frame, with the outermost tag, which the kernel takes out and tells apart, put back in.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; LONGEST];
        let mut control = [0_u64; 16];
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: all zeros are a value of this C type.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message's parts are of the lengths that it says, and outlive the call.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        if length > frame.len() {
            return Err(io::Error::other(format!(
                "a frame of {length} bytes: does the device merge packets?"
            )));
        }
        frame.truncate(length);
        // SAFETY: the kernel has filled in the message, and its control part is still there.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: null, or a whole header within the control part.
        if let Some(header) = unsafe { header.as_ref() }
            && (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        {
            // SAFETY: what this kind of control message holds, at the address that the header is at.
            let told = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if told.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                frame.splice(12..12, tag_bytes((told.tp_vlan_tpid, told.tp_vlan_tci)));
            }
        }
        Ok(frame)
    }

    /// Sends a frame; one that the device does not take is lost, as on any wire.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the kernel reads as many bytes as the frame has.
        unsafe {
            libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_NOSIGNAL);
        }
    }
}

/// A tag as it stands in a frame.
pub fn tag_bytes((ethertype, control): Tag) -> [u8; 4] {
    let ([a, b], [c, d]) = (ethertype.to_be_bytes(), control.to_be_bytes());
    [a, b, c, d]
}
