//! Querying a backend's agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use super::agent_line::{self, AgentReply, LONGEST_LINE};
use super::attempt::connect;
use super::failure::{self, Failure, Time};
use super::target::{AgentReport, TargetId};
use crate::model::Agent;

/// Queries the agent until it is aborted, the first time at a random moment within `spread`. Reports the first reply, and each
/// that differs from the previous one.
pub(super) async fn follow(
    id: TargetId,
    agent: Agent,
    spread: Duration,
    sockets: Arc<Semaphore>,
    news: mpsc::Sender<AgentReport>,
) {
    let mut next = Instant::now() + spread.mul_f64(rand::random());
    let mut last = None;
    loop {
        sleep_until(next).await;
        let turn = sockets.acquire().await;
        next = Instant::now() + agent.interval;
        // Boxed: most tasks are waiting at any time.
        let result = Box::pin(ask(&id, &agent)).await.map_err(words);
        drop(turn);
        if last.as_ref() == Some(&result) {
            continue;
        }
        last = Some(result.clone());
        if news.send(AgentReport { id: id.clone(), result }).await.is_err() {
            return;
        }
    }
}

fn words(failure: Failure) -> String {
    match failure {
        Failure::Backend(words) => words,
        Failure::OutOfReach(errno) => failure::words(errno),
        Failure::Here(error) => format!("this host cannot query it: {error}"),
    }
}

/// Queries once, within the agent's timeout.
async fn ask(id: &TargetId, agent: &Agent) -> Result<AgentReply, Failure> {
    let time = Time { all: agent.timeout(), end: Instant::now() + agent.timeout() };
    let backend = SocketAddr::new(id.backend.ip(), agent.port);
    let mut stream = connect(backend, agent.source, time).await?;
    let mut line = Vec::with_capacity(LONGEST_LINE);
    let exchange = async {
        stream.write_all(agent.send.as_bytes()).await?;
        loop {
            if let Some(end) = line.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                return agent_line::read(&line[..end]).map_err(Failure::Backend);
            }
            if line.len() >= LONGEST_LINE {
                return Err(Failure::Backend(format!("its line is longer than {LONGEST_LINE} bytes")));
            }
            let mut part = [0; LONGEST_LINE];
            let room = LONGEST_LINE - line.len();
            match stream.read(&mut part[..room]).await? {
                0 => {
                    return Err(Failure::Backend(
                        "it closed the connection before the end of its line".into(),
                    ));
                }
                length => line.extend_from_slice(&part[..length]),
            }
        }
    };
    time.limit("connected, but no line", exchange).await?
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// The result for an agent that sends these pieces, and then closes the connection or keeps it open.
    async fn answer(pieces: &'static [&'static [u8]], stays: bool) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listens = listener.local_addr().expect("its address");
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).await.expect("what is sent first");
            assert_eq!(&asked, b"web1\n");
            for piece in pieces {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if stays {
                let _ = stream.read(&mut asked).await;
            }
        });
        // The backend's own port is not queried.
        let id = TargetId::of_web("127.0.0.1:1".parse().expect("an address"));
        let timeout = Some(Duration::from_secs(3));
        let agent = Agent { send: "web1\n".into(), timeout, ..Agent::at(listens.port()) };
        let began = Instant::now();
        let result = ask(&id, &agent).await.map_err(words);
        assert!(began.elapsed() < Duration::from_secs(13), "it took {:?}", began.elapsed());
        served.abort();
        result.map(|said| said.to_string())
    }

    #[tokio::test]
    async fn a_line_is_read_up_to_its_end() {
        assert_eq!(answer(&[b"up 75% # text\r\n"], false).await.as_deref(), Ok("up 75% # text"));
        assert_eq!(answer(&[b"dra", b"in 5", b"0%\nfoo bar"], true).await.as_deref(), Ok("drain 50%"));
        assert_eq!(answer(&[b"\n"], true).await.as_deref(), Ok(""));
    }

    #[tokio::test]
    async fn half_a_line_is_not_a_reply() {
        // For example of "75%\n".
        assert_eq!(answer(&[b"7"], true).await, Err("connected, but no line within 3s".into()));
        assert_eq!(
            answer(&[b"up"], false).await,
            Err("it closed the connection before the end of its line".into())
        );
        let endless: &[&[u8]] = &[&[b'#'; 700], &[b'#'; 700]];
        assert_eq!(answer(endless, true).await, Err("its line is longer than 1024 bytes".into()));
        assert_eq!(
            answer(&[b"HTTP/1.1 400 Bad\n"], false).await,
            Err("agent reply not understood: unknown word \"HTTP/1.1\", in \"HTTP/1.1 400 Bad\"".into())
        );
    }

    #[tokio::test]
    async fn only_a_changed_reply_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listens = listener.local_addr().expect("its address");
        let id = TargetId::of_web(SocketAddr::new(listens.ip(), 1));
        let (interval, timeout) = (Duration::from_millis(100), Some(Duration::from_secs(5)));
        let agent = Agent { interval, timeout, ..Agent::at(listens.port()) };
        let (news, mut told) = mpsc::channel(8);
        let task = tokio::spawn(follow(id, agent, Duration::ZERO, Arc::new(Semaphore::new(1)), news));
        let mut asked = Vec::new();
        for line in ["up\n", "up\n", "drain\n", "drain\n"] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            asked.push(Instant::now());
            stream.write_all(line.as_bytes()).await.expect("sent");
        }
        drop(listener);
        let mut results = Vec::new();
        for _ in 0..3 {
            let report = told.recv().await.expect("news");
            results.push(report.result.map(|said| said.to_string()));
        }
        assert_eq!(results, [Ok("up".into()), Ok("drain".into()), Err("connection refused".into())]);
        let apart = asked[3].duration_since(asked[0]);
        assert!(apart >= Duration::from_millis(150), "three intervals took {apart:?}");
        task.abort();
    }
}
