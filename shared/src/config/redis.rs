//! The addresses of Redis.

use std::{fmt, sync::Arc};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use url::Url;

use super::{QueueBackend, StoreBackend, parse::Reader};

/// The default port of Redis.
const DEFAULT_PORT: u16 = 6379;

/// The highest database number that can be configured.
const MAX_DATABASE: u32 = 65_535;

/// The most replicas that can be waited for.
const MAX_WAIT: u32 = 10;

const URL_EXAMPLE: &str =
    "rediss://user:password@redis.example.com:6380/2, or redis+cluster://node-1:7000,node-2:7000";

/// The address of one database of a Redis server, or of a Redis Cluster. Only [`RedisUrl::secret`]
/// and [`RedisUrl::nodes`] show user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    nodes: Vec<Node>,
    tls: bool,
    cluster: bool,
    database: u32,
    ca: Option<Arc<[u8]>>,
}

/// One server: the URL for the client, and the address.
#[derive(Clone, PartialEq, Eq)]
struct Node {
    url: String,
    address: String,
}

impl RedisUrl {
    fn at(host: &str, port: u16, database: u32) -> Self {
        let host = host.to_ascii_lowercase();
        let address =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let node = Node { url: format!("redis://{address}/{database}"), address };
        Self { nodes: vec![node], tls: false, cluster: false, database, ca: None }
    }

    /// Parses `redis[s]://[user:password@]host[:port][/database]` or
    /// `redis[s]+cluster://[user:password@]host[:port],host[:port]…`. The error describes the fault
    /// without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("is not a URL")?;
        let (tls, cluster) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis+cluster" => (false, true),
            "rediss+cluster" => (true, true),
            _ => {
                return Err(
                    "must begin with redis://, rediss://, redis+cluster:// or rediss+cluster://",
                );
            }
        };
        let plain = if tls { "rediss" } else { "redis" };
        if !cluster {
            let (node, database) = Node::parse(&format!("{plain}://{rest}"))?;
            return Ok(Self { nodes: vec![node], tls, cluster, database, ca: None });
        }
        // A password's '@' and '/' are percent-encoded in a URL, and hosts have neither.
        let (login, hosts) = rest
            .rsplit_once('@')
            .map_or(("", rest), |(login, hosts)| (&rest[..=login.len()], hosts));
        let (hosts, path) = hosts.split_at(hosts.find(['/', '?', '#']).unwrap_or(hosts.len()));
        let mut nodes = Vec::new();
        for host in hosts.split(',') {
            if host.is_empty() {
                return Err("names no host");
            }
            let (node, database) = Node::parse(&format!("{plain}://{login}{host}{path}"))?;
            if database != 0 {
                return Err("names a database, but a Redis Cluster has only database 0");
            }
            nodes.push(node);
        }
        Ok(Self { nodes, tls, cluster, database: 0, ca: None })
    }

    /// Uses these certificates (PEM) for TLS in place of the public roots.
    #[must_use]
    pub fn with_ca(mut self, pem: &[u8]) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// The whole URL with the password. For a cluster, the URL of its first node.
    pub fn secret(&self) -> &str {
        &self.nodes[0].url
    }

    /// The URL of each configured node, with the password.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.url.as_str())
    }

    /// Whether this is a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// The certificates that replace the public roots, as PEM.
    pub fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref().filter(|_| self.tls)
    }

    fn is_same_database(&self, other: &Self) -> bool {
        let shared = |node: &Node| other.nodes.iter().any(|theirs| theirs.address == node.address);
        self.database == other.database && self.nodes.iter().any(shared)
    }
}

