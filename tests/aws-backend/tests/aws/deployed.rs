//! The deployment that these tests share. It is deployed once and used by one test at a time,
//! because each ends with a check that nothing is left.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use harness::{aws::AwsStack, client::ApiClient, ledger};
use shared::{
    aws::Aws,
    clock::{Clock, SystemClock},
    config::{AwsCredentials, AwsSettings},
    queue::sqs::SqsQueue,
    store::dynamodb::DynamoStore,
    transition::Limits,
};
use tokio::sync::{Mutex, MutexGuard};

/// The template's parameters shorten the times, so three attempts fit into a test. The circuit
/// breaker is off, because failing destinations would open their circuits and slow the tests.
const PARAMETERS: [(&str, &str); 8] = [
    ("RetryBaseDelayMs", "200"),
    ("MinRetryDelayMs", "0"),
    ("DeliveryTimeoutMs", "2000"),
    ("LeaseMs", "5000"),
    ("CircuitFailures", "0"),
    ("MaxConcurrency", "4"),
    ("LogLevel", "warn"),
    ("Alarms", "true"),
];

/// The visibility timeout of a failed message. On AWS it is six times the function's timeout.
pub(crate) const VISIBILITY_S: u32 = 20;

/// The bound until the queues are empty. Hidden messages become visible first.
const EMPTY_BOUND: Duration = Duration::from_secs(180);

/// The deployment, locked for one test.
pub(crate) struct Deployed {
    stack: MutexGuard<'static, AwsStack>,
}

impl Deployed {
    /// Waits for its turn. The first call deploys.
    pub(crate) async fn take() -> Self {
        static STACK: OnceLock<Mutex<AwsStack>> = OnceLock::new();
        let deploy = || AwsStack::deployed(&PARAMETERS).unwrap_or_else(|error| panic!("{error}"));
        let shared =
            tokio::task::spawn_blocking(move || STACK.get_or_init(|| Mutex::new(deploy())))
                .await
                .unwrap();
        let deployed = Self { stack: shared.lock().await };
        for queue in ["QueueUrl", "DeadLetterQueueUrl"] {
            deployed
                .stack
                .set_visibility(deployed.stack.output(queue), VISIBILITY_S)
                .await
                .unwrap();
        }
        deployed
    }

    pub(crate) fn api(&self) -> ApiClient {
        self.stack.client().unwrap()
    }

    /// Waits until no message is left. Then checks that the table has no unfinished and no due
    /// webhook.
    pub(crate) async fn close(&self) {
        let api = self.api();
        ledger::wait_for_empty_queues(&api, EMPTY_BOUND).await;
        for status in ["pending", "in_progress", "retrying"] {
            assert_eq!(
                api.webhooks(&[("status", status)]).await.unwrap().items.len(),
                0,
                "{status}"
            );
        }
        let settings = self.settings();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let aws = Aws::new().unwrap();
        let store = DynamoStore::new(
            aws.dynamodb(&settings),
            &settings.table_name,
            clock,
            Limits::default().retention,
        );
        ledger::assert_nothing_left(&store, &SqsQueue::new(aws.sqs(&settings), &settings)).await;
    }

    /// The deployed table and queues, as the account's root.
    fn settings(&self) -> AwsSettings {
        let root = AwsCredentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "test".to_owned(),
            session_token: None,
        };
        AwsSettings {
            region: self.stack.region().to_owned(),
            credentials: root,
            dynamodb_endpoint: Some(self.stack.endpoint().to_owned()),
            sqs_endpoint: Some(self.stack.endpoint().to_owned()),
            table_name: self.stack.output("TableName").to_owned(),
            queue_url: self.stack.output("QueueUrl").to_owned(),
            dead_letter_queue_url: self.stack.output("DeadLetterQueueUrl").to_owned(),
            function_name: None,
        }
    }
}

impl std::ops::Deref for Deployed {
    type Target = AwsStack;

    fn deref(&self) -> &AwsStack {
        &self.stack
    }
}

impl Drop for Deployed {
    /// A failed test shows the end of the functions' log. A successful one checks that the log
    /// contains no secret.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the emulator's log ends:\n{}", self.stack.log_tail());
            return;
        }
        let leaks: Vec<String> = self.stack.leaks().iter().map(ToString::to_string).collect();
        assert!(leaks.is_empty(), "the emulator's log contains secrets:\n{}", leaks.join("\n"));
    }
}
