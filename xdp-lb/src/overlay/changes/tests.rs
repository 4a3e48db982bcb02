use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::parse;
use crate::model::change::ChangeKind;
use crate::model::state::Origin;
use crate::model::{Effective, Vip};
use crate::overlay::{BootTime, Leave, diff, runtime_lines, save};

const FILE: &str = "interfaces = [\"eth0\"]\n\
    [[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
    backend = [{ address = \"198.51.100.1:80\" }, { address = \"198.51.100.2:80\", weight = 50 }]\n\
    [[service]]\nname = \"dns\"\nvip = \"192.0.2.53:53\"\nprotocol = \"udp\"\n\
    backend = [{ address = \"198.51.100.1:53\" }]\n";

#[track_caller]
fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn backend(address: &str, weight: u16) -> Backend {
    Backend::new(at(address), weight)
}

fn service(json: &str) -> Service {
    serde_json::from_str(json).expect("a service")
}

fn api() -> Service {
    service(r#"{"name":"api","vip":"192.0.2.11:80","backend":[{"address":"198.51.100.9:80"}]}"#)
}

fn drain() -> BackendPatch {
    BackendPatch::admin(AdminState::Draining)
}

fn enable() -> BackendPatch {
    BackendPatch::admin(AdminState::Enabled)
}

fn weigh(weight: u16) -> BackendPatch {
    BackendPatch::of("weight", weight)
}

/// What is said of a change that was made.
#[track_caller]
fn changed(answer: Answer<Outcome>) -> String {
    let outcome = answer.expect("accepted");
    assert!(outcome.changed, "{}", outcome.message);
    outcome.message
}

/// What is said of a change that was so already.
#[track_caller]
fn unchanged(answer: Answer<Outcome>) -> String {
    let outcome = answer.expect("accepted");
    assert!(!outcome.changed, "{}", outcome.message);
    outcome.message
}

#[track_caller]
fn merged(config: &Config, overlay: &Overlay) -> Effective {
    effective(config, overlay).unwrap_or_else(|lines| panic!("{lines:#?}"))
}

/// Every backend as `service address weight`, with `d` where it drains and `+` where it was added
/// at runtime.
fn shown(effective: &Effective) -> Vec<String> {
    let mut shown = Vec::new();
    for service in &effective.services {
        let plus = |origin| if origin == Origin::Runtime { "+" } else { "" };
        shown.push(format!("{}{}", service.service.name, plus(service.origin)));
        for EffectiveBackend { backend, admin, origin, .. } in &service.backends {
            let d = if *admin == AdminState::Draining { "d" } else { "" };
            shown.push(format!("  {} {}{d}{}", backend.address, backend.weight, plus(*origin)));
        }
    }
    shown
}

#[test]
fn without_changes_the_services_are_those_of_the_file_sorted() {
    let effective = merged(&config(FILE), &Overlay::default());
    assert_eq!(
        shown(&effective),
        ["dns", "  198.51.100.1:53 100", "web", "  198.51.100.1:80 100", "  198.51.100.2:80 50"]
    );
    assert!(effective.services.iter().all(|service| service.service.backends.is_empty()));
}

#[test]
fn backends_are_added_weighed_drained_and_removed_and_all_is_undone_without_a_trace() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let (old, new) = (at("198.51.100.1:80"), at("198.51.100.3:80"));
    assert_eq!(
        changed(overlay.add_backend(&config, "web", Backend::new(new, 7))),
        "service web: backend 198.51.100.3:80 added, weight 7"
    );
    assert_eq!(
        changed(overlay.patch_backend(&config, "web", new, &weigh(8))),
        "service web: backend 198.51.100.3:80 weight 7 -> 8"
    );
    assert_eq!(
        changed(overlay.patch_backend(&config, "web", old, &drain())),
        "service web: backend 198.51.100.1:80 is draining: it keeps its flows and gets no new ones"
    );
    assert_eq!(
        changed(overlay.patch_backend(&config, "web", old, &weigh(1))),
        "service web: backend 198.51.100.1:80 weight 100 -> 1"
    );
    assert_eq!(
        changed(overlay.remove_backend(&config, "web", at("198.51.100.2:80"))),
        "service web: backend 198.51.100.2:80 removed; it is still in the config file, but stays removed until it \
         is added again"
    );
    assert_eq!(
        shown(&merged(&config, &overlay))[2..],
        ["web", "  198.51.100.1:80 1d", "  198.51.100.3:80 8+"]
    );

    changed(overlay.add_backend(&config, "web", backend("198.51.100.2:80", 50)));
    changed(overlay.patch_backend(&config, "web", old, &weigh(100)));
    assert_eq!(
        changed(overlay.patch_backend(&config, "web", old, &enable())),
        "service web: backend 198.51.100.1:80 enabled"
    );
    assert_eq!(
        changed(overlay.remove_backend(&config, "web", new)),
        "service web: backend 198.51.100.3:80 removed"
    );
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_backend_of_the_file_that_is_added_back_with_another_weight_has_that_weight() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.remove_backend(&config, "web", at("198.51.100.1:80")));
    changed(overlay.add_backend(&config, "web", backend("198.51.100.1:80", 3)));
    assert_eq!(shown(&merged(&config, &overlay))[3], "  198.51.100.1:80 3");
}

#[test]
fn a_change_that_is_already_in_effect_says_so() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let address = at("198.51.100.1:80");
    assert_eq!(
        unchanged(overlay.patch_backend(&config, "web", address, &weigh(100))),
        "service web: backend 198.51.100.1:80 already has weight 100"
    );
    assert_eq!(
        unchanged(overlay.patch_backend(&config, "web", address, &enable())),
        "service web: backend 198.51.100.1:80 is already enabled"
    );
    assert_eq!(
        unchanged(overlay.add_backend(&config, "web", Backend::new(address, 100))),
        "service web: backend 198.51.100.1:80 already exists with weight 100"
    );
    assert_eq!(
        unchanged(overlay.add_service(&config, config.services[0].clone())),
        "service web already exists with this definition; nothing changed"
    );
    assert_eq!(overlay, Overlay::default());
    changed(overlay.patch_backend(&config, "web", address, &drain()));
    assert_eq!(
        unchanged(overlay.patch_backend(&config, "web", address, &drain())),
        "service web: backend 198.51.100.1:80 is already draining"
    );
}

