//! Room for requests: how many are worked on at a time, how many bytes they hold, and how many
//! records they read.
//!
//! | what | taken | if there is none |
//! |---|---|---|
//! | bytes (`API_BODY_BYTES`) | before a body is read, for its announced length; as it grows if no length is announced; for a large answer until it is sent | 503 |
//! | a turn (`API_CONCURRENCY`) | once the body is there, until the handler returns | 503 |
//! | records | before webhooks are listed, until the list is made | waits, then 503 |
//!
//! A body that comes slowly holds bytes and no turn. Of bytes and turns one API key gets at most
//! half, if there are several keys: what one caller does leaves room to the others. Nobody waits
//! for a turn or for bytes, since a request that waits holds memory too, and a caller that is told
//! at once can slow down.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use shared::config::{Config, KeyHash};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::{Access, presented_key},
    body::MAX_BODY_BYTES,
    problem::{Kind, Problem},
};

/// What a request holds at most for each byte of its body: the body itself, the payloads that are
/// taken from it, and what the store is told, as it is serialised and as it waits to be written.
/// Measured: see the README.
const BYTES_PER_BODY_BYTE: usize = 3;

/// What a request without a body worth mentioning takes.
const MIN_REQUEST_BYTES: usize = 4 * 1024;

/// Answers up to this size take no room.
const SMALL_ANSWER_BYTES: usize = 16 * 1024;

/// Records of webhooks that lists hold at a time. The largest record is about 60 KiB.
const MAX_RECORDS: usize = 4000;

/// How long a list waits for others to end.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// The unit in which bytes are counted.
const KIB: usize = 1024;

// Whatever the setting, the largest body finds room.
const _: () =
    assert!(MAX_BODY_BYTES * BYTES_PER_BODY_BYTE <= shared::config::MIN_API_BODY_BYTES as usize);

/// The room of a process.
#[derive(Debug)]
pub(crate) struct Room {
    all: Pools,
    /// What each API key may take of it, if there are several.
    shares: Vec<(KeyHash, Pools)>,
    records: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct Pools {
    turns: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Pools {
    fn new(turns: usize, bytes: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(turns)), kib: Arc::new(Semaphore::new(bytes / KIB)) }
    }
}

/// Which key's share a request takes room from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share(Option<usize>);

/// Room that is taken until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Taken(Vec<OwnedSemaphorePermit>);

/// Room for a body, which can grow.
#[derive(Debug)]
pub(crate) struct BodyRoom<'a> {
    room: &'a Room,
    share: Share,
    kib: usize,
    taken: Taken,
}

impl Room {
    pub(crate) fn new(config: &Config, access: &Access) -> Self {
        let (turns, bytes) =
            (config.api_concurrency, usize::try_from(config.api_body_bytes).unwrap_or(usize::MAX));
        let shares = match access {
            Access::Keys(hashes) if hashes.len() > 1 => {
                // The half of one turn is a turn, and half of the bytes still hold the largest
                // body.
                let (turns, bytes) = (
                    turns.div_ceil(2),
                    (bytes / 2).max(shared::config::MIN_API_BODY_BYTES as usize),
                );
                hashes.iter().map(|hash| (*hash, Pools::new(turns, bytes))).collect()
            }
            _ => Vec::new(),
        };
        Self {
            all: Pools::new(turns, bytes),
            shares,
            records: Arc::new(Semaphore::new(MAX_RECORDS)),
        }
    }

    /// The share of the key that these headers present.
    pub(crate) fn share_of(&self, headers: &HeaderMap) -> Share {
        if self.shares.is_empty() {
            return Share(None);
        }
        let Some(presented) = presented_key(headers).map(KeyHash::of) else { return Share(None) };
        Share(self.shares.iter().position(|(hash, _)| bool::from(hash.ct_eq(&presented))))
    }

    fn pools(&self, share: Share) -> impl Iterator<Item = &Pools> {
        // The share first: what is taken of it and not of all goes back at once.
        share
            .0
            .and_then(|index| self.shares.get(index))
            .map(|(_, pools)| pools)
            .into_iter()
            .chain([&self.all])
    }

    /// A turn for a request that is complete.
    pub(crate) fn turn(&self, share: Share) -> Result<Taken, Problem> {
        let turns = self.pools(share).map(|pools| Arc::clone(&pools.turns).try_acquire_owned());
        turns
            .collect::<Result<_, _>>()
            .map(Taken)
            .map_err(|_| overloaded("Too many concurrent requests. Try again shortly."))
    }

