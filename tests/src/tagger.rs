//! A bridge that tags: what a switch's access ports do to frames, in user space, for kernels without VLAN devices.

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::client::set_option;
use crate::host::Host;

/// A VLAN tag: its EtherType and its control field (priority and VLAN id).
pub type Tag = (u16, u16);

/// How long a thread waits for a frame before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Room for a frame of the usual MTU with two tags.
const LONGEST: usize = 2048;

/// Carries frames between a trunk and some access ports, all devices of one host: what comes in by an access port
/// leaves by the trunk with the port's tags, and what comes in by the trunk with a port's very tags (priority
/// included) leaves by that port without them. Other frames end here. Stopped when dropped.
pub struct Tagger {
    stop: Arc<AtomicBool>,
    strange: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// An access port: its device's name, and its tags, outermost first.
pub type Port<'a> = (&'a str, &'a [Tag]);

impl Tagger {
    /// Starts it.
    pub fn start(host: &Host, trunk: &str, ports: &[Port<'_>]) -> Result<Self> {
        let open = |device: &str| -> Result<Arc<OwnedFd>> {
            let socket = host.enter(|| open(device))?;
            Ok(Arc::new(socket.with_context(|| format!("cannot open {device} of {}", host.name()))?))
        };
        let trunk = open(trunk)?;
        let ports: Vec<(Arc<OwnedFd>, Vec<Tag>)> =
            ports.iter().map(|(device, tags)| Ok((open(device)?, tags.to_vec()))).collect::<Result<_>>()?;
        let (stop, strange) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for (port, tags) in ports.clone() {
            let trunk = Arc::clone(&trunk);
            threads.push(carry(port, &stop, move |frame| {
                let tags: Vec<u8> = tags.iter().flat_map(|tag| bytes(*tag)).collect();
                let (addresses, rest) = frame.split_at(12);
                send(&trunk, &[addresses, &tags, rest].concat());
            }));
        }
        let count = Arc::clone(&strange);
        threads.push(carry(trunk, &stop, move |frame| {
            let port = ports.iter().find(|(_, tags)| is_tagged_so(frame, tags));
            match port {
                Some((port, tags)) => send(port, &[&frame[..12], &frame[12 + 4 * tags.len()..]].concat()),
                None => _ = count.fetch_add(1, Ordering::Relaxed),
            }
        }));
        Ok(Self { stop, strange, threads })
    }

    /// How many frames came in by the trunk whose tags are no port's.
    pub fn strange(&self) -> u64 {
        self.strange.load(Ordering::Relaxed)
    }
}

impl Drop for Tagger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bytes((ethertype, control): Tag) -> [u8; 4] {
    let ([a, b], [c, d]) = (ethertype.to_be_bytes(), control.to_be_bytes());
    [a, b, c, d]
}

/// Whether a frame has these tags and no more.
fn is_tagged_so(frame: &[u8], tags: &[Tag]) -> bool {
    let behind = 12 + 4 * tags.len();
    let carried: Vec<u8> = tags.iter().flat_map(|tag| bytes(*tag)).collect();
    let is_tag = |ethertype: &[u8]| matches!(ethertype, [0x81, 0x00] | [0x88, 0xa8]);
    frame.get(12..behind) == Some(&carried) && frame.get(behind..behind + 2).is_some_and(|next| !is_tag(next))
}

/// Shows each frame that comes in by a socket to `take`, in a thread of its own.
fn carry(
    socket: Arc<OwnedFd>,
    stop: &Arc<AtomicBool>,
    take: impl Fn(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // An error is a timeout.
            if let Ok(frame) = receive(&socket)
                && frame.len() >= 14
            {
                take(&frame);
            }
        }
    })
}

/// A socket for whole frames of a device of the caller's namespace (packet(7)).
fn open(device: &str) -> Result<OwnedFd> {
    let index = if_nametoindex(device).context("there is no such device")?;
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
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size).context("cannot widen the buffer")?;
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
    Ok(socket)
}

/// linux/if_packet.h (4.20).
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// The next frame, with the outermost tag, which the kernel takes out and tells apart, put back in.
fn receive(socket: &impl AsFd) -> io::Result<Vec<u8>> {
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
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    if length > frame.len() {
        return Err(io::Error::other(format!("a frame of {length} bytes: does the device merge packets?")));
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
            frame.splice(12..12, bytes((told.tp_vlan_tpid, told.tp_vlan_tci)));
        }
    }
    Ok(frame)
}

/// Sends a frame; one that the device does not take is lost, as on any wire.
fn send(socket: &impl AsFd, frame: &[u8]) {
    // SAFETY: the kernel reads as many bytes as the frame has.
    unsafe {
        libc::send(socket.as_fd().as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_NOSIGNAL);
    }
}
