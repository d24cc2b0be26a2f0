//! Redis goes away under load, for ten seconds: it hangs, or is killed and comes back with what it has on disk. Nothing that was answered
//! with a 202 is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use posthaste_tests::{
    client::{Accepted, ApiClient},
    receiver::Receiver,
    redis_server::{RedisCluster, RedisServer},
    stack::Stack,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    ledger,
    redis::{BOUND, Parts},
};

const CLIENTS: usize = 8;

/// How long it is away: longer than any call waits, so that nobody sits it out.
const OUTAGE: Duration = Duration::from_secs(12);

/// For so long after its beginning a 202 may still be right: the webhook was created before it, and the message's send and then the entry
/// in the due index each waited for 3 s in vain.
const IN_FLIGHT: Duration = Duration::from_secs(8);

/// Between two requests of a client: enough of them meet the outage, and not so many that they take long to ask about.
const PACE: Duration = Duration::from_millis(25);

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicUsize,
    refused: AtomicUsize,
    stopping: AtomicBool,
}

/// A stack, a receiver that takes everything, and clients that post through everything.
struct Load {
    parts: Parts,
    stack: Stack,
    receiver: Receiver,
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// What neither the queue nor the due index took, since both were away, is the audit's; here it comes soon.
    async fn on(parts: Parts) -> Self {
        let parts = parts.set("AUDIT_AGE_MS", "5000").set("REQUEUE_GRACE_MS", "9000");
        let (stack, receiver, seen) =
            (parts.launch.start().unwrap(), Receiver::start().await.unwrap(), Arc::new(Seen::default()));
        let post = |_| tokio::spawn(post_through(stack.url(), receiver.url("/x"), Arc::clone(&seen)));
        let clients = (0..CLIENTS).map(post).collect();
        let load = Self { parts, stack, receiver, seen, clients };
        load.wait_for_accepted("before").await;
        load
    }

    /// Accepted and refused so far.
    fn counts(&self) -> (usize, usize) {
        (self.seen.accepted.load(Ordering::SeqCst), self.seen.refused.load(Ordering::SeqCst))
    }

    async fn wait_for_accepted(&self, when: &str) {
        let (started, (before, _)) = (Instant::now(), self.counts());
        while self.counts().0 < before + 50 {
            assert!(started.elapsed() < BOUND, "{when}: nothing is accepted within {BOUND:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The outage takes its time; how many were accepted and refused in it, without the answers to requests from before it.
    async fn sit_out(&self) -> (usize, usize) {
        sleep(IN_FLIGHT).await;
        let before = self.counts();
        sleep(OUTAGE.saturating_sub(IN_FLIGHT)).await;
        let after = self.counts();
        (after.0 - before.0, after.1 - before.1)
    }

    /// Everything that was accepted is delivered, and nothing is left.
    async fn close(self) {
        self.seen.stopping.store(true, Ordering::SeqCst);
        let mut accepted = Vec::new();
        for client in self.clients {
            accepted.extend(client.await.unwrap());
        }
        let api = ApiClient::new(&self.stack.url(), None).unwrap();
        let ledger = ledger::settle(&api, &accepted, BOUND).await;
        assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
        let came: std::collections::HashSet<String> =
            self.receiver.received().iter().filter_map(|request| Some(request.webhook_id()?.to_owned())).collect();
        assert!(accepted.iter().all(|id| came.contains(id)), "what is delivered has come");
        self.parts.close(&api, self.stack).await;
    }
}

/// Posts until it is told to stop: the ids of what was answered with a 202. A refusal is a 503 that says when to come again.
async fn post_through(api_url: String, receiver_url: String, seen: Arc<Seen>) -> Vec<String> {
    let api = ApiClient::new(&api_url, None).unwrap();
    let mut accepted = Vec::new();
    while !seen.stopping.load(Ordering::SeqCst) {
        let query = [("webhook_url", receiver_url.as_str())];
        let answer = api.call(Method::POST, &["test-webhook"], &query, Some("{}".to_owned())).await.unwrap();
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            seen.refused.fetch_add(1, Ordering::SeqCst);
        } else {
            accepted.push(answer.expect::<Accepted>(StatusCode::ACCEPTED).unwrap().webhook_id);
            seen.accepted.fetch_add(1, Ordering::SeqCst);
        }
        sleep(PACE).await;
    }
    accepted
}

/// A server that has both and hangs, or dies and comes back with what it has on disk, costs refusals and delays.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_hangs_or_dies() {
    let mut server = RedisServer::durable().unwrap();
    let load = Load::on(Parts::on_one(&server)).await;
    server.pause().unwrap();
    let (accepted, refused) = load.sit_out().await;
    assert!(accepted == 0 && refused > 0, "while it hung, {accepted} were accepted and {refused} refused");
    server.resume().unwrap();
    load.wait_for_accepted("after it hung").await;
    server.crash();
    let (accepted, refused) = load.sit_out().await;
    assert!(accepted == 0 && refused > 0, "while it was dead, {accepted} were accepted and {refused} refused");
    server.restart().unwrap();
    load.wait_for_accepted("after it died").await;
    load.close().await;
}

/// Where only the queue's server is away, nothing is refused: what is accepted waits in the due index.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_when_only_the_queue_s_server_hangs_or_dies() {
    let (status, mut queue) = (RedisServer::durable().unwrap(), RedisServer::durable().unwrap());
    let load = Load::on(Parts::on(Some(&status.url(0)), Some(&queue.url(0)))).await;
    queue.pause().unwrap();
    let (accepted, refused) = load.sit_out().await;
    assert!(accepted > 0 && refused == 0, "while it hung, {accepted} were accepted and {refused} refused");
    queue.resume().unwrap();
    load.wait_for_accepted("after it hung").await;
    queue.crash();
    let (accepted, refused) = load.sit_out().await;
    assert!(accepted > 0 && refused == 0, "while it was dead, {accepted} were accepted and {refused} refused");
    queue.restart().unwrap();
    load.wait_for_accepted("after it died").await;
    assert_eq!(load.counts().1, 0, "nothing was refused");
    load.close().await;
}

/// A cluster that loses a node takes what the others keep, once it has one again everything, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_a_node_of_a_cluster_hangs_or_dies() {
    let mut cluster = RedisCluster::durable().unwrap();
    let load = Load::on(Parts::on(Some(&cluster.url()), Some(&cluster.url()))).await;
    cluster.nodes()[1].pause().unwrap();
    let (_, refused) = load.sit_out().await;
    assert!(refused > 0, "its share was refused while it hung");
    cluster.nodes()[1].resume().unwrap();
    cluster.wait_until_agreed().unwrap();
    load.wait_for_accepted("after it hung").await;
    cluster.nodes_mut()[2].crash();
    let (_, refused) = load.sit_out().await;
    assert!(refused > 0, "its share was refused while it was dead");
    cluster.nodes_mut()[2].restart().unwrap();
    cluster.wait_until_agreed().unwrap();
    load.wait_for_accepted("after it died").await;
    load.close().await;
}
