//! The contract of [`Messages`].

use async_trait::async_trait;

use super::RedisStore;
use crate::{
    applications::{message::PublishedMessage, standing::Standing},
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::Content,
    store::{
        CreateMessageError, DeleteError, MessageFilter, MessageIdState, Messages, Page, StoreError,
        StoredDelivery, WriteMessageError,
    },
};

#[async_trait]
impl Messages for RedisStore {
    async fn create_message(
        &self,
        _message: &PublishedMessage,
        _content: &Content,
    ) -> Result<(), CreateMessageError> {
        todo!()
    }

    async fn tombstone_message_id(&self, _id: &MessageId) -> Result<MessageIdState, StoreError> {
        todo!()
    }

    async fn message(&self, _id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        todo!()
    }

    async fn open_message(
        &self,
        _id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        todo!()
    }

    async fn write_message(
        &self,
        _before: &PublishedMessage,
        _after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        todo!()
    }

    async fn delivery(&self, _id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        todo!()
    }

    async fn standing(&self, _id: &MessageId) -> Result<Option<Standing>, StoreError> {
        todo!()
    }

    async fn put_marker(&self, _id: &WebhookId, _until: Timestamp) -> Result<(), StoreError> {
        todo!()
    }

    async fn delete_message(&self, _seen: &PublishedMessage) -> Result<(), DeleteError> {
        todo!()
    }

    async fn list_messages(
        &self,
        _filter: &MessageFilter,
        _after: Option<TaskId>,
        _limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        todo!()
    }
}