impl Node {
    /// A server and its database, by a URL of which only host, port and number may be wrong.
    fn parse(text: &str) -> Result<(Self, u32), &'static str> {
        let url = Url::parse(text).map_err(|_| "is not a URL")?;
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or("names no host")?
            .to_ascii_lowercase();
        let database = match url.path().trim_matches('/') {
            "" => 0,
            digits => digits
                .parse()
                .ok()
                .filter(|number| *number <= MAX_DATABASE)
                .ok_or("must end in a database's number")?,
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err("may have neither a query nor a fragment");
        }
        let address = format!("{host}:{}", url.port().unwrap_or(DEFAULT_PORT));
        Ok((Self { url: text.to_owned(), address }, database))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        write!(
            f,
            "redis{}{}://",
            if self.tls { "s" } else { "" },
            if self.cluster { "+cluster" } else { "" }
        )?;
        write!(f, "{}", addresses.join(","))?;
        if self.cluster { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `REDIS_*`, `STATUS_REDIS_*`, `QUEUE_REDIS_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where webhooks are stored.
    pub status: RedisUrl,
    /// `STATUS_REDIS_WAIT`: how many replicas must confirm a create, resend, redrive or delete
    /// before it is answered. 0: none.
    pub status_wait: u32,
    /// Where messages are stored.
    pub queue: RedisUrl,
    /// `STATUS_REDIS_PREFIX`, else `REDIS_PREFIX`: the prefix of all keys of webhooks, so several
    /// deployments can share a database.
    pub status_prefix: String,
    /// `QUEUE_REDIS_PREFIX`, else `REDIS_PREFIX`: the prefix of all keys of messages.
    pub queue_prefix: String,
}

impl RedisSettings {
    /// Reads the settings. Store and queue must not share a database, because filling or flushing
    /// one would destroy the other. On a cluster, which has one database, they must not share a
    /// prefix.
    pub(super) fn read(
        read: &mut Reader<'_>,
        status_backend: StoreBackend,
        queue_backend: QueueBackend,
    ) -> Self {
        let (host, port) =
            (read.redis_host("REDIS_HOST"), read.number("REDIS_PORT", DEFAULT_PORT, 1..=u16::MAX));
        let queue_database = queue_database(read);
        let status_database = read.number("STATUS_REDIS_DB", 2, 0..=MAX_DATABASE);
        let status = read
            .redis_url("STATUS_REDIS_URL")
            .unwrap_or_else(|| RedisUrl::at(&host, port, status_database));
        let queue = read
            .redis_url("QUEUE_REDIS_URL")
            .unwrap_or_else(|| RedisUrl::at(&host, port, queue_database));
        let prefix = read.redis_prefix("REDIS_PREFIX", "posthaste");
        let mut settings = Self {
            status_prefix: read.redis_prefix("STATUS_REDIS_PREFIX", &prefix),
            queue_prefix: read.redis_prefix("QUEUE_REDIS_PREFIX", &prefix),
            status_wait: read.number("STATUS_REDIS_WAIT", 0, 0..=MAX_WAIT),
            status,
            queue,
        };
        if let Some(pem) = read.redis_ca("REDIS_CA_FILE", settings.status.tls || settings.queue.tls)
        {
            settings.status = settings.status.with_ca(&pem);
            settings.queue = settings.queue.with_ca(&pem);
        }
        if (status_backend, queue_backend) == (StoreBackend::Redis, QueueBackend::Redis) {
            settings.keep_apart(read);
        }
        settings
    }

    fn keep_apart(&self, read: &mut Reader<'_>) {
        let status = &self.status;
        if !status.is_same_database(&self.queue) {
            return;
        }
        if status.cluster && self.queue.cluster {
            if self.status_prefix == self.queue_prefix {
                let fault = format!(
                    "is '{}' as STATUS_REDIS_PREFIX is, on the same cluster, {status}: there is \
                     only database 0 there, so the prefix is all that keeps webhooks and messages \
                     apart when one of them is counted, moved or cleared",
                    self.queue_prefix
                );
                read.fault("QUEUE_REDIS_PREFIX", &fault, "posthaste-messages, or two clusters");
            }
            return;
        }
        let variable = match (read.is_set("QUEUE_REDIS_URL"), read.is_set("STATUS_REDIS_URL")) {
            (true, _) => "QUEUE_REDIS_URL",
            (false, true) => "STATUS_REDIS_URL",
            (false, false) => "STATUS_REDIS_DB",
        };
        let fault = format!(
            "gives webhooks and messages the same database, {status}: filling or flushing one \
             would end the other"
        );
        read.fault(variable, &fault, "STATUS_REDIS_DB=2 with QUEUE_REDIS_DB=1, or two servers");
    }
}

/// Reads two names of one setting, which must not contradict each other.
fn queue_database(read: &mut Reader<'_>) -> u32 {
    let ours = read.number("QUEUE_REDIS_DB", 1, 0..=MAX_DATABASE);
    let celery = read.number("CELERY_REDIS_DB", 1, 0..=MAX_DATABASE);
    match (read.is_set("QUEUE_REDIS_DB"), read.is_set("CELERY_REDIS_DB")) {
        (true, true) if ours != celery => {
            read.fault(
                "CELERY_REDIS_DB",
                &format!("is {celery}, but QUEUE_REDIS_DB, which means the same, is {ours}"),
                "1",
            );
            ours
        }
        (false, true) => celery,
        _ => ours,
    }
}

impl Reader<'_> {
    fn redis_host(&mut self, variable: &str) -> String {
        let host = self.text(variable, "localhost");
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if host.bytes().all(sane) {
            return host;
        }
        // The message leaves out the value, which may be a URL with a password.
        self.fault(variable, "is not a host name or an address", "redis.example.com");
        "localhost".to_owned()
    }

    fn redis_url(&mut self, variable: &str) -> Option<RedisUrl> {
        if !self.is_set(variable) {
            return None;
        }
        let parsed = RedisUrl::parse(&self.text(variable, ""));
        parsed.map_err(|fault| self.fault(variable, fault, URL_EXAMPLE)).ok()
    }

    /// The certificates of a PEM file. Each must be able to sign others.
    fn redis_ca(&mut self, variable: &str, is_used: bool) -> Option<Vec<u8>> {
        const EXAMPLE: &str = "/etc/ssl/redis-ca.pem";
        if !self.is_set(variable) {
            return None;
        }
        let path = self.text(variable, "");
        let fault = match std::fs::read(&path) {
            Err(error) => format!("is '{path}', which cannot be read: {error}"),
            Ok(_) if !is_used => {
                "is set, but neither STATUS_REDIS_URL nor QUEUE_REDIS_URL begins with rediss"
                    .to_owned()
            }
            Ok(pem) => match check_ca(&pem) {
                Ok(()) => return Some(pem),
                Err(fault) => format!("is '{path}', which {fault}"),
            },
        };
        self.fault(variable, &fault, EXAMPLE);
        None
    }

    fn redis_prefix(&mut self, variable: &str, fallback: &str) -> String {
        let prefix = self.text(variable, fallback);
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if self.is_set(variable) && (prefix.len() > 64 || !prefix.bytes().all(sane)) {
            self.fault(
                variable,
                &format!(
                    "is '{prefix}', but must be 1 to 64 of A-Z, a-z, 0-9, '-', '_', '.' and ':'"
                ),
                "posthaste",
            );
        }
        prefix
    }
}

fn check_ca(pem: &[u8]) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot judge others: {error}"))?;
    }
    if roots.is_empty() { Err("holds no certificate (PEM)".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::RedisUrl;

    #[test]
    fn a_password_is_never_shown() {
        let url = RedisUrl::parse("rediss://me:hunter2@Redis.Example.com/7").unwrap();
        assert_eq!(
            (url.to_string().as_str(), format!("{url:?}").as_str()),
            ("rediss://redis.example.com:6379/7", "rediss://redis.example.com:6379/7")
        );
        assert!(url.secret().contains("hunter2"));
    }

    #[test]
    fn the_same_database_is_known_by_host_port_and_number() {
        let is_same =
            |a, b| RedisUrl::parse(a).unwrap().is_same_database(&RedisUrl::parse(b).unwrap());
        assert!(is_same("redis://a/1", "rediss://user:pass@A:6379/1"));
        for other in ["redis://b/1", "redis://a:6380/1", "redis://a/2", "redis://a"] {
            assert!(!is_same("redis://a/1", other), "{other}");
        }
        assert!(
            RedisUrl::at("::1", 6379, 0)
                .is_same_database(&RedisUrl::parse("redis://[::1]").unwrap())
        );
        assert!(
            RedisUrl::at("LOCALHOST", 6379, 3)
                .is_same_database(&RedisUrl::parse("redis://localhost/3").unwrap())
        );
    }
}
