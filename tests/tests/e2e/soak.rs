//! Flows of all modes and families, under every disturbance once: the short form of `cargo xtask soak`.

use std::time::Duration;

use xdp_lb_tests::soak::{self, Disturbance, Options};

#[test]
fn no_flow_breaks_and_no_acknowledged_change_is_lost_under_every_disturbance_once() {
    let options = Options {
        flows: 200,
        time: Duration::from_secs(300),
        is_brief: true,
        seed: 20,
        disturbances: Disturbance::ALL.to_vec(),
    };
    let outcome = soak::run(&options, || false, |line| println!("{line}")).unwrap();
    println!("{}", outcome.table());
    assert!(outcome.is_clean());
    let effects = &outcome.counted.disturbances;
    assert!(Disturbance::ALL.iter().all(|it| effects.get(it).is_some_and(|effect| effect.times == 1)));
    let kinds = &outcome.counted.kinds;
    assert_eq!(kinds.len(), soak::Kind::all().count());
    for (kind, counts) in kinds {
        assert!(counts.answered > counts.lost + 100, "{kind}: {counts:?}");
    }
}
