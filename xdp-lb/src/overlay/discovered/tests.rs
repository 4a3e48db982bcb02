use super::*;
use crate::config::parse;
use crate::model::refusal::Refusal;
use crate::model::request::BackendPatch;
use crate::model::state::{AdminState, Origin};
use crate::model::{Effective, EffectiveBackend};
use crate::overlay::{BootTime, Leave, effective};

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

/// Takes an answer in, at this second of the boot; what is not in it leaves.
fn discover(overlay: &mut Overlay, config: &Config, hosts: &[u8], seconds: u64) -> Taken {
    let before = merged(config, overlay);
    let taken = overlay.discover(config, "web", &found(hosts));
    overlay.depart(config, &before, Leave::Drain, &BootTime { boot: "this".into(), seconds });
    taken
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
fn found_backends_join_the_listed_ones_and_drain_once_no_longer_found() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    let taken = discover(&mut overlay, &config, &[1, 2, 3], 1000);
    assert_eq!(taken.changes.len(), 3);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "+3=100"], "the file's own weight holds");
    assert_eq!(discover(&mut overlay, &config, &[3, 2, 1], 1001), Taken::default());

    let taken = discover(&mut overlay, &config, &[2], 1002);
    assert_eq!(taken.changes[1], "backend 198.51.100.3:80 no longer found");
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "-3=100"]);
    discover(&mut overlay, &config, &[2], 1009);
    let leaving: Vec<_> = overlay.leaving("web").collect();
    assert_eq!(leaving, [(at("198.51.100.3:80"), 1002)], "the time of its last answer counts");

    let weighed = [Backend::new(at("198.51.100.3:80"), 7)];
    let before = merged(&config, &overlay);
    let taken = overlay.discover(&config, "web", &weighed);
    overlay.depart(&config, &before, Leave::Drain, &BootTime { boot: "this".into(), seconds: 1010 });
    assert!(taken.changes.contains(&"backend 198.51.100.3:80 found again".to_owned()), "{taken:?}");
    assert_eq!(shown(&config, &overlay), ["1=9", "-2=100", "+3=7"]);
    overlay.release("web", at("198.51.100.2:80"));
    assert_eq!(shown(&config, &overlay), ["1=9", "+3=7"]);
    assert_eq!(overlay.discover(&config, "api", &found(&[1])), Taken::default(), "api has no discovery");
}

#[test]
fn backends_beyond_max_backends_are_left_out_and_present_ones_stay() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    discover(&mut overlay, &config, &[5, 6, 7], 1);
    let taken = discover(&mut overlay, &config, &[2, 3, 4, 5, 6, 7], 2);
    assert_eq!((taken.left_out, taken.changes.len()), (3, 0));
    assert_eq!(shown(&config, &overlay), ["1=9", "+5=100", "+6=100", "+7=100"]);
}

#[test]
fn leaving_backends_keep_their_places_and_new_ones_wait() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    discover(&mut overlay, &config, &[5, 6, 7], 1);
    assert_eq!(discover(&mut overlay, &config, &[15, 16, 17], 2).waiting, []);
    let all = ["1=9", "-5=100", "-6=100", "-7=100", "+15=100", "+16=100", "+17=100"];
    assert_eq!(shown(&config, &overlay), all, "as many leave as may serve");
    // An answer that is another each time drives none of them out, and fills no table.
    for round in 0..20u8 {
        let hosts = [20 + round * 3, 21 + round * 3, 17];
        let taken = discover(&mut overlay, &config, &hosts, 3 + u64::from(round));
        assert_eq!((taken.waiting.len(), taken.left_out), (2, 0));
    }
    let waiting = discover(&mut overlay, &config, &[18, 19, 17], 30).waiting;
    assert_eq!(waiting, [at("198.51.100.18:80"), at("198.51.100.19:80")]);
    let leaving: Vec<_> = overlay.leaving("web").map(|(address, _)| address).collect();
    assert_eq!(leaving, [5, 6, 7, 15, 16].map(|host| SocketAddr::from(([198, 51, 100, host], 80))));
    // One that goes makes room for one; one that comes back takes none.
    overlay.release("web", at("198.51.100.6:80"));
    let taken = discover(&mut overlay, &config, &[18, 19, 17], 31);
    assert_eq!((taken.waiting, taken.changes.len()), (vec![at("198.51.100.19:80")], 1));
    assert_eq!(discover(&mut overlay, &config, &[18, 5, 17], 32).waiting, []);
    let now = ["1=9", "+5=100", "-7=100", "-15=100", "-16=100", "+17=100", "+18=100"];
    assert_eq!(shown(&config, &overlay), now);
}

