//! The DNS check: a query over UDP (RFC 1035) is answered with NOERROR, or with NXDOMAIN, which also shows that the server is
//! alive.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::datagram::{Words, ask};
use crate::health::attempt::Attempt;
use crate::health::failure::Failure;

pub(super) async fn probe(attempt: Attempt<'_>, name: &str, record: &str) -> Result<(), Failure> {
    let query = query(name, record).map_err(Failure::Backend)?;
    let bytes = query
        .to_vec()
        .map_err(|error| Failure::Backend(format!("cannot send the check's DNS name: {error}")))?;
    let socket = attempt.udp_socket().await?;
    let words =
        Words { missing: "no DNS response", unrelated: Some("datagrams that do not answer the DNS query") };
    match ask(&socket, &bytes, attempt.time, words, |answer| code(answer, &query)).await? {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(()),
        code => Err(Failure::Backend(format!("DNS {}", format!("{code:?}").to_uppercase()))),
    }
}

fn query(name: &str, record: &str) -> Result<Message, String> {
    let mut name = Name::from_ascii(name).map_err(|error| format!("{name} is not a DNS name: {error}"))?;
    name.set_fqdn(true);
    let record: RecordType = record.parse().map_err(|_| format!("{record} is not a DNS record type"))?;
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record));
    Ok(message)
}

/// The response code of a response to the query. `None` if it is not one.
fn code(bytes: &[u8], query: &Message) -> Option<ResponseCode> {
    let answer = Message::from_vec(bytes).ok()?;
    let code = answer.metadata.response_code;
    // A server that could not parse the query may omit it (RFC 1035 section 4.1.1, FORMERR).
    let same_question =
        answer.queries == query.queries || (answer.queries.is_empty() && code != ResponseCode::NoError);
    let answers = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && same_question;
    answers.then_some(code)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::UdpSocket;

    use super::super::tests::check;
    use super::*;
    use crate::model::Probe;

    /// A server that answers each query with `answers`.
    async fn server(answers: impl Fn(usize, Message) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let backend = socket.local_addr().expect("its address");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            for count in 0.. {
                let (length, client) = socket.recv_from(&mut buffer).await.expect("a query");
                let query = Message::from_vec(&buffer[..length]).expect("a DNS query");
                for answer in answers(count, query) {
                    socket.send_to(&answer, client).await.expect("it is sent");
                }
            }
        });
        backend
    }

    fn answer(query: &Message, code: ResponseCode) -> Message {
        let mut answer = query.clone().into_response();
        answer.metadata.response_code = code;
        answer
    }

    fn bytes(message: &Message) -> Vec<u8> {
        message.to_vec().expect("it can be written")
    }

    async fn check_name(backend: SocketAddr) -> Result<(), String> {
        check(backend, Probe::Dns { name: "www.example.com".into(), record: "A".into() }).await
    }

    #[tokio::test]
    async fn the_query_is_for_the_name_and_record_and_an_answer_is_a_success() {
        let backend = server(|_, query| {
            let question = &query.queries[0];
            let fits =
                question.name().to_ascii() == "www.example.com." && question.query_type() == RecordType::A;
            assert!(fits && query.metadata.recursion_desired, "{query}");
            vec![bytes(&answer(&query, ResponseCode::NoError))]
        })
        .await;
        assert_eq!(check_name(backend).await, Ok(()));
        let root = server(|_, query| {
            assert!(query.queries[0].name().is_root(), "{query}");
            vec![bytes(&answer(&query, ResponseCode::NoError))]
        })
        .await;
        assert_eq!(check(root, Probe::Dns { name: ".".into(), record: "NS".into() }).await, Ok(()));
    }

    #[tokio::test]
    async fn the_response_code_decides() {
        for (code, expected) in [
            (ResponseCode::NXDomain, Ok(())),
            (ResponseCode::ServFail, Err("DNS SERVFAIL".into())),
            (ResponseCode::Refused, Err("DNS REFUSED".into())),
        ] {
            let backend = server(move |_, query| vec![bytes(&answer(&query, code))]).await;
            assert_eq!(check_name(backend).await, expected);
        }
        let backend = server(|_, query| {
            let mut answer = answer(&query, ResponseCode::FormErr);
            answer.queries.clear();
            vec![bytes(&answer)]
        })
        .await;
        assert_eq!(check_name(backend).await, Err("DNS FORMERR".into()));
    }

    #[tokio::test]
    async fn a_lost_query_is_sent_again() {
        let backend = server(|count, query| match count {
            0 => vec![],
            _ => vec![bytes(&answer(&query, ResponseCode::NoError))],
        })
        .await;
        assert_eq!(check_name(backend).await, Ok(()));
    }

    #[tokio::test]
    async fn only_a_response_to_the_query_counts() {
        type Forge = fn(&mut Message);
        let forgeries: [Forge; 4] = [
            |answer| answer.metadata.id = answer.metadata.id.wrapping_add(1),
            |answer| answer.metadata.message_type = MessageType::Query,
            |answer| answer.queries.clear(),
            |answer| {
                let other = Name::from_ascii("other.example.com.").expect("a name");
                answer.queries[0].set_name(other);
            },
        ];
        for forge in forgeries {
            let forged = move |query: &Message| {
                let mut answer = answer(query, ResponseCode::NoError);
                forge(&mut answer);
                bytes(&answer)
            };
            let backend = server(move |_, query| vec![forged(&query)]).await;
            assert_eq!(check_name(backend).await, Err("no DNS response within 3s".into()));
            // A valid response after it counts.
            let backend = server(move |_, query| {
                vec![
                    forged(&query),
                    b"garbage".to_vec(),
                    vec![],
                    bytes(&answer(&query, ResponseCode::NoError)),
                ]
            })
            .await;
            assert_eq!(check_name(backend).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_flood_of_garbage_fails_the_check() {
        let backend = server(|_, _| vec![vec![0xff; 100]; 100]).await;
        let words = "datagrams that do not answer the DNS query";
        assert_eq!(check_name(backend).await, Err(words.into()));
    }

    #[tokio::test]
    async fn a_closed_port_is_reported() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let backend = socket.local_addr().expect("its address");
        drop(socket);
        assert_eq!(check_name(backend).await, Err("port unreachable".into()));
    }

    #[tokio::test]
    async fn a_response_from_another_address_is_ignored() {
        let elsewhere = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let backend = socket.local_addr().expect("its address");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.expect("a query");
                let query = Message::from_vec(&buffer[..length]).expect("a DNS query");
                let answer = bytes(&answer(&query, ResponseCode::NoError));
                elsewhere.send_to(&answer, client).await.expect("it is sent");
            }
        });
        assert_eq!(check_name(backend).await, Err("no DNS response within 3s".into()));
    }
}