    /// Room for a body that has this length, as far as is known.
    pub(crate) fn body(&self, share: Share, length: usize) -> Result<BodyRoom<'_>, Problem> {
        let mut body = BodyRoom { room: self, share, kib: 0, taken: Taken::default() };
        body.grow_to(length)?;
        Ok(body)
    }

    /// Room for an answer that its caller has yet to read. `None`: it needs none.
    pub(crate) fn answer(&self, share: Share, length: usize) -> Option<Result<Taken, Problem>> {
        (length > SMALL_ANSWER_BYTES).then(|| self.kib(share, length.div_ceil(KIB)))
    }

    /// Room for so many records of webhooks. Waits for other lists to end.
    pub(crate) async fn records(&self, count: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let count = u32::try_from(count.min(MAX_RECORDS)).unwrap_or(u32::MAX);
        let acquired = tokio::time::timeout(
            RECORDS_TIMEOUT,
            Arc::clone(&self.records).acquire_many_owned(count),
        )
        .await;
        let acquired = acquired.ok().and_then(Result::ok);
        acquired.ok_or_else(|| overloaded("Too many lists are being read. Try again shortly."))
    }

    fn kib(&self, share: Share, kib: usize) -> Result<Taken, Problem> {
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let taken =
            self.pools(share).map(|pools| Arc::clone(&pools.kib).try_acquire_many_owned(kib));
        taken.collect::<Result<_, _>>().map(Taken).map_err(|_| {
            overloaded("Requests in progress use all memory set aside for them. Try again shortly.")
        })
    }
}

impl BodyRoom<'_> {
    /// Takes what is missing for a body of this length.
    pub(crate) fn grow_to(&mut self, length: usize) -> Result<(), Problem> {
        let kib = length.saturating_mul(BYTES_PER_BODY_BYTE).max(MIN_REQUEST_BYTES).div_ceil(KIB);
        if kib > self.kib {
            self.taken.0.extend(self.room.kib(self.share, kib - self.kib)?.0);
            self.kib = kib;
        }
        Ok(())
    }

    /// Gives back what was taken: the body is not kept.
    pub(crate) fn release(&mut self) {
        self.taken = Taken::default();
        self.kib = 0;
    }

    /// The body is there: with a turn, for as long as the request is worked on.
    pub(crate) fn with_turn(mut self) -> Result<Taken, Problem> {
        self.taken.0.extend(self.room.turn(self.share)?.0);
        Ok(self.taken)
    }
}

fn overloaded(detail: &'static str) -> Problem {
    Problem::new(Kind::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use shared::config::Defaults;

    use super::*;

    fn room(turns: &str, keys: &[&str]) -> Room {
        let config = Config::from_source(Defaults::LOCAL, |name| match name {
            "API_CONCURRENCY" => Some(turns.to_owned()),
            "API_BODY_BYTES" => Some((64 * 1024 * 1024).to_string()),
            _ => None,
        });
        let access = Access::Keys(keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect());
        Room::new(&config.unwrap(), &access)
    }

    fn share(room: &Room, key: &'static str) -> Share {
        room.share_of(&HeaderMap::from_iter([(
            http::HeaderName::from_static("x-api-key"),
            HeaderValue::from_static(key),
        )]))
    }

    #[test]
    fn one_key_leaves_half_to_the_others() {
        let room = room("4", &["a", "b"]);
        let (a, b) = (share(&room, "a"), share(&room, "b"));
        assert_ne!(a, b);
        let held = [room.turn(a).unwrap(), room.turn(a).unwrap()];
        assert_eq!(room.turn(a).unwrap_err().kind(), Kind::Overloaded);
        let others = [room.turn(b).unwrap(), room.turn(b).unwrap()];
        drop(others);
        drop(held);
        assert!(room.turn(a).is_ok());
        let large = room.body(a, 10 * 1024 * 1024).unwrap();
        assert!(room.body(a, 1024 * 1024).is_err() && room.body(b, 1024 * 1024).is_ok());
        drop(large);
        assert!(room.body(a, 1024 * 1024).is_ok());
    }

    #[test]
    fn a_single_key_has_all_of_it() {
        let room = room("2", &["a"]);
        let a = share(&room, "a");
        let held = [room.turn(a).unwrap(), room.turn(a).unwrap()];
        assert!(room.turn(a).is_err());
        drop(held);
        assert!(room.body(a, 20 * 1024 * 1024).is_ok() && room.body(a, 22 * 1024 * 1024).is_err());
    }

    #[test]
    fn a_body_that_grows_takes_what_it_needs_and_gives_it_back() {
        let room = room("2", &[]);
        let mut body = room.body(Share::default(), 0).unwrap();
        body.grow_to(20 * 1024 * 1024).unwrap();
        assert!(body.grow_to(30 * 1024 * 1024).is_err());
        let taken = body.with_turn().unwrap();
        assert!(room.body(Share::default(), 2 * 1024 * 1024).is_err());
        drop(taken);
        assert!(room.body(Share::default(), 20 * 1024 * 1024).is_ok());
    }
}
