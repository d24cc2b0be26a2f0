//! Resolves names for the connector, and hands on only addresses to which the guard lets it
//! connect.
//!
//! How the system is asked, and what that is bounded by, is [`super::lookup`].
//!
//! The connection goes to an address from the very answer that was checked, so there is no second
//! look-up which a changed record (DNS rebinding) could win.

use std::{fmt, io, net::IpAddr, sync::Arc};

use async_trait::async_trait;

use super::{dial, guard::AddressGuard};

/// Addresses of one name that are tried; a name has no use for more.
pub const MAX_ADDRESSES: usize = 16;

/// Looks up a name's addresses.
#[async_trait]
pub trait Lookup: Send + Sync + fmt::Debug {
    /// The addresses of `host`, most preferred first; an error if it has none.
    ///
    /// Two kinds of error have a meaning of their own. [`TimedOut`](io::ErrorKind::TimedOut): the
    /// name servers did not answer. [`WouldBlock`](io::ErrorKind::WouldBlock): nobody was asked,
    /// since too many look-ups were under way.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Knows no name. For tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLookup;

#[async_trait]
impl Lookup for NoLookup {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Why a name leads nowhere. The texts are for people and hold no address.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// No addresses.
    #[error("the host's name does not resolve")]
    NoAddress(#[source] Option<io::Error>),
    /// Addresses, but none to which the guard lets us connect.
    #[error(
        "the host's name resolves to no public address, and others are refused \
         (ALLOW_PRIVATE_DESTINATIONS=true allows them, for local use)"
    )]
    Refused,
    /// The name servers did not answer in time.
    #[error("the name servers of the host did not answer")]
    Unanswered(#[source] io::Error),
    /// Nobody was asked, for a reason of this machine. Says nothing of the name.
    #[error("the host's name was not looked up: {0}")]
    NotAsked(#[source] io::Error),
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Unanswered(error),
            io::ErrorKind::WouldBlock => Self::NotAsked(error),
            _ if dial::is_out_of_resources(&error) => Self::NotAsked(error),
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
    /// Asks this lookup, and hands on what this guard allows.
    pub fn new(guard: Arc<AddressGuard>, lookup: Arc<dyn Lookup>) -> Self {
        Self { guard, lookup }
    }

    /// The addresses of `host` to which a connection may go, most preferred first: one at least,
    /// and [`MAX_ADDRESSES`] at most.
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
    async fn only_allowed_addresses_are_handed_on() {
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
