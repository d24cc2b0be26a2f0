//! The contract of [`Targets`] on hashes of all targets, and two sorted sets: until when a target
//! restricts attempts, and when it was last used.

use std::time::Duration;

use ::redis::cmd;
use async_trait::async_trait;
use futures_util::future::try_join;

use super::{RedisStore, SCRIPTS, records::unavailable};
use crate::{
    clock::Timestamp,
    redis::Connection,
    store::{
        MAX_TARGETS, ReplaceCountersError, StoreError, TARGET_TTL, TakenSlots, TargetState,
        Targets, WriteTargetError,
    },
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
};

/// How long the keys stay beyond [`TARGET_TTL`] if no target is used.
const KEYS_LINGER: Duration = Duration::from_secs(3600);

const TARGETS: &str = "targets";
const REVISIONS: &str = "targets:revision";
const UNTIL: &str = "targets:until";
const COUNTERS: &str = "targets:counters";
const USED: &str = "targets:used";

#[async_trait]
impl Targets for RedisStore {
    async fn target(&self, key: &TargetKey) -> Result<TargetState, StoreError> {
        let read = async |hash| -> Result<Option<String>, StoreError> {
            let command = cmd("HGET").arg(self.connection.key(hash)).arg(key.as_str()).clone();
            self.connection.ask(&command).await.map_err(unavailable)
        };
        let (target, counters) = try_join(read(TARGETS), read(COUNTERS)).await?;
        Ok(TargetState {
            target: target.as_deref().and_then(read_target),
            counters: counters.as_deref().and_then(read_counters),
        })
    }

    async fn write_target(
        &self,
        before: Option<u64>,
        after: &Target,
    ) -> Result<(), WriteTargetError> {
        let json = if after.is_idle() {
            String::new()
        } else {
            serde_json::to_string(after)
                .unwrap_or_else(|_| unreachable!("a target has only string keys"))
        };
        let keys = keys(&self.connection, [TARGETS, REVISIONS, UNTIL, COUNTERS, USED]);
        let mut script = SCRIPTS.target.on(&keys);
        script
            .arg(after.key.as_str())
            .arg(before.map_or_else(String::new, |revision| revision.to_string()))
            .arg(after.revision)
            .arg(json)
            .arg(after.restricts_until().map_or_else(String::new, |at| at.as_millis().to_string()))
            .arg(after.touched_at.as_millis())
            .arg(after.touched_at.minus(TARGET_TTL).as_millis())
            .arg(kept_ms());
        let (is_written, stored): (bool, String) =
            self.connection.once(&script).await.map_err(unavailable)?;
        if is_written {
            return Ok(());
        }
        Err(WriteTargetError::Changed(read_target(&stored).map(Box::new)))
    }

    async fn targets(&self, now: Timestamp) -> Result<Vec<TargetState>, StoreError> {
        let keys = keys(&self.connection, [TARGETS, UNTIL, COUNTERS]);
        let mut script = SCRIPTS.restricting.on(&keys);
        script.arg(now.as_millis()).arg(MAX_TARGETS);
        let (targets, counters): (Vec<Option<String>>, Vec<Option<String>>) =
            self.connection.run(&script).await.map_err(unavailable)?;
        let states = targets.into_iter().zip(counters).map(|(target, counters)| TargetState {
            target: target.as_deref().and_then(read_target),
            counters: counters.as_deref().and_then(read_counters),
        });
        Ok(states.filter(|state| state.target.is_some()).collect())
    }

    async fn take_slots(&self, key: &TargetKey, take: &Take) -> Result<TakenSlots, StoreError> {
        let keys = keys(&self.connection, [COUNTERS, TARGETS, USED]);
        let mut script = SCRIPTS.take.on(&keys);
        script
            .arg(key.as_str())
            .arg(&take.generation)
            .arg(take.floor)
            .arg(take.count)
            .arg(u8::from(take.is_late))
            .arg(self.clock.now().as_millis())
            .arg(kept_ms());
        let (is_taken, target, rest): (bool, String, String) =
            self.connection.once(&script).await.map_err(unavailable)?;
        let target = read_target(&target);
        match rest.parse() {
            Ok(last) if is_taken => Ok(TakenSlots::Taken { last, target }),
            _ => Ok(TakenSlots::Refused(TargetState { target, counters: read_counters(&rest) })),
        }
    }

    async fn replace_counters(
        &self,
        key: &TargetKey,
        before: Option<&Counters>,
        after: &Counters,
    ) -> Result<(), ReplaceCountersError> {
        let now = self.clock.now();
        let keys = keys(&self.connection, [COUNTERS, TARGETS, REVISIONS, UNTIL, USED]);
        let mut script = SCRIPTS.replace_counters.on(&keys);
        script
            .arg(key.as_str())
            .arg(before.map_or_else(String::new, counters_text))
            .arg(counters_text(after))
            .arg(now.as_millis())
            .arg(now.minus(TARGET_TTL).as_millis())
            .arg(kept_ms());
        let (is_replaced, target, counters): (bool, String, String) =
            self.connection.once(&script).await.map_err(unavailable)?;
        if is_replaced {
            return Ok(());
        }
        Err(ReplaceCountersError::Changed(Box::new(TargetState {
            target: read_target(&target),
            counters: read_counters(&counters),
        })))
    }
}

fn keys<const N: usize>(connection: &Connection, names: [&str; N]) -> [String; N] {
    names.map(|name| connection.key(name))
}

fn kept_ms() -> u64 {
    (TARGET_TTL + KEYS_LINGER).as_millis() as u64
}

fn read_target(json: &str) -> Option<Target> {
    serde_json::from_str(json).ok()
}

/// `GENERATION LAST LAST_LATE`.
fn counters_text(counters: &Counters) -> String {
    format!("{} {} {}", counters.generation, counters.last, counters.last_late)
}

fn read_counters(text: &str) -> Option<Counters> {
    let mut words = text.split(' ');
    let generation = words.next()?.to_owned();
    let last = words.next()?.parse().ok()?;
    let last_late = words.next()?.parse().ok()?;
    Some(Counters { generation, last, last_late })
}
