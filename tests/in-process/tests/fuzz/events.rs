//! Events as Lambda hands them to the functions: HTTP in its three shapes, and batches of the two
//! queues.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use deliver::Deliver;
use lambda_http::request::LambdaRequest;
use lambda_runtime::LambdaEvent;
use serde_json::value::RawValue;
use shared::{
    clock::Timestamp,
    context::Context,
    id::WebhookId,
    message::{InvalidMessage, Message},
    model::{Content, ErrorKind},
    sender::{Answer, Lookup, NoLookup, Request, Sender},
    store::{CreateError, DeleteError},
    traffic::target::path_hash,
    transition::NewWebhook,
};
use tower::ServiceExt;

use crate::{
    api::{Api, URL},
    engine,
};

const WORDS: [&str; 18] = [
    "\"version\":\"2.0\"",
    "\"rawPath\":",
    "\"rawQueryString\":",
    "\"headers\":",
    "\"multiValueHeaders\":",
    "\"requestContext\":",
    "\"httpMethod\":",
    "\"path\":",
    "\"stage\":",
    "\"isBase64Encoded\":true",
    "\"body\":",
    "\"cookies\":[\"a=b\"]",
    "\"elb\":",
    "/webhooks",
    "/prod/webhooks",
    "\"queryStringParameters\":",
    "\"host\":",
    "\"x-forwarded-proto\":",
];

/// The function `api` as its `main` makes it: an event that is one of HTTP is answered in the shape
/// of its source, and never by a 5xx.
fn judge_http(api: &Api, bytes: &[u8]) {
    let Ok(event) = serde_json::from_slice::<LambdaRequest>(bytes) else { return };
    let service = api::on_lambda(api.router.clone());
    let Ok(answer) =
        api.wait(service.oneshot(LambdaEvent::new(event, lambda_runtime::Context::default())));
    let answer = serde_json::to_value(&answer).unwrap();
    assert!(
        answer["statusCode"].as_u64().is_some_and(|status| (200..500).contains(&status)),
        "{answer}"
    );
    assert!(
        answer["multiValueHeaders"]["x-correlation-id"].is_array()
            || answer["headers"]["x-correlation-id"].is_string()
    );
}

/// Function URLs and HTTP APIs: payload format 2.0.
#[test]
fn http_2() {
    let api = Api::start();
    engine::run(bolero::check!(), "events__http_2", &WORDS, |bytes| judge_http(&api, bytes));
}

/// REST APIs: payload format 1.0.
#[test]
fn http_1() {
    let api = Api::start();
    engine::run(bolero::check!(), "events__http_1", &WORDS, |bytes| judge_http(&api, bytes));
}

/// Load balancers.
#[test]
fn http_alb() {
    let api = Api::start();
    engine::run(bolero::check!(), "events__http_alb", &WORDS, |bytes| judge_http(&api, bytes));
}

/// A destination that answers every attempt by the same.
#[derive(Debug)]
struct Steady(Answer);

#[async_trait]
impl Lookup for Steady {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        NoLookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for Steady {
    async fn send(&self, _request: &Request<'_>, _deadline: Duration) -> Answer {
        self.0.clone()
    }
}

/// The webhook that the corpus names.
fn known() -> WebhookId {
    "event_018bcfe5-6800-7fc0-8ef1-e07e6a410609".parse().unwrap()
}

fn start() -> (Api, Context, Arc<Steady>) {
    let api = Api::start();
    let failure =
        Answer { error: Some(ErrorKind::HttpStatus), status_code: Some(410), ..Answer::default() };
    let context = api.context.clone();
    (api, context, Arc::new(Steady(failure)))
}

/// Puts it into the store as it was accepted, whatever became of it before.
async fn accepted_anew(context: &Context) {
    let deleted = context.store.delete(&known()).await;
    assert!(matches!(deleted, Ok(()) | Err(DeleteError::Missing)), "{deleted:?}");
    let new = NewWebhook {
        id: known(),
        referenced: true,
        correlation_id: "cor-1".to_owned(),
        event_type: None,
        destination: "https://receiver.example:443".to_owned(),
        path_hash: Some(path_hash("/hooks")),
        retry: None,
        deliver_at: None,
        trace: None,
    };
    let webhook = context.rules.create(new, context.clock.now());
    let payload = RawValue::from_string("1".to_owned()).unwrap();
    let created = context
        .store
        .create(&webhook, &Content { url: URL.to_owned(), headers: Vec::new(), payload })
        .await;
    assert!(matches!(created, Ok(()) | Err(CreateError::Conflict(_))), "{created:?}");
}

/// By SQS's rules an id that it did not send fails the whole batch. Store and queue are well, so
/// what is handed back is of a newer version, or another message of the batch is at work on the
/// same webhook. Anything else would be a panic, which the function keeps from the rest of its
/// batch.
fn judge_batch(event: &SqsEvent, response: &SqsBatchResponse) {
    for failure in &response.batch_item_failures {
        let id = &failure.item_identifier;
        let sent = event
            .records
            .iter()
            .filter(|message| message.message_id.as_deref().unwrap_or_default() == id);
        let mut read =
            sent.map(|message| Message::from_json(message.body.as_deref().unwrap_or_default()));
        let is_right = read.any(|message| match message {
            Ok(message) => {
                event.records.iter().filter(|other| names(other, &message.webhook_id)).count() > 1
            }
            Err(error) => matches!(error, InvalidMessage::TooNew { .. }),
        });
        assert!(is_right, "{id:?} is handed back");
    }
}

fn names(message: &SqsMessage, webhook: &WebhookId) -> bool {
    Message::from_json(message.body.as_deref().unwrap_or_default())
        .is_ok_and(|message| message.webhook_id == *webhook)
}

const MESSAGES: [&str; 9] = [
    "\\\"v\\\":",
    "\\\"webhook_id\\\":",
    "\\\"seen\\\":",
    "\\\"archive\\\":true",
    "\"ApproximateReceiveCount\":\"1\"",
    "\"SentTimestamp\":",
    "event_018bcfe5-6800-7fc0-8ef1-e07e6a410609",
    "\"messageId\":",
    "\\\"x\\\":1,",
];

/// A batch of the webhook queue.
#[test]
fn deliver() {
    let (api, context, sender) = start();
    let deliver = Deliver::new(context.clone(), sender);
    engine::run(bolero::check!(), "events__deliver", &MESSAGES, |bytes| {
        let Ok(event) = serde_json::from_slice::<SqsEvent>(bytes) else { return };
        let response = api.wait(async {
            accepted_anew(&context).await;
            deliver.handle(event.clone(), far_off(&context)).await
        });
        judge_batch(&event, &response);
        assert_content_kept(&api, &context);
    });
}

/// A batch of the dead-letter queue.
#[test]
fn dlq() {
    let (api, context, _) = start();
    engine::run(bolero::check!(), "events__dlq", &MESSAGES, |bytes| {
        let Ok(event) = serde_json::from_slice::<SqsEvent>(bytes) else { return };
        let response = api.wait(async {
            accepted_anew(&context).await;
            dlq::handle(&context, event.clone()).await
        });
        judge_batch(&event, &response);
        assert_content_kept(&api, &context);
    });
}

fn far_off(context: &Context) -> Timestamp {
    context.clock.now().plus(Duration::from_secs(900))
}

/// Whoever can write to a queue cannot change where a webhook goes, or what it carries.
fn assert_content_kept(api: &Api, context: &Context) {
    let (_, kept) =
        api.wait(context.store.open(&known())).unwrap().expect("no message deletes a webhook");
    assert_eq!((kept.url.as_str(), kept.payload.get()), (URL, "1"));
}
