//! The contract of [`Applications`]: a hash for each document, and in each shard a sorted set of
//! ids.

use ::redis::{RedisResult, cmd};
use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    FULL, RedisStore, SCRIPTS, keys,
    lists::CHUNK,
    merged::{self, IndexRange, Order},
    records::{failed, full, unavailable},
};
use crate::{
    applications::{application::Application, id::ApplicationId},
    store::{Applications, MAX_READ, Page, StoreError, WriteApplicationError},
};

#[async_trait]
impl Applications for RedisStore {
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        let key = keys::application_key(&self.connection, id);
        let json: RedisResult<Option<String>> =
            self.connection.ask(cmd("HGET").arg(key).arg("r")).await;
        let json = json.map_err(|error| failed(id, error))?;
        json.map(|json| parse(id, &json)).transpose()
    }

    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError> {
        let id = &after.id;
        let document = keys::application_key(&self.connection, id);
        let call = if let Some(before) = before {
            let mut call = SCRIPTS.application.on(&[document]);
            call.arg(before).arg(after.revision).arg(after.to_json());
            call
        } else {
            let shard = keys::shard_of_name(id.as_str());
            let ids = self.connection.key_of_shard(shard, keys::APPLICATIONS);
            let mut call = SCRIPTS.create_application.on(&[document, ids]);
            call.arg(id.as_str()).arg(after.revision).arg(after.to_json());
            call.arg(u8::from(self.memory.is_full(&self.connection)));
            call
        };
        let answer: RedisResult<Vec<String>> = self.connection.run_durably(&call, true).await;
        let answer = answer.map_err(|error| failed(id, error))?;
        match answer.first().map(String::as_str) {
            Some("done") => Ok(()),
            Some(FULL) => Err(full().into()),
            _ => {
                let stored = answer.get(1).filter(|json| !json.is_empty());
                let stored = stored.map(|json| parse(id, json)).transpose()?;
                Err(WriteApplicationError::Changed(stored.map(Box::new)))
            }
        }
    }

    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let index = [keys::APPLICATIONS];
        let read = merged::read(&self.connection, &index, &from, "+", Order::Ascending).await;
        let IndexRange { members, next } = read.map_err(unavailable)?;
        let limit = limit.clamp(1, MAX_READ);
        let (mut items, mut examined) = (Vec::new(), 0);
        while examined < members.len() && items.len() < limit {
            let chunk = (limit - items.len()).clamp(CHUNK.0, CHUNK.1);
            let chunk = &members[examined..members.len().min(examined + chunk)];
            for found in join_all(chunk.iter().map(|member| self.listed_application(member))).await
            {
                if items.len() == limit {
                    break;
                }
                examined += 1;
                items.extend(found?);
            }
        }
        let next = if examined < members.len() { members.get(examined - 1).cloned() } else { next };
        Ok(Page { items, next: next.and_then(|id| id.parse().ok()) })
    }
}

impl RedisStore {
    /// The document of a list's entry, unless it is unreadable.
    async fn listed_application(&self, member: &str) -> Result<Option<Application>, StoreError> {
        let Ok(id) = member.parse() else { return Ok(None) };
        match self.application(&id).await {
            Err(StoreError::Unreadable { .. }) => {
                tracing::warn!(application_id = %id, "Skipped an application that cannot be read");
                Ok(None)
            }
            read => read,
        }
    }
}

fn parse(id: &ApplicationId, json: &str) -> Result<Application, StoreError> {
    Application::from_json(json).map_err(|source| StoreError::unreadable(id, source))
}
