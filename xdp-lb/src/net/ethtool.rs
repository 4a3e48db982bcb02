//! Reads and sets a driver's offloads (linux/ethtool.h).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The value that a get command (`ETHTOOL_G...`) returns for an interface of the calling thread's network namespace.
///
/// # Errors
/// If the driver does not support the command, or the interface does not exist.
pub fn get(interface: &str, command: u32) -> io::Result<u32> {
    call(interface, Value { command, data: 0 })
}

/// Runs a set command (`ETHTOOL_S...`).
///
/// # Errors
/// If the driver refuses, or the interface does not exist.
pub fn set(interface: &str, command: u32, data: u32) -> io::Result<()> {
    call(interface, Value { command, data }).map(drop)
}

fn call(interface: &str, mut value: Value) -> io::Result<u32> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: an `ifreq` of zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and the value that it points to have the layout that the command expects, and outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
