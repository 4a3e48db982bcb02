use super::*;
use crate::config::parse;
use crate::model::service::Backend;
use crate::model::state::AdminState;
use crate::overlay::{effective, effective_beside};

const FILE: &str = "interfaces = [\"eth0\"]\nlimits = { backends = 4 }\n\
    [[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
    backend = [{ address = \"198.51.100.1:80\", weight = 9 }, { address = \"198.51.100.2:80\" }]\n\
    [[service]]\nname = \"six\"\nvip = \"[2001:db8::10]:80\"\nbackend = [{ address = \"[2001:db8:1::1]:80\" }]\n";

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn moment(seconds: u64) -> BootTime {
    BootTime { boot: "this".into(), seconds }
}

/// What is in effect after a change from `before`: services and backends that leave have a `-`.
fn after(before: &Effective, config: &Config, overlay: &mut Overlay, leave: Leave, at: u64) -> Effective {
    overlay.depart(config, before, leave, &moment(at));
    effective_beside(config, overlay, config.limits, |service, address| before.has(service, address))
        .unwrap_or_else(|lines| panic!("{lines:#?}"))
}

fn shown(effective: &Effective) -> Vec<String> {
    let sign = |leaves| if leaves { "-" } else { "" };
    let of = |it: &EffectiveService| {
        let backends: Vec<_> = it
            .backends
            .iter()
            .map(|it| format!("{}{}", sign(it.is_leaving), it.backend.address.ip()))
            .collect();
        format!("{}{}: {}", sign(it.is_leaving), it.service.name, backends.join(" "))
    };
    effective.services.iter().map(of).collect()
}

#[test]
fn what_the_file_or_the_cli_removes_leaves_and_can_return() {
    let whole = config(FILE);
    let mut overlay = Overlay::default();
    let first = effective(&whole, &overlay).expect("valid");
    let less = config(&FILE.replace("{ address = \"198.51.100.1:80\", weight = 9 }, ", ""));
    let second = after(&first, &less, &mut overlay, Leave::Drain, 5);
    assert_eq!(shown(&second), ["six: 2001:db8:1::1", "web: -198.51.100.1 198.51.100.2"]);
    assert_eq!(second.services[1].backends[0].backend.weight, 9);
    // By the CLI, then both together; each since its own time.
    overlay.remove_backend(&less, "web", at("198.51.100.2:80")).expect("removed");
    let third = after(&second, &less, &mut overlay, Leave::Drain, 6);
    assert_eq!(shown(&third)[1], "web: -198.51.100.1 -198.51.100.2");
    let since: Vec<_> = overlay.leaving("web").map(|(_, since)| since).collect();
    assert_eq!(since, [5, 6]);
    let fourth = after(&third, &whole, &mut overlay, Leave::Drain, 7);
    assert_eq!(shown(&fourth)[1], "web: 198.51.100.1 -198.51.100.2");
    overlay.add_backend(&whole, "web", Backend::new(at("198.51.100.2:80"), 100)).expect("added");
    let fifth = after(&fourth, &whole, &mut overlay, Leave::Drain, 8);
    assert_eq!((shown(&fifth), fifth == first), (shown(&first), true));
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_service_leaves_with_its_backends_and_returns_under_any_name() {
    let whole = config(FILE);
    let mut overlay = Overlay::default();
    let first = effective(&whole, &overlay).expect("valid");
    let without = config(&FILE[..FILE.find("[[service]]\nname = \"six\"").expect("there")]);
    let second = after(&first, &without, &mut overlay, Leave::Drain, 5);
    assert_eq!(shown(&second), ["-six: -2001:db8:1::1", "web: 198.51.100.1 198.51.100.2"]);
    // It survives a restart; another boot has none of its flows.
    let json = serde_json::to_string(&overlay).expect("printed");
    let read: Overlay = serde_json::from_str(&json).expect("read");
    assert_eq!(shown(&effective(&without, &read).expect("valid")), shown(&second));
    let mut rebooted = read.clone();
    rebooted.forget_other_boots(&BootTime { boot: "that".into(), seconds: 1 });
    assert_eq!(rebooted, Overlay::default());

    let renamed = config(&FILE.replace("\"six\"", "\"five\"").replace("1::1", "1::2"));
    let [mut other_name, mut other_vip] = [overlay.clone(), overlay.clone()];
    let third = after(&second, &renamed, &mut overlay, Leave::Drain, 6);
    assert_eq!(shown(&third)[0], "five: -2001:db8:1::1 2001:db8:1::2");
    assert_eq!(overlay.leaving("five").collect::<Vec<_>>(), [(at("[2001:db8:1::1]:80"), 5)]);

    // Another service of its name: that has the name, and this one goes on under another.
    let other = config(&FILE.replace("2001:db8::10", "2001:db8::11").replace("1::1", "1::2"));
    let fourth = after(&second, &other, &mut other_name, Leave::Drain, 7);
    assert_eq!(shown(&fourth)[..2], ["six: 2001:db8:1::2", "-six-leaving: -2001:db8:1::1"]);
    // Its VIP is another's by now.
    let range = FILE.replace("[2001:db8::10]:80", "[2001:db8::10]:1-100");
    let range = config(&range.replace("[2001:db8:1::1]:80", "[2001:db8:1::2]:0"));
    let fifth = after(&second, &range, &mut other_vip, Leave::Drain, 8);
    assert_eq!(shown(&fifth)[0], "six: 2001:db8:1::2");
}

#[test]
fn now_removes_at_once_and_does_not_affect_what_is_already_leaving() {
    let whole = config(FILE);
    let mut overlay = Overlay::default();
    let first = effective(&whole, &overlay).expect("valid");
    overlay.remove_backend(&whole, "web", at("198.51.100.1:80")).expect("removed");
    let second = after(&first, &whole, &mut overlay, Leave::Drain, 5);
    overlay.remove_backend(&whole, "web", at("198.51.100.2:80")).expect("removed");
    overlay.remove_service(&whole, "six").expect("removed");
    let third = after(&second, &whole, &mut overlay, Leave::Now, 6);
    assert_eq!(shown(&third), ["web: -198.51.100.1"]);
    let mut service = overlay.clone();
    overlay.remove_backend(&whole, "web", at("198.51.100.1:80")).expect("gone");
    assert_eq!(shown(&after(&third, &whole, &mut overlay, Leave::Now, 7)), ["web: "]);
    // A service goes with all that it has.
    service.remove_service(&whole, "web").expect("removed");
    assert_eq!(shown(&after(&third, &whole, &mut service, Leave::Now, 7)), [""; 0]);
    // One that leaves already goes on to, while something else goes at once.
    let mut overlay = Overlay::default();
    let web = config(&FILE[..FILE.find("[[service]]\nname = \"six\"").expect("there")]);
    let second = after(&first, &web, &mut overlay, Leave::Drain, 5);
    overlay.remove_backend(&web, "web", at("198.51.100.1:80")).expect("removed");
    let third = after(&second, &web, &mut overlay, Leave::Now, 6);
    assert_eq!(shown(&third), ["-six: -2001:db8:1::1", "web: 198.51.100.2"]);
}

#[test]
fn a_new_backend_waits_while_leaving_ones_use_the_room() {
    let whole = config(FILE);
    let mut overlay = Overlay::default();
    let first = effective(&whole, &overlay).expect("valid");
    let other = config(&FILE.replace("100.1:80", "100.8:80").replace("100.2:80", "100.9:80"));
    let second = after(&first, &other, &mut overlay, Leave::Drain, 5);
    assert_eq!(shown(&second)[1], "web: -198.51.100.1 -198.51.100.2 198.51.100.8");
    let waiting = &second.services[1].refused;
    assert_eq!((waiting.len(), waiting[0].address), (1, at("198.51.100.9:80")));
    assert!(waiting[0].why.contains("waiting for room: limits.backends = 4, of which 2"), "{waiting:?}");
    overlay.release("web", at("198.51.100.1:80"));
    let third = after(&second, &other, &mut overlay, Leave::Drain, 6);
    assert_eq!(shown(&third)[1], "web: -198.51.100.2 198.51.100.8 198.51.100.9");
}

#[test]
fn changes_to_a_leaving_backend_are_refused_with_the_reason() {
    use crate::model::request::BackendPatch;
    let whole = config(FILE);
    let mut overlay = Overlay::default();
    let first = effective(&whole, &overlay).expect("valid");
    let one = at("198.51.100.1:80");
    overlay.remove_backend(&whole, "web", one).expect("removed");
    after(&first, &whole, &mut overlay, Leave::Drain, 5);
    let weight = BackendPatch::of("weight", 3);
    let refused = overlay.patch_backend(&whole, "web", one, &weight).expect_err("refused").to_string();
    assert!(refused.contains("xdp-lb backend add web 198.51.100.1:80"), "{refused}");
    let drain = BackendPatch::admin(AdminState::Draining);
    let said = overlay.patch_backend(&whole, "web", one, &drain).expect("it drains");
    assert!(!said.changed, "{}", said.message);
}
