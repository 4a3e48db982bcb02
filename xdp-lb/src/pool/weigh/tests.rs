use std::time::Duration;

use super::*;
use crate::health::{AgentReply, AgentReport, Health};
use crate::model::state::AdminState;
use crate::model::{self, Service};
use crate::pool::testing::*;
use crate::tables::Tables;

#[test]
fn weights_follow_agents_together_and_not_too_often() {
    use Health::Up;
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let mut pool = pool_with(with_agent, &[(false, Up); 3]);
    // Nothing moves before all have replied.
    let first = ids(&pool).swap_remove(0);
    pool.on_agent_report(AgentReport { id: first.clone(), result: Ok(part(50).unwrap()) }, now);
    pool.decide_at(now);
    assert_eq!(pool.weigh(now), []);
    agents_say(&mut pool, &[part(50), part(100), part(95)], now);
    let told: Vec<_> = pool.weigh(now).into_iter().map(|it| (it.percent, it.reason)).collect();
    // Those that join the ring start with their intended weight.
    assert_eq!(told, [(50, "agent: ready up 50%".into()), (95, "agent: ready up 95%".into())]);
    assert_eq!(weights(&pool), [5_000, 10_000, 9_500]);

    let mut changes = Vec::new();
    for second in 1..100 {
        let percent = if second % 2 == 0 { 50 } else { 100 };
        agents_say(&mut pool, &[part(percent), part(100), part(90)], at(second));
        if !pool.weigh(at(second)).is_empty() {
            changes.push(second);
        }
    }
    assert!(changes.len() <= 10 && changes.windows(2).all(|pair| pair[1] - pair[0] >= 10), "{changes:?}");

    // If the service no longer has agents, weights are the configured ones.
    let mut effective = pool.effective().clone();
    effective.services[0].service.agent = None;
    pool.set_effective(effective, &Tables::default(), at(100));
    pool.decide_at(at(100));
    assert_eq!(weights(&pool), [100, 100, 100]);
    assert!(!pool.on_agent_report(AgentReport { id: first, result: Ok(AgentReply::default()) }, at(101)));
}

#[test]
fn weights_follow_checks_only_if_configured_and_only_of_serving_backends() {
    use Health::Up;
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    for latency in [true, false] {
        let follow = |service: &mut Service| {
            service.feedback = Some(model::Feedback { latency, ..model::Feedback::default() });
        };
        let mut pool = pool_with(follow, &[(false, Up), (false, Up), (false, Up), (true, Up)]);
        pool.weigh(now);
        // A backup is on standby, and its checks do not count.
        checks_take(&mut pool, &[9, 9, 20, 1], 50);
        let told = pool.weigh(now);
        if !latency {
            assert_eq!((told, weights(&pool)), (vec![], vec![100; 4]));
            continue;
        }
        let [told] = told.try_into().unwrap();
        let words = "checks take 20.0 ms, median 9.0 ms";
        assert_eq!((told.percent, told.reason.as_str()), (50, words));
        assert_eq!(weights(&pool), [10_000, 10_000, 5_000, 10_000]);
        assert_eq!(pool.weigh(at(1)), [], "once");

        // A drained backend does not count either: of the remaining two, the fast one does.
        pool.effective.services[0].backends[0].admin = AdminState::Draining;
        checks_take(&mut pool, &[1, 40, 9, 1], 200);
        pool.decide_at(at(20));
        pool.weigh(at(20));
        assert_eq!(weights(&pool), [10_000, 2_500, 10_000, 10_000]);

        let mut effective = pool.effective().clone();
        effective.services[0].service.feedback = None;
        pool.set_effective(effective, &Tables::default(), at(30));
        assert_eq!(weights(&pool), [100; 4]);
    }
}

#[test]
fn the_agents_percentage_and_the_latency_multiply() {
    let now = Instant::now();
    let follow = |service: &mut Service| {
        with_agent(service);
        service.feedback = Some(model::Feedback { latency: true, ..model::Feedback::default() });
    };
    let mut pool = pool_with(follow, &[(false, Health::Up); 2]);
    checks_take(&mut pool, &[9, 20], 50);
    agents_say(&mut pool, &[part(100), part(50)], now);
    pool.weigh(now);
    pool.weigh(now + Duration::from_secs(10));
    assert_eq!(weights(&pool), [10_000, 2_500]);
}
