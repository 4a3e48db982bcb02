//! A TCP flow: one long connection.

use std::io;
use std::pin::pin;
use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::clients::{End, Flow, LOOK, OPENED, PATIENCE};
use super::message::{head, message};
use super::standing::Life;
use super::tally::Ends;

/// How long requests are, in bytes: some take one segment, some several.
const LENGTH: std::ops::Range<usize> = 16..4_000;

/// A connection that was greeted.
pub struct Connection {
    stream: TcpStream,
    /// Who is at its ends.
    pub ends: Ends,
}

/// Connects, and waits for the greeting.
pub async fn open(flow: &mut Flow) -> Result<Connection> {
    let kind = flow.kind;
    timeout(OPENED, async {
        let mut stream = TcpStream::connect(kind.vip()).await?;
        stream.set_nodelay(true)?;
        let backend = usize::try_from(stream.read_u64().await?)?;
        ensure!((1..=super::bed::BACKENDS).contains(&backend), "no backend greeted");
        let client = stream.local_addr()?;
        Ok(Connection { stream, ends: Ends { kind, client, backend } })
    })
    .await?
}

/// Asks until the connection ends.
pub async fn converse(flow: &mut Flow, connection: Connection, life: Life) -> End {
    let mut stream = connection.stream;
    let mut last = Instant::now();
    for number in 0.. {
        if let Err(end) = flow.pause(life, false).await {
            return end;
        }
        let request = message(flow.id, number, flow.rng.usize(LENGTH));
        let asked = Instant::now();
        match ask(flow, &mut stream, &request, life).await {
            Ok(answer) if answer == request => flow.answered(asked),
            Ok(answer) => {
                let other = format!("the answer to request {number} is another: {:?}", head(&answer));
                return End::Broken(other, asked);
            }
            Err(End::Broken(why, asked)) => {
                let silent = last.elapsed().as_secs_f64();
                let why = format!("{why}, at request {number}, {silent:.1} s after the last answer");
                return End::Broken(why, asked);
            }
            Err(end) => return end,
        }
        last = Instant::now();
    }
    End::Over
}

/// Sends a request, and waits for as many bytes.
async fn ask(flow: &Flow, stream: &mut TcpStream, request: &[u8], life: Life) -> Result<Vec<u8>, End> {
    let since = Instant::now();
    let mut exchange = pin!(async {
        stream.write_all(request).await?;
        let mut answer = vec![0; request.len()];
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(answer)
    });
    loop {
        match timeout(LOOK, &mut exchange).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => return Err(End::Broken(error.to_string(), since)),
            Err(_) => flow.still(life)?,
        }
        if since.elapsed() > PATIENCE {
            return Err(End::Broken(format!("no answer for {} s", PATIENCE.as_secs()), since));
        }
    }
}
