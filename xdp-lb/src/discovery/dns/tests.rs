use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, SRV};
use hickory_proto::rr::{RData, Record as DnsRecord};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::model::Source;

/// A server that answers each query with the result of `answers`: over UDP or, if that is true, over TCP. It counts the queries.
async fn server(
    answers: impl Fn(&Message, bool) -> Option<Message> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let (answers, queries) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = udp.local_addr().expect("its address");
    let tcp = TcpListener::bind(address).await.expect("the same port");
    let (by_udp, count) = (Arc::clone(&answers), Arc::clone(&queries));
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.expect("a query");
            count.fetch_add(1, Ordering::Relaxed);
            let query = Message::from_vec(&buffer[..length]).expect("a DNS query");
            if let Some(answer) = by_udp(&query, false) {
                udp.send_to(&answer.to_vec().expect("it is written"), client).await.expect("it is sent");
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.expect("a client");
            let mut length = [0; 2];
            stream.read_exact(&mut length).await.expect("a length");
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).await.expect("a query");
            let query = Message::from_vec(&query).expect("a DNS query");
            if let Some(answer) = answers(&query, true) {
                let answer = answer.to_vec().expect("it is written");
                stream.write_all(&(answer.len() as u16).to_be_bytes()).await.expect("its length");
                stream.write_all(&answer).await.expect("it is sent");
                // Stays open until the client has read it.
                let _ = stream.read(&mut [0]).await;
            }
        }
    });
    (address, queries)
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut answer = query.clone().into_response();
    answer.additionals.clear();
    answer.metadata.response_code = code;
    answer.metadata.recursion_available = true;
    answer
}

fn with(query: &Message, ttl: u32, data: impl IntoIterator<Item = RData>) -> Message {
    let mut answer = reply(query, ResponseCode::NoError);
    let owner = query.queries[0].name().clone();
    answer.add_answers(data.into_iter().map(|data| DnsRecord::from_rdata(owner.clone(), ttl, data)));
    answer
}

fn a(host: u8) -> RData {
    RData::A(A::new(198, 51, 100, host))
}

fn soa(query: &Message, code: ResponseCode, ttl: u32, minimum: u32) -> Message {
    let mut answer = reply(query, code);
    let soa = SOA::new(name("ns.example.com."), name("root.example.com."), 1, 3600, 600, 86_400, minimum);
    answer.add_authorities([DnsRecord::from_rdata(name("example.com."), ttl, RData::SOA(soa))]);
    answer
}

fn lookup(resolvers: &[SocketAddr], keys: &str) -> Lookup {
    let resolvers: Vec<String> = resolvers.iter().map(|it| format!("{:?}", it.to_string())).collect();
    let json = format!(
        r#"{{"type":"dns","name":"web.example.com","timeout":"2s","resolvers":[{}]{keys}}}"#,
        resolvers.join(",")
    );
    let discovery: Discovery = serde_json::from_str(&json).expect("valid");
    let Source::Dns(dns) = discovery.source.clone() else { unreachable!() };
    let service = Service::new("web", "192.0.2.10:80".parse().expect("an address"));
    Lookup { resolvers: Resolvers::new(&dns.resolvers, dns.timeout), service, discovery, dns }
}

fn addresses_in(outcome: &Outcome) -> Vec<String> {
    let found = outcome.0.as_ref().expect("found");
    found.backends.iter().map(|it| format!("{} {}", it.address, it.weight)).collect()
}

fn seconds(outcome: &Outcome) -> Option<u64> {
    outcome.1.map(|ttl| ttl.as_secs_f64().round() as u64)
}

