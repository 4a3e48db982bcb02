//! The recent past: rates of the node, of services and of reasons, for 10 minutes by second and for 24 hours by 15 seconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{ServiceIndex, Traffic};

use super::documents::{HistoryQuery, HistorySpan, HistoryView};
use super::traffic::Carried;
use crate::tables::Tables;

/// The points of the last 10 minutes.
const SECONDS: usize = 600;

/// The number of seconds whose mean is one point of the last 24 hours.
const STEP: usize = 15;

/// The points of the last 24 hours.
const STEPS: usize = 24 * 3600 / STEP;

/// The maximum number of services with a history, about 100 KB each after 24 hours: those that had traffic first. One that has
/// been idle for [`SECONDS`] is replaced.
const MOST_SERVICES: usize = 200;

/// The counters of the last second, and the rates before it.
#[derive(Debug, Default)]
pub struct History {
    node: Subject,
    services: HashMap<Endpoint, Service>,
    reasons: BTreeMap<&'static str, Series>,
    last: Option<Sample>,
    /// Whole seconds since the first sample.
    seconds: usize,
}

/// Counters at one time.
#[derive(Debug)]
struct Sample {
    first: Instant,
    at: Instant,
    services: HashMap<Endpoint, (ServiceIndex, Traffic)>,
    reasons: Vec<u64>,
}

/// The rates of the node or of a service.
#[derive(Debug, Default)]
struct Subject {
    packets: Series,
    bytes: Series,
    new_flows: Series,
    resets: Series,
}

#[derive(Debug, Default)]
struct Service {
    rates: Subject,
    /// The second of its last packet.
    active: usize,
}

/// A rate over time. Its memory grows with the time that has passed.
#[derive(Debug, Default)]
struct Series {
    seconds: VecDeque<f32>,
    steps: VecDeque<f32>,
}

impl History {
    /// Records the current counters. If more than a second has passed since the last ones, each of the seconds gets their mean.
    pub fn sample(&mut self, carried: &Carried, tables: &Tables, reasons: Vec<u64>, now: Instant) {
        let traffic = |index| carried.services.get(&index).copied();
        let services: HashMap<_, _> = tables
            .services
            .iter()
            .filter_map(|(vip, service)| Some((*vip, (service.index, traffic(service.index)?))))
            .collect();
        let first = self.last.as_ref().map_or(now, |last| last.first);
        let seconds = (now.saturating_duration_since(first) + ROUNDING).as_secs() as usize;
        let before = match self.last.take() {
            Some(before) if seconds <= self.seconds => {
                // Less than a second: the counts are part of the next one.
                self.last = Some(before);
                return;
            }
            before => before,
        };
        if let Some(before) = &before {
            let passed = now.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
            // A gap longer than what is kept, such as a suspended host, needs no more points.
            for _ in 0..(seconds - self.seconds).min(STEPS * STEP) {
                self.seconds += 1;
                self.push(before, &services, &reasons, passed);
            }
            self.seconds = seconds;
        }
        self.last = Some(Sample { first, at: now, services, reasons });
    }

    /// Adds one second.
    fn push(
        &mut self,
        before: &Sample,
        services: &HashMap<Endpoint, (ServiceIndex, Traffic)>,
        reasons: &[u64],
        passed: f64,
    ) {
        let is_step = self.seconds.is_multiple_of(STEP);
        let mut all = [0.0; 4];
        self.services.retain(|vip, _| services.contains_key(vip));
        for (vip, (index, traffic)) in services {
            let base = before.services.get(vip).filter(|(was, _)| was == index).map(|(_, traffic)| *traffic);
            let rates = rates(traffic, &base.unwrap_or(*traffic), passed);
            all.iter_mut().zip(rates).for_each(|(all, rate)| *all += rate);
            let is_active = rates.iter().any(|rate| *rate > 0.0);
            if is_active && !self.services.contains_key(vip) {
                self.make_room();
            }
            let is_kept = self.services.contains_key(vip);
            if is_kept || is_active && self.services.len() < MOST_SERVICES {
                let service = self.services.entry(*vip).or_default();
                service.active = if is_active { self.seconds } else { service.active };
                service.rates.push(rates, is_step);
            }
        }
        self.node.push(all, is_step);
        for (number, reason) in Reason::ALL.iter().enumerate() {
            let counted = |counts: &[u64]| counts.get(number).copied().unwrap_or(0);
            let rate = rise(counted(reasons), counted(&before.reasons)) / passed;
            // A reason that has never occurred takes no memory.
            if rate > 0.0 || self.reasons.contains_key(reason.name()) {
                self.reasons.entry(reason.name()).or_default().push(rate, is_step);
            }
        }
    }

