//! Opens DynamoDB and SQS. Their clients share connections.

use std::sync::Arc;

use super::{
    error::ContextError,
    opening::{Opened, Opening},
};
use crate::{aws::Aws, queue::sqs::SqsQueue, store::dynamodb::DynamoStore};

pub(super) fn open(opening: Opening<'_>) -> Result<Opened, ContextError> {
    let Opening { config, clock, roles, .. } = opening;
    let aws = Aws::new().map_err(ContextError::backend)?;
    let mut opened = Opened::default();
    if roles.store {
        let client = aws.dynamodb(&config.aws);
        let retention = config.rules.limits.retention;
        let store = DynamoStore::new(client, &config.aws.table_name, Arc::clone(clock), retention);
        opened.store = Some(Arc::new(store));
    }
    if roles.queue {
        opened.queue = Some(Arc::new(SqsQueue::new(aws.sqs(&config.aws), &config.aws)));
    }
    Ok(opened)
}
