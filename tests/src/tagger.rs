//! A bridge that tags: what a switch's access ports do to frames, in user space, for kernels without VLAN devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::host::Host;
use crate::packet_socket::{PacketSocket, Tag, tag_bytes};

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
        let open = |device: &str| -> Result<Arc<PacketSocket>> {
            let socket = host.enter(|| PacketSocket::open(device))?;
            Ok(Arc::new(socket.with_context(|| format!("cannot open {device} of {}", host.name()))?))
        };
        let trunk = open(trunk)?;
        let ports: Vec<(Arc<PacketSocket>, Vec<Tag>)> =
            ports.iter().map(|(device, tags)| Ok((open(device)?, tags.to_vec()))).collect::<Result<_>>()?;
        let (stop, strange) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for (port, tags) in ports.clone() {
            let trunk = Arc::clone(&trunk);
            threads.push(carry(port, &stop, move |frame| {
                let tags: Vec<u8> = tags.iter().flat_map(|tag| tag_bytes(*tag)).collect();
                let (addresses, rest) = frame.split_at(12);
                trunk.send(&[addresses, &tags, rest].concat());
            }));
        }
        let count = Arc::clone(&strange);
        threads.push(carry(trunk, &stop, move |frame| {
            let port = ports.iter().find(|(_, tags)| is_tagged_so(frame, tags));
            match port {
                Some((port, tags)) => port.send(&[&frame[..12], &frame[12 + 4 * tags.len()..]].concat()),
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

/// Whether a frame has these tags and no more.
fn is_tagged_so(frame: &[u8], tags: &[Tag]) -> bool {
    let behind = 12 + 4 * tags.len();
    let carried: Vec<u8> = tags.iter().flat_map(|tag| tag_bytes(*tag)).collect();
    let is_tag = |ethertype: &[u8]| matches!(ethertype, [0x81, 0x00] | [0x88, 0xa8]);
    frame.get(12..behind) == Some(&carried) && frame.get(behind..behind + 2).is_some_and(|next| !is_tag(next))
}

/// Shows each frame that comes in by a socket to `take`, in a thread of its own.
fn carry(
    socket: Arc<PacketSocket>,
    stop: &Arc<AtomicBool>,
    take: impl Fn(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // An error is a timeout.
            if let Ok(frame) = socket.receive()
                && frame.len() >= 14
            {
                take(&frame);
            }
        }
    })
}