    /// If there is no room, removes the service that has been idle longest, if that is long enough.
    fn make_room(&mut self) {
        if self.services.len() < MOST_SERVICES {
            return;
        }
        let idle = self.services.iter().min_by_key(|(_, service)| service.active);
        if let Some((vip, service)) = idle
            && service.active + SECONDS < self.seconds
        {
            let vip = *vip;
            self.services.remove(&vip);
        }
    }

    /// The document about the node, or about the service at this VIP.
    pub fn view(&self, query: &HistoryQuery, vip: Option<Endpoint>, now: Instant) -> HistoryView {
        let none = Subject::default();
        let subject = match vip {
            None => &self.node,
            Some(vip) => self.services.get(&vip).map_or(&none, |service| &service.rates),
        };
        let most = query.points.map_or(usize::MAX, |points| points as usize);
        let points = |series: &Series| series.last(query.span, most);
        let is_there = |points: &[f32]| points.iter().any(|point| *point > 0.0);
        let reasons = self.reasons.iter().filter(|_| vip.is_none());
        HistoryView {
            service: query.service.clone(),
            step_seconds: match query.span {
                HistorySpan::TenMinutes => 1,
                HistorySpan::Day => STEP as u32,
            },
            age_seconds: self
                .last
                .as_ref()
                .map_or(0, |last| now.saturating_duration_since(last.at).as_secs()),
            packets_per_second: points(&subject.packets),
            bytes_per_second: points(&subject.bytes),
            new_flows_per_second: points(&subject.new_flows),
            resets_per_second: points(&subject.resets),
            reasons: reasons
                .map(|(name, series)| ((*name).to_owned(), points(series)))
                .filter(|(_, points)| is_there(points))
                .collect(),
        }
    }
}

/// A tick that is at most this early counts for its second.
const ROUNDING: Duration = Duration::from_millis(250);

/// Per second: packets, bytes, new flows and resets.
fn rates(now: &Traffic, before: &Traffic, passed: f64) -> [f64; 4] {
    let count = |of: fn(&Traffic) -> u64| rise(of(now), of(before)) / passed;
    [
        count(|it| it.packets_in + it.packets_out),
        count(|it| it.bytes_in + it.bytes_out),
        count(|it| it.new_flows),
        count(|it| it.resets),
    ]
}

/// The increase of a counter. One that was reset in between counts from zero.
fn rise(now: u64, before: u64) -> f64 {
    now.checked_sub(before).unwrap_or(now) as f64
}

impl Subject {
    fn push(&mut self, rates: [f64; 4], is_step: bool) {
        let series = [&mut self.packets, &mut self.bytes, &mut self.new_flows, &mut self.resets];
        series.into_iter().zip(rates).for_each(|(series, rate)| series.push(rate, is_step));
    }
}

impl Series {
    /// Adds a second's rate. `is_step`: also adds the mean of the last [`STEP`] seconds.
    fn push(&mut self, rate: f64, is_step: bool) {
        keep(&mut self.seconds, tenths(rate), SECONDS);
        if is_step {
            let last = self.seconds.iter().rev().take(STEP);
            let sum: f64 = last.map(|rate| f64::from(*rate)).sum();
            // Before a series starts, its rate was zero.
            keep(&mut self.steps, tenths(sum / STEP as f64), STEPS);
        }
    }

    /// The last points, at most `most`, the latest last.
    fn last(&self, span: HistorySpan, most: usize) -> Vec<f32> {
        let points = match span {
            HistorySpan::TenMinutes => &self.seconds,
            HistorySpan::Day => &self.steps,
        };
        points.iter().skip(points.len().saturating_sub(most)).copied().collect()
    }
}

/// Rounded to one decimal place, which keeps documents short.
fn tenths(rate: f64) -> f32 {
    ((rate * 10.0).round() / 10.0) as f32
}

