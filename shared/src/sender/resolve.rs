//! Resolves host names to addresses that the guard allows.
//!
//! [`super::lookup`] calls the system's resolver.
//!
//! The sender connects to the addresses that were checked. It does not look up the name a second
//! time, so a changed record (DNS rebinding) has no effect.

use std::{fmt, io, net::IpAddr, sync::Arc};

use async_trait::async_trait;

use super::{dial, guard::AddressGuard};

/// The maximum number of addresses per name that are tried.
pub const MAX_ADDRESSES: usize = 16;

/// Looks up the addresses of a name.
#[async_trait]
pub trait Lookup: Send + Sync + fmt::Debug {
    /// Returns the addresses of `host`, most preferred first, or an error if it has none.
    ///
    /// Two kinds of errors have a special meaning. [`TimedOut`](io::ErrorKind::TimedOut): the name
    /// servers did not respond. [`WouldBlock`](io::ErrorKind::WouldBlock): the lookup did not
    /// start, since too many lookups were in progress.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Resolves no name. For tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLookup;

#[async_trait]
impl Lookup for NoLookup {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Why a name did not resolve. The messages are for users and contain no address.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// The name has no addresses.
    #[error("the host name does not resolve")]
    NoAddress(#[source] Option<io::Error>),
    /// The guard allows none of the addresses.
    #[error(
        "the host name resolves to non-public addresses only. For local use, \
         ALLOW_PRIVATE_DESTINATIONS=true allows them"
    )]
    Refused,
    /// The name servers did not respond in time.
    #[error("the name servers of the host did not respond")]
    NoResponse(#[source] io::Error),
    /// The lookup did not start, for a reason on this machine that does not depend on the name.
    #[error("the host name was not looked up: {0}")]
    NotStarted(#[source] io::Error),
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::NoResponse(error),
            io::ErrorKind::WouldBlock => Self::NotStarted(error),
            _ if dial::is_out_of_resources(&error) => Self::NotStarted(error),
            _ => Self::NoAddress(Some(error)),
        }
    }
}

/// Resolves names to addresses that the guard allows.
#[derive(Clone, Debug)]
pub struct Resolver {
    guard: Arc<AddressGuard>,
    lookup: Arc<dyn Lookup>,
}

impl Resolver {
    /// A resolver that filters the results of `lookup` with `guard`.
    pub fn new(guard: Arc<AddressGuard>, lookup: Arc<dyn Lookup>) -> Self {
        Self { guard, lookup }
    }

    /// Returns the allowed addresses of `host`, most preferred first: at least one, and at most
    /// [`MAX_ADDRESSES`].
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let mut addresses = self.lookup.lookup(host).await?;
        if addresses.is_empty() {
            return Err(Unresolved::NoAddress(None));
        }
        addresses.retain(|address| self.guard.is_allowed(*address));
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() { Err(Unresolved::Refused) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sender::guard::GuardSettings;

    #[derive(Debug)]
    struct Answers(Vec<&'static str>);

    #[async_trait]
    impl Lookup for Answers {
        async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.iter().map(|address| address.parse().unwrap()).collect())
        }
    }

    async fn resolve(
        allow_private: bool,
        answers: Vec<&'static str>,
    ) -> Result<Vec<String>, Unresolved> {
        let guard =
            AddressGuard::new(GuardSettings { allow_private, ..GuardSettings::default() }).unwrap();
        let resolver = Resolver::new(Arc::new(guard), Arc::new(Answers(answers)));
        resolver
            .addresses("hooks.example")
            .await
            .map(|found| found.iter().map(IpAddr::to_string).collect())
    }

    /// A public address first and a private one after, or the other way round: the private one is
    /// not among those that are tried, so it is not fallen back to either when the public one does
    /// not answer.
    #[tokio::test]
    async fn a_private_address_beside_a_public_one_is_never_tried() {
        for private in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "fd00::1",
        ] {
            for answer in [["8.8.8.8", private], [private, "8.8.8.8"]] {
                assert_eq!(
                    resolve(false, answer.to_vec()).await.unwrap(),
                    ["8.8.8.8"],
                    "{answer:?}"
                );
            }
        }
    }

    /// Of a mixed answer only the public part is handed on; of a private one nothing.
    #[tokio::test]
    async fn only_allowed_addresses_are_returned() {
        let mixed = vec!["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111", "::ffff:169.254.169.254"];
        assert_eq!(resolve(false, mixed.clone()).await.unwrap(), ["8.8.8.8", "2606:4700::1111"]);
        assert_eq!(resolve(true, mixed).await.unwrap().len(), 5);
        for private in ["127.0.0.1", "::1", "169.254.169.254", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(
                matches!(resolve(false, vec![private]).await, Err(Unresolved::Refused)),
                "{private}"
            );
        }
        assert!(matches!(resolve(false, vec![]).await, Err(Unresolved::NoAddress(None))));
        assert_eq!(resolve(false, vec!["8.8.8.8"; 100]).await.unwrap().len(), MAX_ADDRESSES);
    }
}
