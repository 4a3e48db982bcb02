//! What keeps a host from balancing load, looked for from outside of the datapath: one file a part of the host.

#![forbid(unsafe_code)]

mod firewall;
mod interfaces;
mod kernel;
mod limits;
mod reach;

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::control::host;
use crate::model::state::TroubleKind;
use crate::model::{Config, Effective};
use crate::net::look::Network;
use crate::report::documents::{StatusView, TroubleView};

/// What is examined.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The config file.
    pub config: &'a Config,
    /// The services that there are, with the changes made at runtime.
    pub effective: &'a Effective,
    /// What the daemon says of itself, where one runs.
    pub daemon: Option<&'a StatusView>,
    /// Why a daemon that may run could not be asked, for lack of permission.
    pub denied: Option<String>,
    /// Whether the pins may not be looked at, for lack of permission.
    pub pins_are_denied: bool,
}

impl Subject<'_> {
    /// Why it is not known which programs are the daemon's.
    fn hides_programs(&self) -> Option<String> {
        let is_hidden = self.daemon.is_none() && (self.pins_are_denied || self.denied.is_some());
        is_hidden.then(|| {
            format!(
                "no permission to read {}, so the daemon's program cannot be told from another one: {AS_ROOT}",
                self.config.pin_path.display()
            )
        })
    }
}

const AS_ROOT: &str = "run this as root (sudo xdp-lb doctor)";

/// Something that is wrong, or will be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Finding {
    /// Which check found it; stable.
    pub check: &'static str,
    /// What is wrong, and what follows from it.
    pub what: String,
    /// What to do: a command, or words.
    pub fix: String,
}

impl Finding {
    fn new(check: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, what: what.into(), fix: fix.into() }
    }
}

/// What was looked at, and found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Everything that is wrong, by check.
    pub findings: Vec<Finding>,
    /// The checks that could be made.
    pub checked: Vec<&'static str>,
    /// Those that could not, and why.
    pub skipped: BTreeMap<&'static str, String>,
}

/// Every check's name.
pub const CHECKS: [&str; 14] = [
    "kernel",
    "pins",
    "interfaces",
    "xdp",
    "offloads",
    "rp-filter",
    "host",
    "next-hops",
    "redirects",
    "mtu",
    "vips",
    "limits",
    "firewall",
    "daemon",
];

/// Examines this host, in the network namespace that this runs in. Nothing is changed, but that next hops that are
/// not known yet are asked for.
///
/// # Errors
/// Where the kernel does not tell what there is.
pub async fn examine(subject: &Subject<'_>) -> Result<Report> {
    let network = Network::look().await?;
    let mut findings = kernel::examine();
    findings.extend(kernel::pins(&subject.config.pin_path));
    findings.extend(interfaces::examine(subject, &network));
    findings.extend(interfaces::rp_filter(subject));
    findings.extend(
        host::lacks(&host::ThisHost, subject.config, subject.effective)
            .into_iter()
            .map(|lack| Finding::new("host", lack.what, lack.fix)),
    );
    findings.extend(reach::examine(subject, &network).await?);
    findings.extend(reach::vips(subject, &network));
    findings.extend(limits::examine(subject));
    let mut skipped = BTreeMap::new();
    match firewall::examine() {
        Ok(found) => findings.extend(found),
        Err(why) => drop(skipped.insert("firewall", why)),
    }
    skipped.extend(subject.hides_programs().map(|why| ("xdp", why)));
    match (subject.daemon, &subject.denied) {
        (Some(daemon), _) => findings.extend(troubles(daemon, &findings)),
        (None, Some(why)) => drop(skipped.insert("daemon", why.clone())),
        (None, None) => drop(skipped.insert("daemon", "no daemon answers".to_owned())),
    }
    findings.sort_by_key(|finding| CHECKS.iter().position(|check| *check == finding.check));
    findings.dedup();
    let checked = CHECKS.into_iter().filter(|check| !skipped.contains_key(check)).collect();
    Ok(Report { findings, checked, skipped })
}

/// What the daemon itself complains of, but for what the other checks have found.
fn troubles(daemon: &StatusView, findings: &[Finding]) -> Vec<Finding> {
    let is_told = |kind| match kind {
        TroubleKind::Losses => findings.iter().any(|it| it.check == "redirects"),
        TroubleKind::Interfaces => findings.iter().any(|it| matches!(it.check, "interfaces" | "xdp")),
        _ => false,
    };
    let others = daemon.troubles.iter().filter(|trouble| !is_told(trouble.kind));
    let finding = |trouble: &TroubleView| {
        Finding::new("daemon", format!("the daemon is in trouble: {}", trouble.message), "see its log")
    };
    others.map(finding).collect()
}
