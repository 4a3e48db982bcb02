//! The thread that exchanges flows, and its sockets.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::exchange::{Datagrams, Exchange};
use super::pull::{Conversation, Message};
use super::seal::Secret;
use super::status::Status;
use super::table::{FlowTable, RingWord};
use crate::model;

/// How often the flow table is looked at for what is new; less often where that would take more than one part in [`SHARE`] of a core.
const WALK: Duration = Duration::from_millis(50);
const SHARE: u32 = 10;

/// How often datagrams are acknowledged and sent again.
const TICK: Duration = Duration::from_millis(20);

/// How often the status is published.
const PUBLISH: Duration = Duration::from_millis(200);

/// How long to wait until the next try, where a peer's flows could not be pulled.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How long a connection to a peer may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How many nodes may pull at a time; others try again.
const PULLS: usize = 4;

/// How many flows are in a message of a pull.
const FLOWS: usize = 800;

/// The receive buffer: a burst of all peers waits there while the table is walked.
const BUFFER: usize = 4 << 20;

/// The exchange, which ends when this is dropped.
pub struct Fleet {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    status: watch::Receiver<Status>,
}

/// What the exchange needs of this host.
pub struct Prepared {
    secret: Secret,
    sockets: (UdpSocket, TcpListener),
}

impl Prepared {
    /// Reads the key file, and takes the address.
    ///
    /// # Errors
    /// Where one of them is of no use.
    pub fn new(config: &model::Fleet) -> Result<Self> {
        let secret = Secret::read(&config.name, &config.key_file)?;
        let address = config.address();
        let sockets = bind(address).with_context(|| format!("fleet: cannot listen on {address}"))?;
        Ok(Self { secret, sockets })
    }
}

impl Fleet {
    /// Starts it. `rings` is told of slots in which this node has to go by records, since peers do, and asked for those in which it does.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        config: &model::Fleet,
        Prepared { secret, sockets }: Prepared,
        table: Box<dyn FlowTable>,
        rings: mpsc::UnboundedSender<RingWord>,
    ) -> Result<Self> {
        let exchange = Exchange::new(config, secret, table, rings, Instant::now());
        let (publish, status) = watch::channel(exchange.status());
        let (stop, stopped) = oneshot::channel();
        // What is not to be sent to another thread is made there.
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let served = serve(exchange, sockets, publish);
                let over = runtime.block_on(LocalSet::new().run_until(async {
                    tokio::select! {
                        failed = served => Some(failed),
                        _ = stopped => None,
                    }
                }));
                if let Some(Err(error)) = over {
                    tracing::error!("fleet: the exchange of flows has ended: {error:#}");
                }
            }
            Err(error) => tracing::error!("fleet: cannot start the exchange of flows: {error}"),
        };
        let thread = thread::Builder::new().name("fleet".into()).spawn(run);
        let thread = thread.context("cannot start the thread that exchanges flows")?;
        Ok(Self { stop: Some(stop), thread: Some(thread), status })
    }

    /// What is known of the peers, from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that exchanges flows has ended in a panic");
        }
    }
}

/// The sockets at an address, which the host may get later.
fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
    let bound = |kind, protocol| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        Ok(socket)
    };
    let udp = bound(Type::DGRAM, Protocol::UDP)?;
    udp.set_recv_buffer_size(BUFFER)?;
    let tcp = bound(Type::STREAM, Protocol::TCP)?;
    tcp.listen(PULLS as i32 * 2)?;
    Ok((udp.into(), tcp.into()))
}

type Shared = Rc<RefCell<Exchange>>;

async fn serve(
    exchange: Exchange,
    (udp, tcp): (UdpSocket, TcpListener),
    publish: watch::Sender<Status>,
) -> Result<()> {
    let udp = Rc::new(tokio::net::UdpSocket::from_std(udp)?);
    let tcp = tokio::net::TcpListener::from_std(tcp)?;
    let peers: Vec<SocketAddr> = exchange.addresses().collect();
    let shared: Shared = Rc::new(RefCell::new(exchange));
    for (number, address) in peers.into_iter().enumerate() {
        spawn_local(keep_pulling(Rc::clone(&shared), number, address));
    }
    tokio::select! {
        ended = receive(&shared, &udp) => ended,
        ended = walk(&shared, &udp) => ended,
        ended = accept(&shared, &tcp) => ended,
        () = tick(&shared, &udp, &publish) => Ok(()),
    }
}

async fn receive(shared: &Shared, udp: &tokio::net::UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 2048];
    loop {
        match udp.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                shared.borrow_mut().receive(from, &mut buffer[..length], Instant::now())?;
            }
            // ICMP tells of a datagram that was sent before.
            Err(error) => tracing::debug!("fleet: {error}"),
        }
    }
}

/// Sends what can be sent at once. What cannot is sent again, as what is lost on its way.
fn send(udp: &tokio::net::UdpSocket, datagrams: Datagrams) {
    for (to, datagram) in datagrams {
        if let Err(error) = udp.try_send_to(&datagram, to) {
            tracing::debug!("fleet: to {to}: {error}");
        }
    }
}

async fn walk(shared: &Shared, udp: &tokio::net::UdpSocket) -> Result<()> {
    loop {
        let mut took = Duration::ZERO;
        let began = Instant::now();
        shared.borrow_mut().ask_again()?;
        loop {
            let before = processor_time()?;
            let (datagrams, is_through) = shared.borrow_mut().walk(Instant::now())?;
            send(udp, datagrams);
            took += processor_time()?.saturating_sub(before);
            if is_through {
                break;
            }
            yield_now().await;
        }
        let rest = WALK.saturating_sub(began.elapsed());
        sleep(rest.max(took * (SHARE - 1))).await;
    }
}