#[test]
fn unknown_names_list_the_known_ones_nearest_first() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let not_found = |answer: Answer<Outcome>, words: &str| {
        assert_eq!(answer, Err(Refusal::NotFound(words.into())));
    };
    let address = at("198.51.100.1:80");
    let no_service = "service \"wbe\" does not exist; the services are: web, dns";
    not_found(overlay.remove_service(&config, "wbe"), no_service);
    not_found(overlay.add_backend(&config, "wbe", Backend::new(address, 1)), no_service);
    not_found(overlay.patch_backend(&config, "wbe", address, &drain()), no_service);
    not_found(overlay.remove_backend(&config, "wbe", address), no_service);
    let no_backend = "service web has no backend 198.51.100.2:81; its backends are: 198.51.100.2:80, \
                      198.51.100.1:80";
    not_found(overlay.patch_backend(&config, "web", at("198.51.100.2:81"), &drain()), no_backend);
    not_found(overlay.remove_backend(&config, "web", at("198.51.100.2:81")), no_backend);
    assert_eq!(overlay, Overlay::default());

    let empty = self::config("interfaces = [\"eth0\"]");
    not_found(
        overlay.remove_service(&empty, "web"),
        "service \"web\" does not exist; there are no services yet; add one with: xdp-lb service add",
    );
    changed(overlay.add_service(&empty, service(r#"{"name":"a","vip":"192.0.2.1:1"}"#)));
    not_found(
        overlay.remove_backend(&empty, "a", address),
        "service a has no backend 198.51.100.1:80; it has none; add it with: xdp-lb backend add a \
         198.51.100.1:80",
    );
}

#[test]
fn long_lists_of_known_names_are_cut() {
    let mut text = FILE.to_owned();
    for number in 0..30 {
        text += &format!("[[service]]\nname = \"s{number}\"\nvip = \"192.0.2.99:{}\"\n", number + 1);
    }
    let Err(Refusal::NotFound(message)) = Overlay::default().remove_service(&config(&text), "wbe") else {
        panic!("found")
    };
    assert!(message.starts_with("service \"wbe\" does not exist; the services are: web, "), "{message}");
    assert!(message.ends_with(" and 12 more"), "{message}");
}

#[test]
fn conflicts_are_refused_with_the_reason() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let conflict = |answer: Answer<Outcome>, words: &str| {
        assert_eq!(answer, Err(Refusal::Conflict(words.into())));
    };
    changed(overlay.add_service(&config, api()));
    let before = overlay.clone();
    conflict(
        overlay.add_service(&config, service(r#"{"name":"web","vip":"192.0.2.12:80"}"#)),
        "service web already exists, at 192.0.2.10:80 tcp; remove it first (xdp-lb service remove web), or \
         choose another name",
    );
    conflict(
        overlay.add_service(&config, service(r#"{"name":"b","vip":"192.0.2.10:80"}"#)),
        "service \"b\" (added at runtime): vip: 192.0.2.10:80 tcp is already the VIP of service \"web\"; change \
         the address, the port or the protocol of one",
    );
    conflict(
        overlay.add_backend(&config, "web", backend("192.0.2.11:80", 1)),
        "service \"web\": backend 192.0.2.11:80 (added at runtime): address: \"192.0.2.11:80\" is the VIP of \
         service \"api\" (added at runtime), so its packets would loop through this host; write the real \
         server's own address",
    );
    conflict(
        overlay.add_backend(&config, "web", backend("198.51.100.1:80", 7)),
        "service web: backend 198.51.100.1:80 already exists with weight 100; change it with: xdp-lb backend \
         set-weight web 198.51.100.1:80 7",
    );
    assert_eq!(overlay, before);
    changed(overlay.patch_backend(&config, "web", at("198.51.100.1:80"), &drain()));
    conflict(
        overlay.add_backend(&config, "web", backend("198.51.100.1:80", 100)),
        "service web: backend 198.51.100.1:80 already exists but is draining; enable it with: xdp-lb backend enable \
         web 198.51.100.1:80",
    );
}

#[test]
fn invalid_services_and_backends_are_refused() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let bad = service(r#"{"name":"a b","vip":"192.0.2.12:0"}"#);
    let Err(Refusal::Invalid(message)) = overlay.add_service(&config, bad) else { panic!("accepted") };
    assert_eq!(message.lines().count(), 2, "{message}");
    let Err(Refusal::Invalid(message)) = overlay.add_backend(&config, "web", backend("[2001:db8::1]:80", 1))
    else {
        panic!("accepted")
    };
    assert!(message.contains("is IPv6 but the VIP 192.0.2.10:80 is IPv4"), "{message}");
    let nothing = overlay.patch_backend(&config, "web", at("198.51.100.1:80"), &BackendPatch::default());
    assert_eq!(
        nothing,
        Err(Refusal::Invalid(
            "service web: backend 198.51.100.1:80: nothing to change; give an option or a state".into()
        ))
    );
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_backup_stays_a_backup() {
    let config = config(
        "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
         backend = [{ address = \"198.51.100.1:80\", backup = true }]\n",
    );
    let mut overlay = Overlay::default();
    let backup = |address: &str| Backend { backup: true, ..backend(address, 100) };
    let backups = |overlay: &Overlay| -> Vec<bool> {
        let services = merged(&config, overlay).services;
        services[0].backends.iter().map(|backend| backend.backend.backup).collect()
    };
    changed(overlay.add_backend(&config, "web", backup("198.51.100.2:80")));
    changed(overlay.patch_backend(&config, "web", at("198.51.100.2:80"), &drain()));
    changed(overlay.patch_backend(&config, "web", at("198.51.100.1:80"), &weigh(7)));
    assert_eq!(backups(&overlay), [true, true]);
    let other = overlay.add_backend(&config, "web", backend("198.51.100.1:80", 7)).expect_err("refused");
    assert!(
        matches!(&other, Refusal::Conflict(why) if why.contains("already exists but is a backup; remove it first")),
        "{other:?}"
    );
    // The file's own, as another kind.
    changed(overlay.remove_backend(&config, "web", at("198.51.100.1:80")));
    changed(overlay.add_backend(&config, "web", backend("198.51.100.1:80", 100)));
    assert_eq!(backups(&overlay), [false, true]);
    let read: Overlay =
        serde_json::from_str(&serde_json::to_string(&overlay).expect("printed")).expect("read");
    assert_eq!(read, overlay);
    overlay.prune(&config);
    assert_eq!(backups(&overlay), [false, true]);
}

#[test]
fn the_server_id_of_a_backend_is_kept() {
    let config = config(
        "interfaces = [\"eth0\"]\n[[service]]\nname = \"h3\"\nvip = \"192.0.2.10:443\"\nprotocol = \"udp\"\n\
         quic = { server_id_length = 1 }\nbackend = [{ address = \"198.51.100.1:443\", server_id = \"01\" }]\n",
    );
    let mut overlay = Overlay::default();
    let named = |address: &str, id: &str| Backend {
        server_id: Some(id.parse().expect("an id")),
        ..backend(address, 100)
    };
    let ids = |overlay: &Overlay| -> Vec<String> {
        let services = merged(&config, overlay).services;
        let ids = services[0].backends.iter().filter_map(|backend| backend.backend.server_id);
        ids.map(|id| id.to_string()).collect()
    };
    let missing = overlay.add_backend(&config, "h3", backend("198.51.100.2:443", 1)).expect_err("refused");
    assert!(
        matches!(&missing, Refusal::Invalid(why) if why.contains("write the server's ID as 2 hex digits"))
    );
    let taken = overlay.add_backend(&config, "h3", named("198.51.100.2:443", "01")).expect_err("refused");
    assert!(
        matches!(&taken, Refusal::Conflict(why) if why.contains("is also the ID of backend 198.51.100.1:443"))
    );
    changed(overlay.add_backend(&config, "h3", named("198.51.100.2:443", "02")));
    changed(overlay.patch_backend(&config, "h3", at("198.51.100.2:443"), &weigh(7)));
    assert_eq!(ids(&overlay), ["01", "02"]);
    // The file's own, with another id.
    changed(overlay.remove_backend(&config, "h3", at("198.51.100.1:443")));
    changed(overlay.add_backend(&config, "h3", named("198.51.100.1:443", "03")));
    changed(overlay.patch_backend(&config, "h3", at("198.51.100.1:443"), &drain()));
    assert_eq!(ids(&overlay), ["03", "02"]);
    let read: Overlay =
        serde_json::from_str(&serde_json::to_string(&overlay).expect("printed")).expect("read");
    assert_eq!(read, overlay);
    overlay.prune(&config);
    assert_eq!(ids(&overlay), ["03", "02"]);
    // A limit of flows is kept, too, and one that differs is not a repetition.
    changed(overlay.remove_backend(&config, "h3", at("198.51.100.1:443")));
    let limited = Backend { max_flows: 9, ..named("198.51.100.1:443", "01") };
    changed(overlay.add_backend(&config, "h3", limited));
    changed(overlay.patch_backend(&config, "h3", at("198.51.100.1:443"), &weigh(50)));
    assert_eq!(merged(&config, &overlay).services[0].backends[0].backend, Backend { weight: 50, ..limited });
    let other = overlay.add_backend(&config, "h3", Backend { weight: 50, max_flows: 8, ..limited });
    assert!(
        matches!(other, Err(Refusal::Conflict(why)) if why.contains("with max_flows 9; remove it first"))
    );
}

#[test]
fn changes_beyond_the_limits_are_refused() {
    let config = config(&format!("{FILE}[limits]\nservices = 2\nbackends = 3\n"));
    let mut overlay = Overlay::default();
    let Err(Refusal::Conflict(message)) = overlay.add_service(&config, api()) else { panic!("accepted") };
    assert_eq!(
        message,
        "limits.services: there are 3 services but room for 2; raise it to 3 or more (loaded tables keep their size \
         until `xdp-lb unload`)\n\
         limits.backends: there are 4 backends but room for 3; raise it to 4 or more (loaded tables keep their size until `xdp-lb unload`)"
    );
    changed(overlay.remove_service(&config, "dns"));
    changed(overlay.add_service(&config, api()));
}

#[test]
fn a_service_is_added_and_removed_and_one_of_the_file_comes_back_as_it_was() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    assert_eq!(
        changed(overlay.add_service(&config, api())),
        "service api added at 192.0.2.11:80 tcp, with 1 backend"
    );
    assert_eq!(shown(&merged(&config, &overlay))[..2], ["api+", "  198.51.100.9:80 100+"]);
    assert_eq!(changed(overlay.remove_service(&config, "api")), "service api removed, with 1 backend");
    assert_eq!(overlay, Overlay::default());

    assert_eq!(
        changed(overlay.remove_service(&config, "web")),
        "service web removed, with 2 backends; it is still in the config file, but stays removed until it is added \
         again"
    );
    assert_eq!(shown(&merged(&config, &overlay)), ["dns", "  198.51.100.1:53 100"]);
    changed(overlay.add_service(&config, config.services[0].clone()));
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_service_of_the_file_comes_back_with_the_backends_that_it_is_given() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.remove_service(&config, "web"));
    let backends = vec![backend("198.51.100.2:80", 9), backend("198.51.100.3:80", 100)];
    changed(overlay.add_service(&config, Service { backends, ..config.services[0].clone() }));
    assert_eq!(
        shown(&merged(&config, &overlay))[2..],
        ["web", "  198.51.100.2:80 9", "  198.51.100.3:80 100+"]
    );
}

#[test]
fn a_service_of_the_file_may_be_replaced_at_runtime() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.remove_service(&config, "web"));
    changed(overlay.add_service(&config, service(r#"{"name":"web","vip":"192.0.2.99:80"}"#)));
    assert_eq!(shown(&merged(&config, &overlay))[2..], ["web+"]);
    changed(overlay.remove_service(&config, "web"));
    assert_eq!(shown(&merged(&config, &overlay)).len(), 2);
}

#[test]
fn a_file_that_uses_the_name_or_vip_of_a_runtime_service_conflicts() {
    let old = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.add_service(&old, api()));
    let name = config(&format!("{FILE}[[service]]\nname = \"api\"\nvip = \"192.0.2.12:80\"\n"));
    assert_eq!(
        effective(&name, &overlay).expect_err("refused"),
        ["service \"api\": the config file defines it at 192.0.2.12:80 tcp, but it was added at runtime at \
          192.0.2.11:80 tcp; rename the one in the file, or remove the added one: with \"xdp-lb service remove api\" if the daemon runs, else by removing \"api\" from the state file \
             /var/lib/xdp-lb/state.json"]
    );
    let vip = config(&format!("{FILE}[[service]]\nname = \"z\"\nvip = \"192.0.2.11:80\"\n"));
    assert_eq!(
        effective(&vip, &overlay).expect_err("refused"),
        ["service \"api\" (added at runtime): vip: 192.0.2.11:80 tcp is already the VIP of service \"z\"; \
             change the address, the port or the protocol of one"]
    );
}

#[test]
fn changes_that_the_file_has_taken_over_are_dropped_and_the_others_stay() {
    let old = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.add_service(&old, api()));
    changed(overlay.add_backend(&old, "api", backend("198.51.100.8:80", 5)));
    changed(overlay.add_backend(&old, "web", backend("198.51.100.3:80", 5)));
    changed(overlay.patch_backend(&old, "web", at("198.51.100.3:80"), &drain()));
    let new = config(
        "interfaces = [\"eth0\"]\n\
         [[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
         backend = [{ address = \"198.51.100.1:80\" }, { address = \"198.51.100.3:80\", weight = 30 }]\n\
         [[service]]\nname = \"api\"\nvip = \"192.0.2.11:80\"\nmode = \"nat\"\n\
         backend = [{ address = \"198.51.100.9:80\", weight = 60 }]\n",
    );
    let expected = [
        "api",
        "  198.51.100.8:80 5+",
        "  198.51.100.9:80 60",
        "web",
        "  198.51.100.1:80 100",
        "  198.51.100.3:80 30d",
    ];
    let before = merged(&new, &overlay);
    assert_eq!(shown(&before), expected);
    assert_eq!(
        overlay.prune(&new),
        [
            "service api: now in the config file, whose definition takes precedence",
            "service api: backend 198.51.100.9:80: now in the config file, whose weight of 60 takes precedence",
            "service web: backend 198.51.100.3:80: now in the config file, whose weight of 30 takes precedence",
        ]
    );
    assert_eq!(merged(&new, &overlay), before);
    assert_eq!(overlay.prune(&new), Vec::<String>::new());
}

#[test]
fn changes_to_what_the_file_no_longer_has_are_dropped_with_a_message() {
    let old = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.patch_backend(&old, "web", at("198.51.100.1:80"), &drain()));
    changed(overlay.remove_backend(&old, "web", at("198.51.100.2:80")));
    changed(overlay.remove_service(&old, "dns"));
    let new = config(
        "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
         backend = [{ address = \"198.51.100.3:80\" }]\n",
    );
    let before = merged(&new, &overlay);
    assert_eq!(shown(&before), ["web", "  198.51.100.3:80 100"]);
    assert_eq!(
        overlay.clone().prune(&new),
        [
            "service dns: no longer in the config file, so its removal is dropped",
            "service web: backend 198.51.100.1:80: no longer in the config file, so its changes are dropped",
            "service web: backend 198.51.100.2:80: no longer in the config file, so its removal is dropped",
        ]
    );
    let none = config("interfaces = [\"eth0\"]");
    assert_eq!(
        overlay.prune(&none)[1..],
        ["service web: no longer in the config file, so the changes to 2 backends are dropped"]
    );
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_reload_reports_each_difference_in_words() {
    let old = merged(&config(FILE), &Overlay::default());
    let mut overlay = Overlay::default();
    let new = config(
        "interfaces = [\"eth0\"]\n\
         [[service]]\nname = \"web\"\nvip = \"192.0.2.10:81\"\nmode = \"nat\"\n\
         health_check = { type = \"tcp\", interval = \"2s\" }\n\
         backend = [{ address = \"198.51.100.1:80\", weight = 1 }, { address = \"198.51.100.11:8080\" }]\n\
         [[service]]\nname = \"api\"\nvip = \"[2001:db8::1]:80\"\nsnat_addresses = [\"2001:db8::2\"]\n",
    );
    changed(overlay.patch_backend(&new, "web", at("198.51.100.1:80"), &drain()));
    let new = merged(&new, &overlay);
    let lines: Vec<String> = diff(&old, &new).iter().flat_map(|service| service.lines()).collect();
    assert_eq!(
        lines,
        [
            "service api: added, mode full-nat, protocol tcp, snat_addresses 2001:db8::2, vip [2001:db8::1]:80, with no \
             backends",
            "service dns: removed, with 1 backend",
            "service web: health_check.interval 1s -> 2s",
            "service web: mode full-nat -> nat",
            "service web: vip 192.0.2.10:80 -> 192.0.2.10:81",
            "service web: backend 198.51.100.1:80 drained",
            "service web: backend 198.51.100.1:80 weight 100 -> 1",
            "service web: backend 198.51.100.2:80 removed",
            "service web: backend 198.51.100.11:8080 added, weight 100",
        ]
    );
    assert_eq!(diff(&new, &new), []);
}

#[test]
fn an_added_service_is_reported_with_its_tables() {
    let file = config(FILE);
    let mut overlay = Overlay::default();
    let api = service(
        r#"{"name":"api","vip":"192.0.2.11:80","health_check":{"type":"http","path":"/x","interval":"2s"},
            "agent":{"port":8081}}"#,
    );
    changed(overlay.add_service(&file, api));
    changed(overlay.add_backend(&file, "api", backend("198.51.100.9:80", 7)));
    changed(overlay.patch_backend(&file, "api", at("198.51.100.9:80"), &drain()));
    let lines = runtime_lines(&file, &overlay).expect("valid");
    assert_eq!(
        lines,
        ["service api: added, agent (interval 2s, port 8081), health_check (fall 3, interval 2s, path /x, \
          rise 2, status 200-399, timeout 500ms, type http), mode full-nat, protocol tcp, vip 192.0.2.11:80, with 1 \
          backend"]
    );
    let web = runtime_lines(&file, &{
        let mut overlay = Overlay::default();
        changed(overlay.add_backend(&file, "web", backend("198.51.100.9:80", 7)));
        changed(overlay.patch_backend(&file, "web", at("198.51.100.9:80"), &drain()));
        overlay
    });
    assert_eq!(web.expect("valid"), ["service web: backend 198.51.100.9:80 added, drained, weight 7"]);
}

#[test]
fn a_change_of_protocol_is_reported_in_one_line() {
    let old = merged(&config(FILE), &Overlay::default());
    let file = FILE.replace("vip = \"192.0.2.10:80\"", "vip = \"192.0.2.10:80\"\nprotocol = \"udp\"");
    let file = config(&file);
    let mut overlay = Overlay::default();
    overlay.depart(&file, &old, Leave::Drain, &BootTime { boot: "this".into(), seconds: 0 });
    let new = merged(&file, &overlay);
    assert!(shown(&new).contains(&"web-leaving".to_owned()), "its flows stay");
    let lines: Vec<String> = diff(&old, &new).iter().flat_map(|service| service.lines()).collect();
    assert_eq!(lines, ["service web: protocol tcp -> udp"]);
}

#[test]
fn a_drain_and_an_enable_of_a_service_are_reported() {
    let file = config(FILE);
    let mut overlay = Overlay::default();
    let enabled = merged(&file, &overlay);
    changed(overlay.patch_service(&file, "web", &ServicePatch::admin(AdminState::Draining), Duration::ZERO));
    let drained = merged(&file, &overlay);
    let lines = |old, new| -> Vec<String> { diff(old, new).iter().flat_map(|it| it.lines()).collect() };
    assert_eq!(lines(&enabled, &drained), ["service web: drained"]);
    assert_eq!(lines(&drained, &enabled), ["service web: no longer drained"]);
}

#[test]
fn a_service_with_another_name_on_the_same_vip_is_reported_as_renamed() {
    let old = merged(&config(FILE), &Overlay::default());
    let lines_of = |file: &str| -> Vec<String> {
        let changes = diff(&old, &merged(&config(file), &Overlay::default()));
        changes.iter().flat_map(|service| service.lines()).collect()
    };
    let renamed = FILE.replace("name = \"web\"", "name = \"api\"");
    assert_eq!(lines_of(&renamed), ["service api: name web -> api"]);
    let changes = diff(&old, &merged(&config(&renamed), &Overlay::default()));
    assert_eq!(changes[0].old_name(), "web");
    assert_eq!(
        lines_of(&renamed.replace("192.0.2.10:80", "192.0.2.10:81"))[1..],
        ["service web: removed, with 2 backends"],
        "another VIP is another service"
    );
    let mut leaves = old.clone();
    leaves.services.iter_mut().find(|it| it.service.name == "web").unwrap().is_leaving = true;
    let changes = diff(&leaves, &merged(&config(&renamed), &Overlay::default()));
    let kinds: Vec<_> = changes.iter().map(|it| (it.service.as_str(), it.kind)).collect();
    assert_eq!(
        kinds,
        [("api", ChangeKind::Added), ("web", ChangeKind::Removed)],
        "what leaves is told by itself"
    );
}

/// The overlay seen from outside: the services that there are, and nothing of where they came from.
#[derive(Clone, PartialEq, Debug)]
struct Model(BTreeMap<String, (Service, ModelBackends)>);

type ModelBackends = BTreeMap<SocketAddr, (u16, AdminState)>;

impl Model {
    fn of(effective: &Effective) -> Self {
        let backends = |service: &crate::model::EffectiveService| {
            let each =
                |there: &EffectiveBackend| (there.backend.address, (there.backend.weight, there.admin));
            service.backends.iter().map(each).collect()
        };
        let services = effective.services.iter();
        Self(
            services
                .map(|service| (service.service.name.clone(), (service.service.clone(), backends(service))))
                .collect(),
        )
    }

    /// Unique VIPs, no backend that is a VIP, and room: what the universe below can break.
    fn holds(&self, config: &Config) -> bool {
        let vips: BTreeSet<Vip> = self.0.values().map(|(service, _)| service.vip).collect();
        let backends: Vec<&SocketAddr> = self.0.values().flat_map(|(_, backends)| backends.keys()).collect();
        vips.len() == self.0.len()
            && backends.iter().all(|backend| !vips.contains(&Vip::from(**backend)))
            && self.0.len() <= config.limits.services as usize
            && backends.len() <= config.limits.backends as usize
    }

    /// What the change makes, or `None` where it is to be refused.
    fn after(&self, config: &Config, op: &Op) -> Option<Self> {
        let mut next = self.clone();
        match op {
            Op::AddService(service) => {
                let backends = service.backends.iter();
                let new = (
                    service.without_backends(),
                    backends.map(|b| (b.address, (b.weight, AdminState::Enabled))).collect(),
                );
                match self.0.get(&service.name) {
                    Some(present) if *present == new => {}
                    Some(_) => return None,
                    None => {
                        next.0.insert(service.name.clone(), new);
                    }
                }
            }
            Op::RemoveService(name) => {
                next.0.remove(name)?;
            }
            Op::AddBackend(name, backend) => {
                let backends = &mut next.0.get_mut(name)?.1;
                let new = (backend.weight, AdminState::Enabled);
                if *backends.entry(backend.address).or_insert(new) != new {
                    return None;
                }
            }
            Op::Patch(name, address, patch) => {
                let (weight, admin) = next.0.get_mut(name)?.1.get_mut(address)?;
                if *patch == BackendPatch::default() {
                    return None;
                }
                let asked = patch.options.keys().find(|(key, _)| *key == "weight");
                *weight = asked.map_or(*weight, |(_, asked)| asked.as_u64().expect("a number") as u16);
                *admin = patch.admin.unwrap_or(*admin);
            }
            Op::RemoveBackend(name, address) => {
                next.0.get_mut(name)?.1.remove(address)?;
            }
            Op::Reload(_) => unreachable!("the file's part is not modelled"),
        }
        next.holds(config).then_some(next)
    }
}

#[derive(Clone, Debug)]
enum Op {
    AddService(Box<Service>),
    RemoveService(String),
    AddBackend(String, Backend),
    Patch(String, SocketAddr, BackendPatch),
    RemoveBackend(String, SocketAddr),
    Reload(Vec<Service>),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned)
}

fn vip() -> impl Strategy<Value = SocketAddr> {
    prop::sample::select(vec![at("192.0.2.1:80"), at("192.0.2.2:80"), at("192.0.2.3:80"), at("192.0.2.4:80")])
}

/// Of the VIPs, one may be taken for a backend.
fn real() -> impl Strategy<Value = SocketAddr> {
    prop::sample::select(vec![
        at("198.51.100.1:80"),
        at("198.51.100.2:80"),
        at("198.51.100.3:80"),
        at("192.0.2.4:80"),
    ])
}

fn weight() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0, 1, 100])
}

fn any_service() -> impl Strategy<Value = Service> {
    (name(), vip(), any::<bool>(), prop::collection::btree_map(real(), weight(), 0..4)).prop_map(
        |(name, vip, nat, backends)| Service {
            mode: if nat { Mode::Nat } else { Mode::FullNat },
            backends: backends
                .into_iter()
                .filter(|(address, _)| *address != vip)
                .map(|(address, weight)| Backend::new(address, weight))
                .collect(),
            ..Service::new(name, vip.into())
        },
    )
}

/// The services of a file that is valid by itself.
fn any_file() -> impl Strategy<Value = Vec<Service>> {
    prop::collection::vec(any_service(), 0..3).prop_filter_map("the file is valid", |services| {
        let config = file(services);
        (effective(&config, &Overlay::default()).is_ok()).then_some(config.services)
    })
}

fn op() -> impl Strategy<Value = Op> {
    let admin = prop::sample::select(vec![AdminState::Enabled, AdminState::Draining]);
    let patch = (prop::option::of(weight()), prop::option::of(admin))
        .prop_map(|(weight, admin)| BackendPatch { admin, ..weight.map(weigh).unwrap_or_default() });
    let backend = (real(), weight()).prop_map(|(address, weight)| Backend::new(address, weight));
    prop_oneof![
        3 => any_service().prop_map(|service| Op::AddService(Box::new(service))),
        2 => name().prop_map(Op::RemoveService),
        4 => (name(), backend).prop_map(|(name, backend)| Op::AddBackend(name, backend)),
        4 => (name(), real(), patch).prop_map(|(name, real, patch)| Op::Patch(name, real, patch)),
        3 => (name(), real()).prop_map(|(name, real)| Op::RemoveBackend(name, real)),
        1 => any_file().prop_map(Op::Reload),
    ]
}

fn file(services: Vec<Service>) -> Config {
    let limits = "interfaces = [\"eth0\"]\nlimits = { services = 3, backends = 6 }\n";
    Config { services, ..config(limits) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_sequence_of_changes_is_what_a_plain_model_says(
        services in any_file(),
        ops in prop::collection::vec(op(), 0..40),
    ) {
        let mut config = file(services);
        let mut overlay = Overlay::default();
        let mut model = Model::of(&merged(&config, &overlay));
        for op in ops {
            let before = overlay.clone();
            let answer = match op.clone() {
                Op::AddService(service) => overlay.add_service(&config, *service),
                Op::RemoveService(name) => overlay.remove_service(&config, &name),
                Op::AddBackend(name, backend) => overlay.add_backend(&config, &name, backend),
                Op::Patch(name, address, patch) => overlay.patch_backend(&config, &name, address, &patch),
                Op::RemoveBackend(name, address) => overlay.remove_backend(&config, &name, address),
                Op::Reload(services) => {
                    let new = file(services);
                    if let Ok(effective) = effective(&new, &overlay) {
                        config = new;
                        overlay.prune(&config);
                        prop_assert_eq!(&merged(&config, &overlay), &effective, "pruning changes nothing");
                        model = Model::of(&effective);
                    }
                    continue;
                }
            };
            match (model.after(&config, &op), answer) {
                (Some(next), Ok(outcome)) => {
                    prop_assert_eq!(outcome.changed, next != model, "{}", outcome.message);
                    model = next;
                }
                (None, Err(_)) => prop_assert_eq!(&overlay, &before, "a refused change changes nothing"),
                (wanted, got) => prop_assert!(false, "{:?}: {:?} and {:?}", op, wanted, got),
            }
            prop_assert_eq!(&Model::of(&merged(&config, &overlay)), &model);

            let json = serde_json::to_string(&overlay).expect("printed");
            prop_assert_eq!(&serde_json::from_str::<Overlay>(&json).expect("read"), &overlay);
            prop_assert_eq!(overlay.clone().prune(&config), Vec::<String>::new(), "nothing to prune");
            if model == Model::of(&merged(&config, &Overlay::default())) {
                prop_assert_eq!(&overlay, &Overlay::default(), "a trace is left");
            }
        }
    }
}

#[test]
fn a_service_is_drained_and_enabled_and_a_repetition_says_so() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let admin = |overlay: &Overlay| {
        let services = merged(&config, overlay).services;
        services.into_iter().map(|service| (service.service.name, service.admin)).collect::<Vec<_>>()
    };
    let both = |dns, web| vec![("dns".to_owned(), dns), ("web".to_owned(), web)];
    let (enabled, draining) = (AdminState::Enabled, AdminState::Draining);
    assert_eq!(
        changed(overlay.patch_service(&config, "web", &ServicePatch::admin(draining), Duration::ZERO)),
        "service web is draining: it keeps its flows and gets no new ones"
    );
    assert_eq!(admin(&overlay), both(enabled, draining));
    assert_eq!(
        unchanged(overlay.patch_service(&config, "web", &ServicePatch::admin(draining), Duration::ZERO)),
        "service web is already draining"
    );
    assert_eq!(
        changed(overlay.patch_service(&config, "web", &ServicePatch::admin(enabled), Duration::ZERO)),
        "service web enabled"
    );
    assert_eq!(overlay, Overlay::default());
    assert_eq!(
        unchanged(overlay.patch_service(&config, "web", &ServicePatch::admin(enabled), Duration::ZERO)),
        "service web is already enabled"
    );
    let unknown = overlay
        .patch_service(&config, "wbe", &ServicePatch::admin(draining), Duration::ZERO)
        .expect_err("refused");
    assert!(matches!(&unknown, Refusal::NotFound(why) if why.contains("web")), "{unknown}");
}

#[test]
fn a_drain_ends_with_its_service_and_stays_over_a_reload() {
    let config_now = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.patch_service(
        &config_now,
        "web",
        &ServicePatch::admin(AdminState::Draining),
        Duration::ZERO,
    ));
    changed(overlay.patch_service(
        &config_now,
        "dns",
        &ServicePatch::admin(AdminState::Draining),
        Duration::ZERO,
    ));
    changed(overlay.patch_node(&config_now, AdminState::Draining));
    changed(overlay.remove_service(&config_now, "dns"));
    changed(overlay.add_service(&config_now, config_now.services[1].clone()));
    assert_eq!(overlay.service_admin("dns"), AdminState::Enabled, "it was removed");
    let before = overlay.clone();
    assert_eq!(overlay.prune(&config_now), Vec::<String>::new());
    assert_eq!(overlay, before);
    let lines = overlay.prune(&config("interfaces = [\"eth0\"]\n"));
    assert_eq!(lines, ["service web: no longer in the config file, so its drain is dropped"]);
    assert_eq!(overlay, Overlay { node: AdminState::Draining, ..Overlay::default() });
}

#[test]
fn a_node_is_drained_and_the_answer_says_who_removes_the_vips() {
    let ours = config(&format!("vips.interface = \"lo\"\n{FILE}"));
    let mut overlay = Overlay::default();
    let said = changed(overlay.patch_node(&ours, AdminState::Draining));
    assert!(said.contains("its VIPs are withdrawn"), "{said}");
    let said = unchanged(overlay.patch_node(&ours, AdminState::Draining));
    assert!(said.starts_with("this node is already drained: its VIPs are withdrawn"), "{said}");
    changed(overlay.patch_node(&ours, AdminState::Enabled));
    assert_eq!(overlay, Overlay::default());
    let said = changed(overlay.patch_node(&config(FILE), AdminState::Draining));
    assert!(said.contains("remove their addresses or routes yourself: 192.0.2.10"), "{said}");
}

fn options(json: Value) -> ServicePatch {
    ServicePatch { options: serde_json::from_value(json).expect("a patch"), ..ServicePatch::default() }
}

#[test]
fn single_keys_of_the_default_check_can_change() {
    use serde_json::json;
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let mut set = |json| overlay.patch_service(&config, "web", &options(json), Duration::ZERO);
    assert_eq!(
        unchanged(set(json!({ "health_check": null }))),
        "service web already has health_check fall 3, interval 1s, rise 2, timeout 500ms, type tcp"
    );
    assert_eq!(
        unchanged(set(json!({ "health_check": { "interval": "1s" } }))),
        "service web already has health_check.interval 1s"
    );
    assert_eq!(
        changed(set(json!({ "health_check": { "interval": "2s" } }))),
        "service web health_check.interval 1s -> 2s"
    );
    let saved = save(FILE, &overlay).unwrap_or_else(|why| panic!("{why}"));
    let written = self::config(&saved.text).services[0].check().to_string();
    assert_eq!(written, "tcp, every 2s, timeout 500ms, rise 2, fall 3");
    let mut set = |json| overlay.patch_service(&config, "web", &options(json), Duration::ZERO);
    assert_eq!(
        changed(set(json!({ "health_check": { "interval": null } }))),
        "service web health_check.interval 2s -> 1s"
    );
    unchanged(set(json!({ "health_check": { "type": "tcp" } })));
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_rate_of_new_flows_is_switched_off_although_a_burst_is_set() {
    let file =
        FILE.replace("\"192.0.2.10:80\"", "\"192.0.2.10:80\"\nnew_flow_rate = 100\nnew_flow_burst = 300");
    let file = config(&file);
    let mut overlay = Overlay::default();
    let off = options(json!({ "new_flow_rate": 0 }));
    assert_eq!(
        changed(overlay.patch_service(&file, "web", &off, Duration::ZERO)),
        "service web new_flow_rate 100 -> 0"
    );
    assert_eq!(merged(&file, &overlay).services[1].service.new_flow_rate, 0);
    let saved = save(
        &FILE.replace("\"192.0.2.10:80\"", "\"192.0.2.10:80\"\nnew_flow_rate = 100\nnew_flow_burst = 300"),
        &overlay,
    );
    assert!(saved.expect("valid").text.contains("new_flow_rate = 0\nnew_flow_burst = 300"));
}

#[test]
fn a_backend_that_is_listed_twice_in_one_change_is_refused() {
    let (file, mut overlay) = (config(FILE), Overlay::default());
    let twice = json!({ "backend": [
        { "address": "198.51.100.11:8080", "weight": 1 },
        { "address": "198.51.100.11:8080", "weight": 2 },
    ] });
    let refusal = overlay.patch_service(
        &file,
        "web",
        &serde_json::from_value::<ServicePatch>(twice).expect("a patch"),
        Duration::ZERO,
    );
    assert!(refusal.unwrap_err().to_string().contains("198.51.100.11:8080 is listed twice"));
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn quic_and_the_ids_of_its_servers_change_together() {
    let file = "interfaces = [\"eth0\"]\n[[service]]\nname = \"h3\"\nvip = \"192.0.2.10:443\"\nprotocol = \"udp\"\n\
                backend = [{ address = \"198.51.100.1:443\" }, { address = \"198.51.100.2:443\" }]\n";
    let file = config(file);
    let mut overlay = Overlay::default();
    let together = "xdp-lb service set h3 quic.server_id_length=N backend.198.51.100.1:443.server_id=HEX \
                    backend.198.51.100.2:443.server_id=HEX";
    let quic = options(json!({ "quic": { "server_id_length": 1 } }));
    let id = BackendPatch::of("server_id", "01");
    for alone in [
        overlay.patch_service(&file, "h3", &quic, Duration::ZERO),
        overlay.patch_backend(&file, "h3", at("198.51.100.1:443"), &id),
    ] {
        let Err(Refusal::Invalid(why)) = alone else { panic!("{alone:?}") };
        assert!(why.contains("change together") && why.contains(together), "{why}");
    }
    assert_eq!(overlay, Overlay::default());
    let both = json!({
        "quic": { "server_id_length": 1 },
        "backend": [
            { "address": "198.51.100.1:443", "server_id": "01" }, { "address": "198.51.100.2:443", "server_id": "02" },
        ],
    });
    let both: ServicePatch = serde_json::from_value(both).expect("a patch");
    assert_eq!(
        changed(overlay.patch_service(&file, "h3", &both, Duration::ZERO)),
        "service h3 quic.server_id_length not set -> 1, quic.config_id not set -> 0; backend 198.51.100.1:443 server_id none -> 01; backend \
         198.51.100.2:443 server_id none -> 02"
    );
    let ids = |overlay: &Overlay| -> Vec<_> {
        let services = merged(&file, overlay).services;
        services[0].backends.iter().map(|it| it.backend.server_id.map(|id| id.to_string())).collect()
    };
    assert_eq!(ids(&overlay), [Some("01".into()), Some("02".into())]);
    let without = json!({
        "quic": "none",
        "backend": [
            { "address": "198.51.100.1:443", "server_id": "none" }, { "address": "198.51.100.2:443", "server_id": null },
        ],
    });
    let without: ServicePatch = serde_json::from_value(without).expect("a patch");
    changed(overlay.patch_service(&file, "h3", &without, Duration::ZERO));
    assert_eq!(overlay, Overlay::default());
    let unknown = json!({ "backend": [{ "address": "198.51.100.9:443", "weight": 1 }] });
    let unknown =
        overlay.patch_service(&file, "h3", &serde_json::from_value(unknown).unwrap(), Duration::ZERO);
    assert!(matches!(unknown, Err(Refusal::NotFound(_))), "{unknown:?}");
}

#[test]
fn the_same_change_twice_changes_nothing_the_second_time() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let max_flows = ServicePatch::of("max_flows", 4);
    changed(overlay.patch_service(&config, "web", &max_flows, Duration::ZERO));
    assert_eq!(
        unchanged(overlay.patch_service(&config, "web", &max_flows, Duration::ZERO)),
        "service web already has max_flows 4"
    );
}

#[test]
fn a_new_table_is_reported_with_all_of_its_keys() {
    use serde_json::json;
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let mut set = |json| overlay.patch_service(&config, "web", &options(json), Duration::ZERO);
    assert_eq!(
        changed(set(json!({ "circuit_breaker": { "open": "20s" } }))),
        "service web circuit_breaker.open not set -> 20s, circuit_breaker.half_open_portion not set -> 10, \
         circuit_breaker.max_open not set -> 5m, circuit_breaker.window not set -> 10s"
    );
    assert_eq!(
        changed(set(json!({ "circuit_breaker": { "failure_percent": 50 } }))),
        "service web circuit_breaker.failure_percent not set -> 50"
    );
}

#[test]
fn none_removes_a_key_of_a_table_in_the_file() {
    use serde_json::json;
    let text = FILE.replacen(
        "name = \"web\"\n",
        "name = \"web\"\nmode = \"nat\"\ncircuit_breaker = { open = \"20s\", failure_percent = 50 }\n",
        1,
    );
    let config = config(&text);
    let mut overlay = Overlay::default();
    let patch = options(json!({ "circuit_breaker": { "failure_percent": "none" } }));
    assert_eq!(
        changed(overlay.patch_service(&config, "web", &patch, Duration::ZERO)),
        "service web circuit_breaker.failure_percent 50 -> not set"
    );
    unchanged(overlay.patch_service(&config, "web", &patch, Duration::ZERO));
    let read: Overlay =
        serde_json::from_str(&serde_json::to_string(&overlay).expect("printed")).expect("read");
    assert_eq!(read, overlay);
    let saved = save(&text, &overlay).unwrap_or_else(|why| panic!("{why}"));
    assert!(!saved.text.contains("failure_percent"), "{}", saved.text);
    assert!(saved.text.contains("open = \"20s\""), "{}", saved.text);
}

#[test]
fn without_discovery_the_found_backends_are_dropped() {
    use serde_json::json;
    let config = config(FILE);
    for without in [json!("none"), json!(null)] {
        let mut overlay = Overlay::default();
        let discovery = json!({ "discovery": { "type": "file", "path": "/run/web.json" } });
        changed(overlay.patch_service(&config, "web", &options(discovery), Duration::ZERO));
        overlay.discover(&config, "web", &[backend("198.51.100.7:80", 100)]);
        assert_eq!(overlay.discovered("web").count(), 1);
        changed(overlay.patch_service(
            &config,
            "web",
            &options(json!({ "discovery": without })),
            Duration::ZERO,
        ));
        assert_eq!(overlay, Overlay::default());
        assert_eq!(overlay.prune(&config), Vec::<String>::new());
    }
}

#[test]
fn a_removed_service_that_drains_is_reported_as_such() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    changed(overlay.add_service(&config, api()));
    let before = merged(&config, &overlay);
    changed(overlay.remove_service(&config, "api"));
    let now = BootTime { boot: "a".into(), seconds: 7 };
    overlay.depart(&config, &before, Leave::Drain, &now);
    assert_eq!(
        overlay.patch_service(&config, "api", &ServicePatch::of("max_flows", 4), Duration::ZERO),
        Err(Refusal::Conflict(
            "service api was removed and is draining; add it again with: xdp-lb service add api".into()
        ))
    );
    assert_eq!(
        unchanged(overlay.patch_service(
            &config,
            "api",
            &ServicePatch::admin(AdminState::Draining),
            Duration::ZERO
        )),
        "service api was removed and is already draining"
    );
}

#[test]
fn affinity_changes_once_all_flows_are_recorded() {
    let of = |mode, tracking| {
        let keys = format!("vip = \"192.0.2.10:80\"\nmode = \"{mode}\"\nflow_tracking = \"{tracking}\"");
        config(&FILE.replace("vip = \"192.0.2.10:80\"", &keys))
    };
    let set = |config: &Config, wait| {
        Overlay::default().patch_service(config, "web", &ServicePatch::of("affinity", "source"), wait)
    };
    let refused = |config: &Config, wait| set(config, wait).expect_err("refused").to_string();
    let said = refused(&of("nat", "auto"), Duration::ZERO);
    assert!(said.contains("Set flow_tracking = \"always\", wait for timeouts.tcp_idle"), "{said}");
    let said = refused(&of("nat", "always"), Duration::from_millis(61_500));
    assert!(said.contains("Wait 1m 2s (timeouts.tcp_idle), then change it"), "{said}");
    changed(set(&of("nat", "always"), Duration::ZERO));
    changed(set(&of("full-nat", "auto"), Duration::from_secs(900)));

    // Both at once is the same as one right after the other.
    let both = serde_json::from_value(json!({ "affinity": "source", "flow_tracking": "always" }));
    let both = ServicePatch { options: both.expect("a patch"), ..ServicePatch::default() };
    let nat = of("nat", "auto");
    Overlay::default().patch_service(&nat, "web", &both, Duration::ZERO).expect_err("refused");
}

#[test]
fn the_answer_to_a_change_hides_the_values_of_headers() {
    let file = FILE.replacen(
        "vip = \"192.0.2.10:80\"",
        "vip = \"192.0.2.10:80\"\nhealth_check = { type = \"http\", headers = [\"Authorization: Bearer old\"] }",
        1,
    );
    let (config, mut overlay) = (config(&file), Overlay::default());
    let headers = json!({ "headers": ["Authorization: Bearer new"] });
    let patch = ServicePatch::of("health_check", headers);
    assert_eq!(
        changed(overlay.patch_service(&config, "web", &patch, Duration::ZERO)),
        "service web health_check.headers Authorization: (secret) -> Authorization: (secret)"
    );
    let again = unchanged(overlay.patch_service(&config, "web", &patch, Duration::ZERO));
    assert!(again.contains("Authorization: (secret)") && !again.contains("Bearer"), "{again}");
    let changes = diff(&merged(&config, &Overlay::default()), &merged(&config, &overlay));
    assert_eq!(changes.len(), 1);
    assert!(!serde_json::to_string(&changes).expect("JSON").contains("Bearer"), "{changes:?}");
    let check = merged(&config, &overlay).services[1].service.check();
    assert!(format!("{check:?}").contains("Bearer new"), "it is sent: {check:?}");
}
