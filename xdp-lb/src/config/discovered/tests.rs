use super::super::{effective, parse};
use super::*;
use crate::api::types::BackendPatch;
use crate::config::Effective;
use crate::control::handle::Refusal;

const FILE: &str = "interfaces = [\"eth0\"]\n\
    [[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
    discovery = { type = \"dns\", name = \"web.example.com\", max_backends = 3 }\n\
    backend = [{ address = \"198.51.100.1:80\", weight = 9 }]\n\
    [[service]]\nname = \"api\"\nvip = \"192.0.2.11:80\"\n";

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn found(hosts: &[u8]) -> Vec<Backend> {
    hosts.iter().map(|host| Backend::new(SocketAddr::from(([198, 51, 100, *host], 80)), 100)).collect()
}

fn merged(config: &Config, overlay: &Overlay) -> Effective {
    effective(config, overlay).unwrap_or_else(|lines| panic!("{lines:#?}"))
}

/// The backends of `web`: host, weight, `+` where found, `-` where they leave, `d` where the operator drains them.
fn shown(config: &Config, overlay: &Overlay) -> Vec<String> {
    let effective = merged(config, overlay);
    let web = effective.services.iter().find(|service| service.service.name == "web").expect("web");
    let words = |it: &EffectiveBackend| {
        let sign = match (it.origin, it.is_leaving) {
            (Origin::Dns, true) => "-",
            (Origin::Dns, false) => "+",
            (Origin::Runtime, _) => "*",
            _ => "",
        };
        let drains = if it.admin == AdminState::Draining { "d" } else { "" };
        let address = it.backend.address.ip().to_string();
        let host = address.rsplit('.').next().unwrap_or_default();
        format!("{sign}{host}={}{drains}", it.backend.weight)
    };
    web.backends.iter().map(words).collect()
}

#[test]
fn what_is_found_joins_what_is_listed_and_drains_when_it_is_not_found_any_more() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let taken = overlay.discover(&config, "web", &found(&[1, 2, 3]), 1000);
    assert_eq!(taken.changes.len(), 3);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "+3=100"], "the file's own weight holds");
    assert_eq!(overlay.discover(&config, "web", &found(&[3, 2, 1]), 1001), Taken::default());

    let taken = overlay.discover(&config, "web", &found(&[2]), 1002);
    assert_eq!(taken.changes[1], "backend 198.51.100.3:80 not found any more: it drains");
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "-3=100"]);
    overlay.discover(&config, "web", &found(&[2]), 1009);
    let leaving: Vec<_> =
        overlay.leaving("web").filter(|(address, _)| *address == at("198.51.100.3:80")).collect();
    assert_eq!(leaving, [(at("198.51.100.3:80"), 1002)], "the time of its last answer counts");

    let weighed = [Backend::new(at("198.51.100.3:80"), 7)];
    let taken = overlay.discover(&config, "web", &weighed, 1010);
    assert!(taken.changes.contains(&"backend 198.51.100.3:80 found again".to_owned()), "{taken:?}");
    assert_eq!(shown(&config, &overlay), ["1=9", "-2=100", "+3=7"]);
    overlay.release("web", at("198.51.100.2:80"));
    assert_eq!(shown(&config, &overlay), ["1=9", "+3=7"]);
    assert_eq!(overlay.discover(&config, "api", &found(&[1]), 1), Taken::default(), "api has no discovery");
}

#[test]
fn more_than_max_backends_are_left_out_and_those_that_serve_are_not_driven_out() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    overlay.discover(&config, "web", &found(&[5, 6, 7]), 1);
    let taken = overlay.discover(&config, "web", &found(&[2, 3, 4, 5, 6, 7]), 2);
    assert_eq!((taken.left_out, taken.changes.len()), (3, 0));
    assert_eq!(shown(&config, &overlay), ["1=9", "+5=100", "+6=100", "+7=100"]);
    // An answer that is another each time leaves no more behind than may serve.
    for round in 0..20u8 {
        let hosts: Vec<u8> = (0..3).map(|host| 10 + round * 3 + host).collect();
        overlay.discover(&config, "web", &found(&hosts), 3 + u64::from(round));
        assert!(shown(&config, &overlay).len() <= 7);
    }
    assert_eq!(overlay.leaving("web").count(), 3);
}

