//! One DNS question, sent to several resolvers in turn.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::{TokioResolver, system_conf};

/// A resolver's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The records, and how long they are valid.
    Records(Vec<Record>, Duration),
    /// There are none: the reason, and how long that is valid, by the zone's SOA record (RFC 2308). `None` without an SOA record.
    Nothing(String, Option<Duration>),
}

/// Resolvers, in the order in which they are asked.
pub(super) struct Resolvers {
    /// `None`: those of the system, looked up on demand.
    configured: Option<Vec<SocketAddr>>,
    timeout: Duration,
    resolvers: Vec<(SocketAddr, TokioResolver)>,
    /// The one that answered last, which is asked first.
    first: AtomicUsize,
    /// Whether none of them answered a question.
    have_failed: AtomicBool,
}

impl Resolvers {
    /// Resolvers with these addresses. If there are none, those of `/etc/resolv.conf`.
    pub(super) fn new(addresses: &[SocketAddr], timeout: Duration) -> Self {
        let configured = (!addresses.is_empty()).then(|| addresses.to_vec());
        Self {
            configured,
            timeout,
            resolvers: Vec::new(),
            first: AtomicUsize::new(0),
            have_failed: AtomicBool::new(false),
        }
    }

    /// Prepares for questions: if the system's resolvers did not answer, reads the file again, which may have others by now.
    ///
    /// # Errors
    /// If there are no resolvers, in words.
    pub(super) fn prepare(&mut self) -> Result<(), String> {
        let has_failed = std::mem::take(self.have_failed.get_mut());
        if self.resolvers.is_empty() || has_failed && self.configured.is_none() {
            self.resolvers = self.connect()?;
            *self.first.get_mut() = 0;
        }
        Ok(())
    }

    /// Asks one after the other until one answers. That one is asked first the next time.
    ///
    /// # Errors
    /// If none answers: each one's failure, in words.
    pub(super) async fn ask(&self, name: &Name, record: RecordType) -> Result<Answer, String> {
        let mut failures = Vec::new();
        let first = self.first.load(Ordering::Relaxed);
        for place in 0..self.resolvers.len() {
            let place = (first + place) % self.resolvers.len();
            let (address, resolver) = &self.resolvers[place];
            match ask_one(resolver, name, record, self.timeout).await {
                Ok(answer) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(why) => failures.push(format!("{address} {why}")),
            }
        }
        self.have_failed.store(true, Ordering::Relaxed);
        Err(failures.join("; "))
    }

    fn connect(&self) -> Result<Vec<(SocketAddr, TokioResolver)>, String> {
        let addresses = match &self.configured {
            Some(addresses) => addresses.clone(),
            None => of_the_system()?,
        };
        let resolver = |address| Ok((address, resolver(address, self.timeout).map_err(|it| it.to_string())?));
        addresses.into_iter().map(resolver).collect()
    }
}

fn of_the_system() -> Result<Vec<SocketAddr>, String> {
    const FIX: &str = "write resolvers = [\"192.0.2.53\"] in the service's discovery";
    let (config, _) = system_conf::read_system_conf()
        .map_err(|error| format!("cannot use /etc/resolv.conf ({error}): {FIX}"))?;
    let mut addresses: Vec<_> =
        config.name_servers.iter().map(|server| SocketAddr::new(server.ip, 53)).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(format!("/etc/resolv.conf names no resolver: {FIX}"));
    }
    Ok(addresses)
}

/// A resolver that only asks this server: over UDP, or over TCP if the answer was truncated.
fn resolver(address: SocketAddr, timeout: Duration) -> Result<TokioResolver, NetError> {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![with_port(ConnectionConfig::udp()), with_port(ConnectionConfig::tcp())];
    let server = NameServerConfig::new(address.ip(), true, connections);
    let mut builder = TokioResolver::builder_with_config(
        ResolverConfig::from_name_servers(vec![server]),
        TokioRuntimeProvider::default(),
    );
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = timeout;
    options.attempts = 1;
    // Each answer is looked up again when it expires, and by nobody else.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

async fn ask_one(
    resolver: &TokioResolver,
    name: &Name,
    record: RecordType,
    timeout: Duration,
) -> Result<Answer, String> {
    let Ok(answer) = tokio::time::timeout(timeout, resolver.lookup(name.clone(), record)).await else {
        return Err(silent(timeout));
    };
    match answer {
        Ok(lookup) => {
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            let records: Vec<Record> =
                lookup.answers().iter().filter(|it| it.record_type() == record).cloned().collect();
            if records.is_empty() {
                return Ok(Answer::Nothing(format!("it has no {record} record"), None));
            }
            Ok(Answer::Records(records, ttl))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => nothing_of(&nothing, record),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(format!("answers {}", words(code))),
        Err(NetError::Timeout) => Err(silent(timeout)),
        Err(error) => Err(format!("cannot be queried: {error}")),
    }
}

fn nothing_of(nothing: &NoRecords, record: RecordType) -> Result<Answer, String> {
    if nothing.soa.is_none() && nothing.ns.is_some() {
        return Err("refers to other servers instead of answering: use a recursive resolver".into());
    }
    let why = match nothing.response_code {
        ResponseCode::NXDomain => "the name does not exist (NXDOMAIN)".to_owned(),
        _ => format!("it has no {record} record"),
    };
    let ttl = nothing.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
    Ok(Answer::Nothing(why, ttl))
}

fn silent(timeout: Duration) -> String {
    format!("does not answer within {}", humantime::format_duration(timeout))
}

/// A response code in the words that operators know.
fn words(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        other => other.to_str().into(),
    }
}
