//! Packets that the kernel dropped after the program's verdict: usual causes, and what to do.

use nix::errno::Errno;
use xdp_lb_common::tables::loss::{REDIRECT, TRANSMIT};

use super::documents::LossView;
use crate::datapath::Loss;
use crate::net::ingress;

/// Counts as API documents.
pub fn views(losses: &[Loss]) -> Vec<LossView> {
    losses.iter().map(view).collect()
}

fn view(loss: &Loss) -> LossView {
    let interface = ingress::name(loss.key.ifindex);
    let verdict = match loss.key.action {
        REDIRECT => "redirect",
        TRANSMIT => "transmit",
        _ => "other",
    };
    let (cause, fix) = advice(loss, &interface);
    LossView {
        interface,
        verdict: verdict.into(),
        error: loss.key.error.unsigned_abs(),
        packets: loss.packets,
        cause,
        fix,
    }
}

/// What is to be done so that a veth takes redirected frames. Setting GRO again after both ends are up makes the queues that it needs.
const VETH: &str = "a veth needs GRO on its peer (where the peer is: ethtool -K PEER gro off; ethtool -K PEER gro on) or an XDP \
                    program there; or, for any driver, write attach = \"tc\"";

/// Why an interface without it loses what is redirected to it, and what to do.
pub fn takes_no_redirected(interface: &str) -> (String, String) {
    (format!("the driver of {interface} does not transmit redirected frames"), VETH.into())
}

/// The usual cause, and what to do.
fn advice(loss: &Loss, interface: &str) -> (String, String) {
    let error = Errno::from_raw(loss.key.error.saturating_neg());
    let words = |cause: String, fix: String| (cause, fix);
    match (loss.key.action, error) {
        (REDIRECT, Errno::EOPNOTSUPP | Errno::ENXIO) => takes_no_redirected(interface),
        (REDIRECT, Errno::ENETDOWN) => {
            words(format!("{interface} is down"), format!("ip link set {interface} up"))
        }
        (REDIRECT, Errno::EMSGSIZE) => words(
            format!("frames are larger than the MTU of {interface}"),
            format!(
                "raise it: ip link set {interface} mtu BYTES, or lower that of the interface that they come from"
            ),
        ),
        (REDIRECT, Errno::ENOSPC | Errno::EBUSY | Errno::EAGAIN) => words(
            format!("the transmit ring of {interface} is full"),
            format!(
                "enlarge it: ethtool -G {interface} tx N, or give it more queues: ethtool -L {interface}"
            ),
        ),
        (REDIRECT, Errno::ENODEV | Errno::EINVAL) => words(
            format!("{interface} is gone"),
            "the daemon finds the new way by itself; if this goes on, see `ip route get` for the backend"
                .into(),
        ),
        (REDIRECT, error) => words(
            format!("{interface} did not take them: {}", error.desc()),
            "see the kernel's log (dmesg), and the driver's counters: ethtool -S".into(),
        ),
        (TRANSMIT, _) => words(
            format!("{interface} could not send back what it received"),
            format!(
                "a veth needs an XDP program on its peer; else see the driver's counters: ethtool -S {interface}"
            ),
        ),
        _ => words(
            "the program ended with an error".into(),
            "please file a bug, with the kernel's version and `xdp-lb counters`".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::tables::loss::LossKey;

    use super::*;

    #[test]
    fn each_cause_has_a_fix_that_names_the_interface() {
        let told = |action, error| {
            let key = LossKey { ifindex: 1, action, error };
            view(&Loss { key, packets: 7 })
        };
        let veth = told(REDIRECT, -libc::EOPNOTSUPP);
        assert_eq!(
            (veth.interface.as_str(), veth.verdict.as_str(), veth.error, veth.packets),
            ("lo", "redirect", 95, 7)
        );
        assert!(
            veth.cause.contains("lo does not transmit") && veth.fix.contains("ethtool -K PEER gro on"),
            "{veth:?}"
        );
        assert_eq!(told(REDIRECT, -libc::ENETDOWN).fix, "ip link set lo up");
        assert!(told(REDIRECT, -libc::EMSGSIZE).cause.contains("MTU of lo"));
        assert!(told(REDIRECT, -libc::EPERM).cause.contains("Operation not permitted"));
        assert!(told(TRANSMIT, 0).fix.contains("ethtool -S lo"));
        assert!(told(0, i32::MIN).cause.contains("ended with an error"));
    }
}
