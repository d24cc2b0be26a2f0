//! The deployment that these tests share: deployed once, used by one test at a time, as each ends
//! by seeing that nothing is left.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
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
use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

/// Times are shortened by the template's own parameters, so that three attempts fit into a test.
/// The breaker is off: destinations that always fail would open their circuits, which is right, and
/// slow.
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

/// A message that was handed back comes again after this long; on AWS, six times the function's
/// timeout.
pub(crate) const VISIBILITY_S: u32 = 20;

/// Until the queues are empty: what was handed back comes again first.
const EMPTY_BOUND: Duration = Duration::from_secs(180);

/// The deployment, for as long as one test needs it.
pub(crate) struct Deployed {
    stack: MutexGuard<'static, AwsStack>,
}

impl Deployed {
    /// Waits for its turn. The first one deploys.
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

    /// Waits until no message is left, and looks into the table: nothing is unfinished, and nothing
    /// is due.
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
    /// A test that fails shows what the functions said; after one that does not, they have said
    /// nothing that is private.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the emulator's log ends:\n{}", self.stack.log_tail());
            return;
        }
        let leaks: Vec<String> = self.stack.leaks().iter().map(ToString::to_string).collect();
        assert!(
            leaks.is_empty(),
            "the emulator's log holds what must stand in none:\n{}",
            leaks.join("\n")
        );
    }
}

/// Waits until something is so.
pub(crate) async fn wait_until(what: &str, bound: Duration, mut so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !so().await {
        assert!(started.elapsed() < bound, "not within {bound:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}