#[tokio::test]
async fn addresses_are_found_with_the_port_and_the_weight_that_the_config_says_and_their_ttl() {
    let (server, _) = server(|query, _| Some(with(query, 77, [a(2), a(1)]))).await;
    let outcome = lookup(&[server], r#","port":8080,"weight":7"#).look_up().await;
    assert_eq!(addresses_in(&outcome), ["198.51.100.1:8080 7", "198.51.100.2:8080 7"]);
    assert_eq!(seconds(&outcome), Some(77));
    let outcome = lookup(&[server], "").look_up().await;
    assert_eq!(addresses_in(&outcome), ["198.51.100.1:80 100", "198.51.100.2:80 100"], "the VIP's port");
}

#[tokio::test]
async fn services_are_found_with_port_and_weight_and_hold_no_longer_than_their_hosts() {
    let srv = |weight, port, host: &str| RData::SRV(SRV::new(1, weight, port, name(host)));
    let (server, _) = server(move |query, _| {
        Some(match query.queries[0].name().to_ascii().as_str() {
            "web.example.com." => {
                with(query, 90, [srv(5, 8080, "a.example.com."), srv(9, 8081, "b.example.com.")])
            }
            "a.example.com." => with(query, 30, [a(1), a(2)]),
            _ => soa(query, ResponseCode::NXDomain, 60, 20),
        })
    })
    .await;
    let outcome = lookup(&[server], r#","record":"SRV""#).look_up().await;
    assert_eq!(addresses_in(&outcome), ["198.51.100.1:8080 5", "198.51.100.2:8080 5"]);
    assert_eq!(seconds(&outcome), Some(20));
    let refused = &outcome.0.as_ref().expect("found").refused;
    assert_eq!(refused, &["SRV target b.example.com. has no address"]);
}

#[tokio::test]
async fn the_hosts_of_srv_records_are_looked_up_some_at_a_time() {
    const HOSTS: u16 = HOSTS_AT_A_TIME as u16 + 8;
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = udp.local_addr().expect("its address");
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    tokio::spawn(async move {
        let (mut buffer, mut waiting) = ([0; 4096], Vec::new());
        loop {
            // Queries that arrive without a pause in between are answered together, to detect concurrent ones.
            let pause = Duration::from_millis(50);
            let Ok(query) = tokio::time::timeout(pause, udp.recv_from(&mut buffer)).await else {
                seen.fetch_max(waiting.len(), Ordering::Relaxed);
                for (answer, client) in waiting.drain(..) {
                    let answer: Message = answer;
                    udp.send_to(&answer.to_vec().expect("it is written"), client).await.expect("it is sent");
                }
                continue;
            };
            let (length, client) = query.expect("a query");
            let query = Message::from_vec(&buffer[..length]).expect("a DNS query");
            let answer = if query.queries[0].query_type() == RecordType::SRV {
                let srv = |port| RData::SRV(SRV::new(1, 1, port, name(&format!("h{port}.example.com."))));
                with(&query, 60, (1..=HOSTS).map(srv))
            } else {
                with(&query, 60, [a(1)])
            };
            waiting.push((answer, client));
        }
    });
    let outcome = lookup(&[address], r#","record":"SRV""#).look_up().await;
    assert_eq!(outcome.0.expect("found").backends.len(), usize::from(HOSTS));
    let most = most.load(Ordering::Relaxed);
    assert!((2..=HOSTS_AT_A_TIME).contains(&most), "{most} at a time");
}

#[tokio::test]
async fn a_negative_answer_holds_as_long_as_the_zones_soa_says_and_means_what_the_config_says() {
    for (code, minimum, ttl, holds, why) in [
        (ResponseCode::NXDomain, 33, 600, 33, "the name does not exist (NXDOMAIN)"),
        (ResponseCode::NoError, 600, 44, 44, "it has no A record"),
    ] {
        let (server, _) = server(move |query, _| Some(soa(query, code, ttl, minimum))).await;
        let kept = lookup(&[server], "").look_up().await;
        assert_eq!(kept.0, Err(format!("web.example.com.: {why}")));
        assert_eq!(seconds(&kept), Some(holds));
        let drained = lookup(&[server], r#","on_empty":"drain""#).look_up().await;
        let found = drained.0.as_ref().expect("an answer");
        assert!(found.backends.is_empty() && found.refused[0].contains(why), "{found:?}");
        assert_eq!(seconds(&drained), Some(holds));
    }
    let (bare, _) = server(|query, _| Some(reply(query, ResponseCode::NXDomain))).await;
    let outcome = lookup(&[bare], r#","min_ttl":"3s""#).look_up().await;
    assert_eq!(seconds(&outcome), Some(3), "without an SOA record it holds for no time");
}

#[tokio::test]
async fn the_next_resolver_is_asked_where_one_is_silent_or_fails_and_asked_first_from_then_on() {
    let (silent, of_silent) = server(|_, _| None).await;
    let (failing, of_failing) = server(|query, _| Some(reply(query, ResponseCode::ServFail))).await;
    let (good, of_good) = server(|query, _| Some(with(query, 5, [a(1)]))).await;
    let mut lookup_of_three = lookup(&[silent, failing, good], "");
    assert_eq!(addresses_in(&lookup_of_three.look_up().await), ["198.51.100.1:80 100"]);
    let before = (of_silent.load(Ordering::Relaxed), of_failing.load(Ordering::Relaxed));
    assert!(before.0 > 0 && before.1 > 0, "{before:?}");
    assert_eq!(addresses_in(&lookup_of_three.look_up().await), ["198.51.100.1:80 100"]);
    assert_eq!(before, (of_silent.load(Ordering::Relaxed), of_failing.load(Ordering::Relaxed)));
    assert_eq!(of_good.load(Ordering::Relaxed), 2);

    let outcome = lookup(&[silent, failing], "").look_up().await;
    let said = format!("web.example.com.: {silent} does not answer within 2s; {failing} answers SERVFAIL");
    assert_eq!(outcome, (Err(said), None));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_asked_for_by_tcp() {
    let (server, _) = server(|query, is_tcp| {
        if is_tcp {
            return Some(with(query, 60, (1..=250).map(a)));
        }
        let mut answer = with(query, 60, [a(1)]);
        answer.metadata.truncation = true;
        Some(answer)
    })
    .await;
    let outcome = lookup(&[server], "").look_up().await;
    assert_eq!(outcome.0.as_ref().expect("found").backends.len(), 250);
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_not_believed() {
    let (server, _) = server(|query, _| {
        let mut answer = with(query, 60, [a(66)]);
        answer.metadata.id = query.metadata.id.wrapping_add(1);
        Some(answer)
    })
    .await;
    let outcome = lookup(&[server], "").look_up().await;
    assert!(outcome.0.is_err(), "{outcome:?}");
    let (foreign, _) = self::server(|query, _| {
        let mut answer = reply(query, ResponseCode::NoError);
        answer.add_answers([DnsRecord::from_rdata(name("bank.example.net."), 60, a(66))]);
        Some(answer)
    })
    .await;
    let outcome = lookup(&[foreign], "").look_up().await;
    assert!(outcome.0.is_err(), "{outcome:?}");
}

#[test]
fn the_next_lookup_is_when_the_answers_time_is_over_within_bounds_and_failures_back_off() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _guard = runtime.enter();
    let lookup =
        lookup(&["192.0.2.53:53".parse().expect("an address")], r#","min_ttl":"4s","max_ttl":"20s""#);
    let wait = |ttl: Option<u64>, failures| lookup.wait(ttl.map(Duration::from_secs), failures).as_secs();
    assert_eq!([wait(Some(0), 0), wait(Some(7), 0), wait(Some(90), 0)], [4, 7, 20]);
    assert_eq!([1, 2, 3, 4, 99].map(|failures| wait(None, failures)), [4, 8, 16, 20, 20]);
}
