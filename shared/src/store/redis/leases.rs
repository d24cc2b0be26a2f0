//! The recovery of leases of a process whose heartbeat stopped.

use ::redis::cmd;
use futures_util::future::join_all;

use super::{
    RedisStore,
    keys::{self, SHARDS},
    merged,
    records::{readable_webhook, unavailable},
};
use crate::{
    clock::Timestamp,
    liveness::ProcessId,
    model::{ClaimId, Webhook},
    status::Status,
    store::{ListPosition, MAX_READ, StoreError, Webhooks, WriteError},
};

/// The field `o` of a record: the process that made the claim, and the claim. A later claim by a
/// process without a name leaves it as it is, and so does an outcome.
pub(super) fn holder(process: Option<ProcessId>, webhook: &Webhook) -> String {
    let claim = webhook.claim.as_ref().map(|claim| claim.id);
    process.zip(claim).map_or_else(String::new, |(process, claim)| name(process, claim))
}

fn name(process: ProcessId, claim: ClaimId) -> String {
    format!("{process}.{}", claim.0)
}

impl RedisStore {
    /// Ends the leases of a dead process, so the next worker can claim the webhooks. Returns how
    /// many.
    ///
    /// Every change is conditional on the record that was read, so it does not hit a newer claim or
    /// an outcome.
    pub async fn end_leases_of(
        &self,
        process: ProcessId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut ended = 0;
        for (shard, index) in (0..SHARDS).flat_map(|shard| [(shard, "status"), (shard, "status2")])
        {
            let begin = format!("[{}:", Status::InProgress.code());
            // '~' sorts behind every position.
            let end = format!("({}:~", Status::InProgress.code());
            let mut from = begin;
            loop {
                let mut command = cmd("ZRANGE");
                command
                    .arg(self.connection.key_of_shard(shard, index))
                    .arg(&from)
                    .arg(&end)
                    .arg("BYLEX");
                command.arg("LIMIT").arg(0).arg(MAX_READ);
                let members: Vec<String> =
                    self.connection.ask(&command).await.map_err(unavailable)?;
                let ends = members
                    .iter()
                    .filter_map(|member| merged::position(member))
                    .map(|at| self.end_lease(at, process, now));
                for done in join_all(ends).await {
                    ended += u64::from(done?);
                }
                match members.last().filter(|_| members.len() == MAX_READ) {
                    Some(last) => from = format!("({last}"),
                    None => break,
                }
            }
        }
        Ok(ended)
    }

    async fn end_lease(
        &self,
        at: ListPosition,
        process: ProcessId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let key = keys::record_key(&self.connection, at);
        let command = cmd("HMGET").arg(key).arg("o").arg("r").clone();
        let read: Result<(Option<String>, Option<Vec<u8>>), _> =
            self.connection.ask(&command).await;
        let (holder, record) = match read {
            Err(error) if super::records::is_foreign(&error) => return Ok(false),
            read => read.map_err(unavailable)?,
        };
        let Some(webhook) = record.as_deref().and_then(readable_webhook) else { return Ok(false) };
        let Some(claim) = webhook.claim.as_ref().filter(|claim| claim.lease_until > now) else {
            return Ok(false);
        };
        if holder != Some(name(process, claim.id)) {
            return Ok(false);
        }
        match self.write(&webhook, &without_lease(&webhook, now)).await {
            Ok(()) => Ok(true),
            Err(WriteError::Conflict(_) | WriteError::Missing) => Ok(false),
            Err(WriteError::Store(error)) => Err(error),
        }
    }
}

/// Ends the lease and makes the webhook due, so the sweep finds it if its message is lost.
fn without_lease(webhook: &Webhook, now: Timestamp) -> Webhook {
    let mut next = webhook.clone();
    next.due_at = Some(webhook.due_at.map_or(now, |at| at.min(now)));
    next.revision = webhook.revision.saturating_add(1);
    next.updated_at = now;
    if let Some(claim) = next.claim.as_mut() {
        claim.lease_until = claim.lease_until.min(now);
    }
    next
}
