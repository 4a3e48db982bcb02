//! What a driver is asked and told of its offloads (linux/ethtool.h).

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

/// What a command that asks (`ETHTOOL_G...`) is answered, of an interface in the calling thread's network namespace.
///
/// # Errors
/// Where the driver does not tell, or there is no such interface.
pub fn get(interface: &str, command: u32) -> io::Result<u32> {
    call(interface, Value { command, data: 0 })
}

/// Carries out a command that sets (`ETHTOOL_S...`), with the same errors.
///
/// # Errors
/// Where the driver refuses, or there is no such interface.
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
    // SAFETY: the request and what it points to are what the command wants, and outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