fn keep(points: &mut VecDeque<f32>, point: f32, most: usize) {
    if points.len() == most {
        points.pop_front();
    } else if points.len() == points.capacity() {
        // At most the final size.
        points.reserve_exact(points.len().max(60).min(most - points.len()));
    }
    points.push_back(point);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use xdp_lb_common::net::{Port, Protocol};
    use xdp_lb_common::tables;

    use super::*;

    fn vip(number: u16) -> Endpoint {
        let address: IpAddr = "192.0.2.10".parse().expect("an address");
        Endpoint::new(address.into(), Port::new(number), Protocol::TCP)
    }

    /// Services with these counts of packets from clients, by port and index.
    fn counted(services: &[(u16, u32, u64)]) -> (Carried, Tables) {
        let (mut carried, mut tables) = (Carried::default(), Tables::default());
        for (port, index, packets) in services {
            let index = ServiceIndex(*index);
            let traffic = Traffic { packets_in: *packets, bytes_in: packets * 100, ..Traffic::default() };
            carried.services.insert(index, traffic);
            let service = tables::Service { index, ..tables::Service::default() };
            tables.services.insert(vip(*port), service);
        }
        (carried, tables)
    }

    fn view(history: &History, port: Option<u16>, span: HistorySpan, now: Instant) -> HistoryView {
        history.view(&HistoryQuery { span, ..HistoryQuery::default() }, port.map(vip), now)
    }

    #[test]
    fn a_point_a_second_for_ten_minutes_and_the_mean_of_15_for_a_day() {
        let (mut history, begin) = (History::default(), Instant::now());
        for second in 0..=3600u64 {
            let (carried, tables) = counted(&[(80, 1, second * 30)]);
            let mut reasons = vec![0; Reason::ALL.len()];
            reasons[Reason::NoBackend as usize] = second * 2;
            history.sample(&carried, &tables, reasons, begin + Duration::from_secs(second));
        }
        let now = begin + Duration::from_secs(3603);
        let minutes = view(&history, Some(80), HistorySpan::TenMinutes, now);
        assert_eq!((minutes.step_seconds, minutes.age_seconds), (1, 3));
        assert_eq!(minutes.packets_per_second, vec![30.0; 600]);
        assert_eq!(minutes.bytes_per_second, vec![3000.0; 600]);
        let day = view(&history, None, HistorySpan::Day, now);
        assert_eq!((day.step_seconds, day.packets_per_second), (15, vec![30.0; 240]));
        assert_eq!(day.reasons["no_backend"], vec![2.0; 240]);
        assert_eq!(day.reasons.len(), 1, "what never happened has no series");
        let query = HistoryQuery { points: Some(5), ..HistoryQuery::default() };
        assert_eq!(history.view(&query, None, now).packets_per_second.len(), 5);
    }

    #[test]
    fn a_late_sample_counts_for_the_seconds_that_it_missed() {
        let (mut history, begin) = (History::default(), Instant::now());
        for (millis, packets) in [(0, 0), (1010, 10), (1500, 12), (5020, 50)] {
            let (carried, tables) = counted(&[(80, 1, packets)]);
            history.sample(&carried, &tables, Vec::new(), begin + Duration::from_millis(millis));
        }
        let points = view(&history, None, HistorySpan::TenMinutes, begin).packets_per_second;
        assert_eq!(points, [9.9, 10.0, 10.0, 10.0, 10.0]);
    }

    #[test]
    fn a_service_at_anothers_place_in_the_tables_has_its_own_history() {
        let (mut history, begin) = (History::default(), Instant::now());
        for (second, services) in
            [&[(80, 1, 1000)][..], &[(80, 1, 1500)], &[(81, 1, 7)], &[(81, 1, 10)]].into_iter().enumerate()
        {
            let (carried, tables) = counted(services);
            history.sample(&carried, &tables, Vec::new(), begin + Duration::from_secs(second as u64));
        }
        let of = |port| view(&history, Some(port), HistorySpan::TenMinutes, begin).packets_per_second;
        assert_eq!((of(80), of(81)), (vec![], vec![3.0]), "a removed one is forgotten");
        let node = view(&history, None, HistorySpan::TenMinutes, begin).packets_per_second;
        assert_eq!(node, [500.0, 0.0, 3.0]);
    }

    #[test]
    fn however_many_services_there_are_the_memory_is_bounded() {
        let (mut history, begin) = (History::default(), Instant::now());
        let busy = |until: u16, from: u16, second: u64| -> Vec<(u16, u32, u64)> {
            let packets = |port| if (from..until).contains(&port) { second * 10 } else { 0 };
            (1..400).map(|port| (port, u32::from(port), packets(port))).collect()
        };
        for second in 0..3 {
            let (carried, tables) = counted(&busy(300, 1, second));
            history.sample(&carried, &tables, Vec::new(), begin + Duration::from_secs(second));
        }
        assert_eq!(history.services.len(), MOST_SERVICES);
        // All others have been idle for longer than is kept, and a new one begins.
        for second in 3..=(SECONDS as u64 + 10) {
            let (carried, tables) = counted(&busy(399, 398, second));
            history.sample(&carried, &tables, Vec::new(), begin + Duration::from_secs(second));
        }
        assert!(history.services.contains_key(&vip(398)) && history.services.len() <= MOST_SERVICES);
        let series = &history.node.packets;
        assert!(series.seconds.capacity() <= SECONDS + 1, "{}", series.seconds.capacity());
    }
}