#[test]
fn what_stands_against_the_rest_of_the_config_is_refused_and_the_config_holds() {
    let text = FILE.replacen("interfaces", "limits = { backends = 3 }\ninterfaces", 1);
    let config = config(&text);
    let mut overlay = Overlay::default();
    let answer = [at("192.0.2.11:80"), at("198.51.100.2:80"), at("198.51.100.3:80"), at("127.0.0.1:80")]
        .map(|address| Backend::new(address, 1));
    overlay.discovered.insert(
        "web".into(),
        answer.iter().map(|it| (it.address, Discovered { backend: *it, leaving_since: None })).collect(),
    );
    overlay.discovered.get_mut("web").expect("it is there").insert(
        at("198.51.100.4:80"),
        Discovered { backend: Backend::new(at("198.51.100.4:80"), 1), leaving_since: None },
    );
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=1", "+3=1"]);
    let effective = merged(&config, &overlay);
    let web = effective.services.iter().find(|service| service.service.name == "web").expect("web");
    let refused: Vec<_> = web.refused.iter().map(|it| format!("{} {}", it.address, it.why)).collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    for (line, words) in refused.iter().zip(["loopback", "is the VIP of service api", "limits.backends = 3"])
    {
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn the_operator_drains_and_weighs_what_is_found_and_cannot_remove_it_while_it_is() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    overlay.discover(&config, "web", &found(&[2, 3]), 1);
    let drain = BackendPatch { weight: Some(5), admin: Some(AdminState::Draining) };
    overlay.patch_backend(&config, "web", at("198.51.100.2:80"), drain).expect("drained");
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=5d", "+3=100"]);
    overlay.discover(&config, "web", &found(&[2, 3]), 2);
    assert_eq!(overlay.prune(&config), Vec::<String>::new());
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=5d", "+3=100"], "it stays so while it is found");

    let Err(Refusal::Conflict(why)) = overlay.remove_backend(&config, "web", at("198.51.100.2:80")) else {
        panic!("removed")
    };
    assert!(
        why.contains("dns web.example.com") && why.contains("backend drain web 198.51.100.2:80"),
        "{why}"
    );
    overlay.discover(&config, "web", &found(&[3]), 3);
    overlay.remove_backend(&config, "web", at("198.51.100.2:80")).expect("one that leaves may go at once");
    overlay.discover(&config, "web", &found(&[2, 3]), 4);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "+3=100"], "what was changed of it went with it");

    // Added, it stays whatever discovery says; no longer, it is discovery's again.
    overlay.discover(&config, "web", &found(&[3]), 5);
    overlay.add_backend(&config, "web", Backend::new(at("198.51.100.2:80"), 4)).expect("added");
    overlay.discover(&config, "web", &found(&[2, 3]), 6);
    overlay.discover(&config, "web", &found(&[3]), 7);
    assert_eq!(shown(&config, &overlay), ["1=9", "*2=4", "+3=100"]);
    overlay.discover(&config, "web", &found(&[2, 3]), 8);
    let said = overlay.remove_backend(&config, "web", at("198.51.100.2:80")).expect("removed");
    assert!(said.message.contains("left to the service's discovery"), "{}", said.message);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "+3=100"]);
}

#[test]
fn what_was_found_is_kept_in_the_state_and_forgotten_with_its_discovery() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    overlay.discover(&config, "web", &found(&[2, 3]), 1);
    overlay.discover(&config, "web", &found(&[3]), 2);
    let json = serde_json::to_string(&overlay).expect("printed");
    let mut read: Overlay = serde_json::from_str(&json).expect("read");
    assert_eq!(read, overlay);
    assert_eq!(read.prune(&config), Vec::<String>::new());
    let without = FILE.replace("discovery = ", "# ");
    let without = parse(&without).expect("valid");
    assert_eq!(merged(&without, &read).services[1].backends.len(), 1);
    let lines = read.prune(&without);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("has no discovery any more"), "{lines:?}");
    assert_eq!(read, Overlay::default());
}
