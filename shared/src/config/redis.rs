//! Where Redis is.

use std::fmt;

use url::Url;

use super::{Backend, parse::Reader};

/// The port that Redis listens on if nothing else is said.
const DEFAULT_PORT: u16 = 6379;

/// The highest database number that can be configured.
const MAX_DATABASE: u32 = 65_535;

const URL_EXAMPLE: &str = "rediss://user:password@redis.example.com:6380/2";

/// Where one database of a Redis server is. Shows neither user nor password, only [`RedisUrl::secret`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    url: String,
    tls: bool,
    host: String,
    port: u16,
    database: u32,
}

impl RedisUrl {
    fn at(host: &str, port: u16, database: u32) -> Self {
        let host = host.to_ascii_lowercase();
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        Self { url: format!("redis://{bracketed}:{port}/{database}"), tls: false, host: bracketed, port, database }
    }

    /// Reads `redis[s]://[user:password@]host[:port][/database]`; what is wrong with it otherwise, without its text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "is not a URL")?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err("must begin with redis:// or rediss://"),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?.to_ascii_lowercase();
        let database = match url.path().trim_matches('/') {
            "" => 0,
            digits => digits.parse().ok().filter(|number| *number <= MAX_DATABASE).ok_or("must end in a database's number")?,
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err("may have neither a query nor a fragment");
        }
        Ok(Self { url: text.to_owned(), tls, host, port: url.port().unwrap_or(DEFAULT_PORT), database })
    }

    /// The whole URL, with the password.
    pub fn secret(&self) -> &str {
        &self.url
    }

    fn is_same_database(&self, other: &Self) -> bool {
        (&self.host, self.port, self.database) == (&other.host, other.port, other.database)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis{}://{}:{}/{}", if self.tls { "s" } else { "" }, self.host, self.port, self.database)
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
    /// Where webhooks are kept.
    pub status: RedisUrl,
    /// Where messages wait.
    pub queue: RedisUrl,
    /// `REDIS_PREFIX`: what all keys begin with, so that several deployments can share a database.
    pub prefix: String,
}

impl RedisSettings {
    /// Reads the settings. Store and queue must not share a database: filling or flushing the one would be the other's end.
    pub(super) fn read(read: &mut Reader<'_>, status_backend: Backend, queue_backend: Backend) -> Self {
        let (host, port) = (read.redis_host("REDIS_HOST"), read.number("REDIS_PORT", DEFAULT_PORT, 1..=u16::MAX));
        let queue_database = queue_database(read);
        let status_database = read.number("STATUS_REDIS_DB", 2, 0..=MAX_DATABASE);
        let (status_given, queue_given) = (read.is_set("STATUS_REDIS_URL"), read.is_set("QUEUE_REDIS_URL"));
        let status = read.redis_url("STATUS_REDIS_URL").unwrap_or_else(|| RedisUrl::at(&host, port, status_database));
        let queue = read.redis_url("QUEUE_REDIS_URL").unwrap_or_else(|| RedisUrl::at(&host, port, queue_database));
        if (status_backend, queue_backend) == (Backend::Redis, Backend::Redis) && status.is_same_database(&queue) {
            let variable = match (queue_given, status_given) {
                (true, _) => "QUEUE_REDIS_URL",
                (false, true) => "STATUS_REDIS_URL",
                (false, false) => "STATUS_REDIS_DB",
            };
            let fault =
                format!("gives webhooks and messages the same database, {status}: filling or flushing one would end the other");
            read.fault(variable, &fault, "STATUS_REDIS_DB=2 with QUEUE_REDIS_DB=1, or two servers");
        }
        Self { status, queue, prefix: read.redis_prefix("REDIS_PREFIX") }
    }
}

/// Two names for one setting: both may be given, but not contradict each other.
fn queue_database(read: &mut Reader<'_>) -> u32 {
    let ours = read.number("QUEUE_REDIS_DB", 1, 0..=MAX_DATABASE);
    let celery = read.number("CELERY_REDIS_DB", 1, 0..=MAX_DATABASE);
    match (read.is_set("QUEUE_REDIS_DB"), read.is_set("CELERY_REDIS_DB")) {
        (true, true) if ours != celery => {
            read.fault("CELERY_REDIS_DB", &format!("is {celery}, but QUEUE_REDIS_DB, which means the same, is {ours}"), "1");
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
        // It may be a URL with a password, so it is not shown.
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

    fn redis_prefix(&mut self, variable: &str) -> String {
        let prefix = self.text(variable, "posthaste");
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if prefix.len() > 64 || !prefix.bytes().all(sane) {
            self.fault(
                variable,
                &format!("is '{prefix}', but must be 1 to 64 of A-Z, a-z, 0-9, '-', '_', '.' and ':'"),
                "posthaste",
            );
        }
        prefix
    }
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
        let is_same = |a, b| RedisUrl::parse(a).unwrap().is_same_database(&RedisUrl::parse(b).unwrap());
        assert!(is_same("redis://a/1", "rediss://user:pass@A:6379/1"));
        for other in ["redis://b/1", "redis://a:6380/1", "redis://a/2", "redis://a"] {
            assert!(!is_same("redis://a/1", other), "{other}");
        }
        assert!(RedisUrl::at("::1", 6379, 0).is_same_database(&RedisUrl::parse("redis://[::1]").unwrap()));
        assert!(RedisUrl::at("LOCALHOST", 6379, 3).is_same_database(&RedisUrl::parse("redis://localhost/3").unwrap()));
    }
}
