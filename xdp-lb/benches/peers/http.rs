//! HTTP clients.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use xdp_lb_tests::Host;

/// Clients at a time.
const CLIENTS: usize = 32;
/// How long a client waits before the slice.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the clients ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Request after request over one connection.
    KeepAlive,
    /// Each request over a new connection.
    NewConnections,
}

/// Requests a second, over so long a time, of clients on this host.
pub fn rate(client: &Host, server: SocketAddrV4, manner: Manner, slice: Duration) -> Result<f64> {
    client.enter(|| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(async {
            match manner {
                Manner::KeepAlive => keep_alive(server, slice).await,
                Manner::NewConnections => new_connections(server, slice).await,
            }
        })
    })?
}

async fn keep_alive(server: SocketAddrV4, slice: Duration) -> Result<f64> {
    let connect = || async {
        let mut stream = timeout(PATIENCE, TcpStream::connect(server)).await.context("no connection")??;
        stream.set_nodelay(true)?;
        let mut answer = vec![0; 4_096];
        stream.write_all(request(true)).await?;
        let length = timeout(PATIENCE, stream.read(&mut answer)).await.context("no answer")??;
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the server does not answer with 200");
        answer.truncate(length);
        anyhow::Ok((stream, answer))
    };
    let connections = try_join_all((0..CLIENTS).map(|_| connect())).await?;
    let requests = Cell::new(0_u64);
    let begin = Instant::now();
    let deadline = begin + slice;
    let client = |(mut stream, mut answer): (TcpStream, Vec<u8>)| {
        let requests = &requests;
        async move {
            loop {
                let one = async {
                    stream.write_all(request(true)).await?;
                    // Every answer is as long as the first.
                    stream.read_exact(&mut answer).await
                };
                match timeout_at(deadline, one).await {
                    Ok(answered) => answered.context("a connection broke")?,
                    Err(_) => return anyhow::Ok(()),
                };
                requests.set(requests.get() + 1);
            }
        }
    };
    try_join_all(connections.into_iter().map(client)).await?;
    Ok(requests.get() as f64 / begin.elapsed().as_secs_f64())
}

async fn new_connections(server: SocketAddrV4, slice: Duration) -> Result<f64> {
    let connections = Cell::new(0_u64);
    let begin = Instant::now();
    let deadline = begin + slice;
    let client = || async {
        let mut answer = Vec::with_capacity(4_096);
        loop {
            let one = async {
                answer.clear();
                let mut stream = TcpStream::connect(server).await?;
                stream.write_all(request(false)).await?;
                stream.read_to_end(&mut answer).await
            };
            match timeout_at(deadline, one).await {
                Ok(answered) => answered.context("a connection failed")?,
                Err(_) => return anyhow::Ok(()),
            };
            ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the server does not answer with 200");
            connections.set(connections.get() + 1);
        }
    };
    try_join_all((0..CLIENTS).map(|_| client())).await?;
    Ok(connections.get() as f64 / begin.elapsed().as_secs_f64())
}

fn request(keep_alive: bool) -> &'static [u8] {
    if keep_alive {
        b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"
    } else {
        b"GET / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n"
    }
}