#[test]
fn found_backends_that_conflict_with_the_config_are_refused() {
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
fn found_backends_can_be_drained_and_weighed_but_not_removed() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    discover(&mut overlay, &config, &[2, 3], 1);
    let drain = BackendPatch { admin: Some(AdminState::Draining), ..BackendPatch::of("weight", 5) };
    overlay.patch_backend(&config, "web", at("198.51.100.2:80"), &drain).expect("drained");
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=5d", "+3=100"]);
    discover(&mut overlay, &config, &[2, 3], 2);
    assert_eq!(overlay.prune(&config), Vec::<String>::new());
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=5d", "+3=100"], "it stays so while it is found");

    let Err(Refusal::Conflict(why)) = overlay.remove_backend(&config, "web", at("198.51.100.2:80")) else {
        panic!("removed")
    };
    assert!(
        why.contains("dns web.example.com") && why.contains("backend drain web 198.51.100.2:80"),
        "{why}"
    );
    discover(&mut overlay, &config, &[3], 3);
    assert_eq!(overlay.prune(&config), Vec::<String>::new());
    discover(&mut overlay, &config, &[2, 3], 4);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=5d", "+3=100"], "it is itself again");
    discover(&mut overlay, &config, &[3], 5);
    overlay.remove_backend(&config, "web", at("198.51.100.2:80")).expect("one that leaves may go at once");
    discover(&mut overlay, &config, &[2, 3], 6);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "+3=100"], "what was changed of it went with it");

    // Added, it stays whatever discovery says; no longer, it is discovery's again.
    discover(&mut overlay, &config, &[3], 7);
    overlay.add_backend(&config, "web", Backend::new(at("198.51.100.2:80"), 4)).expect("added");
    discover(&mut overlay, &config, &[2, 3], 8);
    discover(&mut overlay, &config, &[3], 9);
    assert_eq!(shown(&config, &overlay), ["1=9", "*2=4", "+3=100"]);
    discover(&mut overlay, &config, &[2, 3], 10);
    let said = overlay.remove_backend(&config, "web", at("198.51.100.2:80")).expect("removed");
    assert!(said.message.contains("now managed by the service's discovery"), "{}", said.message);
    assert_eq!(shown(&config, &overlay), ["1=9", "+2=100", "+3=100"]);
}

#[test]
fn found_backends_are_kept_in_the_state_file_and_leave_with_their_discovery() {
    let config = config(FILE);
    let mut overlay = Overlay::default();
    discover(&mut overlay, &config, &[2, 3], 1);
    discover(&mut overlay, &config, &[3], 2);
    let json = serde_json::to_string(&overlay).expect("printed");
    let mut read: Overlay = serde_json::from_str(&json).expect("read");
    assert_eq!(read, overlay);
    assert_eq!(read.prune(&config), Vec::<String>::new());
    let before = merged(&config, &read);
    let without = parse(&FILE.replace("discovery = ", "# ")).expect("valid");
    let lines = read.prune(&without);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("no longer has discovery"), "{lines:?}");
    read.depart(&without, &before, Leave::Drain, &BootTime { boot: "this".into(), seconds: 3 });
    let leaving: Vec<_> = read.leaving("web").map(|(_, since)| since).collect();
    assert_eq!(leaving, [2, 3]);
}

#[test]
fn leaving_backends_of_an_earlier_versions_file_start_their_drain_time_again() {
    let json = r#"{"discovered":{"web":{"198.51.100.2:80":{"backend":{"address":"198.51.100.2:80","weight":100},
        "leaving_since":1790000000},"198.51.100.3:80":{"backend":{"address":"198.51.100.3:80","weight":100}}}}}"#;
    let mut overlay: Overlay = serde_json::from_str(json).expect("read");
    overlay.forget_other_boots(&BootTime { boot: "this".into(), seconds: 77 });
    assert_eq!(overlay.leaving("web").collect::<Vec<_>>(), [(at("198.51.100.2:80"), 77)]);
    assert_eq!(shown(&config(FILE), &overlay), ["1=9", "-2=100", "+3=100"]);
}
