//! keepalived: a pair of load balancers on one link, of which one has the VIPs (VRRP).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Addresses, Family};

/// The links of a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Links {
    /// The interface that clients' packets come by.
    pub clients: String,
    /// The one towards backends.
    pub backends: String,
    /// The number of the pair's VIPs among the virtual routers on the links; SNAT addresses take the two that follow it.
    pub number: u8,
}

/// The priority of a node for what is its own, and for all else: so a node that returns does not take VIPs from one that works.
const OWN: u8 = 150;
const USUAL: u8 = 100;

/// How much less a node is preferred whose daemon does not answer.
const WITHOUT_DAEMON: u8 = 60;

/// How many seconds after its start a node takes back what is its own: it has joined the fleet by then.
const JOINED: u32 = 70;

/// A config file of keepalived's.
#[must_use]
pub fn keepalived(addresses: &Addresses, links: &Links) -> String {
    let Links { clients, backends, number } = links;
    let mut text = "global_defs {\n\tenable_script_security\n\tscript_user root\n}\n".to_owned();
    text += "\n# Without its daemon a node still forwards: it is the second choice, and no more.\n";
    text += "vrrp_script xdp_lb {\n\tscript \"/usr/bin/xdp-lb status\"\n\tinterval 2\n\ttimeout 2\n\tfall 3\n\trise 2\n";
    text += &format!("\tweight -{WITHOUT_DAEMON}\n}}\n");
    text += &instance("vips", clients, *number, USUAL, &addresses.vips);
    // The other node has the same numbers.
    let is_first = addresses.own.first() < addresses.others.first();
    let own = if is_first { number + 1 } else { number + 2 };
    let others = if is_first { number + 2 } else { number + 1 };
    if !addresses.own.is_empty() && !addresses.others.is_empty() {
        text += "\n# In whose name backends see clients: the other node takes them over with the flows.\n";
        text += instance("own", backends, own, OWN, &addresses.own).trim_start();
        text += &instance("others", backends, others, USUAL, &addresses.others);
    }
    text
}

fn instance(name: &str, interface: &str, number: u8, priority: u8, addresses: &BTreeSet<IpAddr>) -> String {
    let line = |address: &IpAddr| {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        format!("\t\t{} dev {interface}\n", family.prefix(address))
    };
    // An advertisement has room for some addresses of one family; the others move with them.
    let mut lines = addresses.iter().map(line);
    let (first, rest) = (lines.next().unwrap_or_default(), lines.collect::<String>());
    let rest =
        if rest.is_empty() { rest } else { format!("\tvirtual_ipaddress_excluded {{\n{rest}\t}}\n") };
    let delay = if priority == OWN { format!("\tpreempt_delay {JOINED}\n") } else { String::new() };
    format!(
        "\nvrrp_instance xdp_lb_{name} {{\n\tstate BACKUP\n\tinterface {interface}\n\tvirtual_router_id {number}\n\
         \tpriority {priority}\n\tadvert_int 1\n{delay}\tvirtual_ipaddress {{\n{first}\t}}\n{rest}\
         \ttrack_script {{\n\t\txdp_lb\n\t}}\n}}\n"
    )
}