/// How long this thread has had a processor.
fn processor_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    Ok(time.context("cannot read the clock of a thread")?.into())
}

async fn tick(shared: &Shared, udp: &tokio::net::UdpSocket, publish: &watch::Sender<Status>) {
    let mut published = Instant::now();
    loop {
        let now = Instant::now();
        let datagrams = shared.borrow_mut().tick(now);
        send(udp, datagrams);
        let is_joined = publish.borrow().is_joined;
        let status = shared.borrow().status();
        if status.is_joined != is_joined || now.duration_since(published) >= PUBLISH {
            published = now;
            publish.send_replace(status);
        }
        sleep(TICK).await;
    }
}

async fn accept(shared: &Shared, tcp: &tokio::net::TcpListener) -> Result<()> {
    let places = Arc::new(Semaphore::new(PULLS));
    loop {
        let (stream, from) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("fleet: cannot accept a connection: {error}");
                sleep(TRY_AGAIN).await;
                continue;
            }
        };
        let address = from.ip().to_canonical();
        let is_peers = shared.borrow().addresses().any(|peer| peer.ip() == address);
        let (true, Ok(place)) = (is_peers, Arc::clone(&places).try_acquire_owned()) else { continue };
        let shared = Rc::clone(shared);
        spawn_local(async move {
            let _until_served = place;
            if let Err(error) = answer(&shared, stream, from).await {
                tracing::debug!("fleet: {from} pulled in vain: {error:#}");
            }
        });
    }
}

/// Tells a peer that pulls of all flows.
async fn answer(shared: &Shared, stream: TcpStream, from: SocketAddr) -> Result<()> {
    let (secret, node) = {
        let exchange = shared.borrow();
        (exchange.secret.clone(), exchange.node.clone())
    };
    let is_known = |name: &str| {
        let exchange = shared.borrow();
        let address = exchange.peer_of(name).and_then(|peer| exchange.addresses().nth(peer));
        address.is_some_and(|address| address.ip() == from.ip().to_canonical())
    };
    stream.set_nodelay(true)?;
    let (mut conversation, name) = Conversation::answer(stream, &secret, &node, is_known).await?;
    let Message::Ask(known) = conversation.receive().await? else { bail!("it asks for nothing") };
    let Some(peer) = shared.borrow().peer_of(&name) else { bail!("it is not a node of the fleet") };
    let (session, next) = shared.borrow_mut().link(peer).open(Instant::now());
    conversation.send(&Message::Session(session, next)).await?;
    if known != Some(session) {
        let tracked = shared.borrow().tracked();
        for ring in tracked.await.context("the daemon is stopping")? {
            conversation.send(&Message::Ring(ring)).await?;
        }
        let mut place = Some(0);
        while let Some(from) = place {
            // While a peer pulls, it is there.
            ensure!(shared.borrow_mut().link(peer).open(Instant::now()).0 == session, "the session is over");
            let (flows, next) = shared.borrow_mut().page(from)?;
            place = next;
            for flows in flows.chunks(FLOWS) {
                let bytes = conversation.send(&Message::Flows(flows.to_vec())).await?;
                shared.borrow_mut().note_sent(peer, flows.len(), bytes);
            }
            yield_now().await;
        }
    }
    conversation.send(&Message::End).await?;
    Ok(())
}

/// Pulls a peer's flows whenever some are missed.
async fn keep_pulling(shared: Shared, peer: usize, address: SocketAddr) {
    loop {
        if !shared.borrow_mut().link(peer).wants_pull() {
            sleep(TICK).await;
            continue;
        }
        let pulled = pull(&shared, peer, address).await;
        let trouble = pulled.err().map(|error| format!("{error:#}"));
        let is_done = trouble.is_none();
        shared.borrow_mut().note_pull(peer, trouble);
        if !is_done {
            sleep(TRY_AGAIN).await;
        }
    }
}

async fn pull(shared: &Shared, peer: usize, address: SocketAddr) -> Result<()> {
    let (secret, node, name, own, known) = {
        let mut exchange = shared.borrow_mut();
        let (name, known) = (exchange.link(peer).peer().to_owned(), exchange.link(peer).whole_session());
        (exchange.secret.clone(), exchange.node.clone(), name, exchange.address(), known)
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(own.ip(), 0)).with_context(|| format!("cannot send from {}", own.ip()))?;
    let connected = timeout(CONNECT, socket.connect(address)).await;
    let stream = connected.context("it does not answer").and_then(|stream| Ok(stream?))?;
    stream.set_nodelay(true)?;
    let mut conversation = Conversation::begin(stream, &secret, &node, &name).await?;
    conversation.send(&Message::Ask(known)).await?;
    let Message::Session(session, next) = conversation.receive().await? else { bail!("it tells no session") };
    shared.borrow_mut().link(peer).pulling(session, next, Instant::now());
    loop {
        match conversation.receive().await? {
            Message::Ring(ring) => shared.borrow_mut().take_ring(peer, ring),
            Message::Flows(flows) => shared.borrow_mut().take(peer, &flows)?,
            Message::End => return Ok(()),
            Message::Ask(_) | Message::Session(..) => bail!("it speaks out of turn"),
        }
        // A pull takes long where there are millions: it shows that the peer lives.
        shared.borrow_mut().link(peer).pulling(session, next, Instant::now());
    }
}
