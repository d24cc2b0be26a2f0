//! An outage of Redis under load for ten seconds: it hangs, or is killed and restarts from its
//! disk. No webhook with a 202 is lost.

use std::time::Duration;

use harness::{
    client::ApiClient,
    clients::Clients,
    crash::wait_until_idle,
    ledger,
    receiver::Receiver,
    redis_server::{RedisCluster, RedisServer},
    stack::Stack,
};
use http::StatusCode;
use tokio::time::sleep;

use crate::redis::{BOUND, Parts};

/// The length of an outage. It exceeds the timeout of every call.
const OUTAGE: Duration = Duration::from_secs(10);

/// A stack, a receiver that accepts everything, and clients that post during the outage.
struct Load {
    parts: Parts,
    stack: Stack,
    receiver: Receiver,
    clients: Clients,
}

impl Load {
    /// If both the queue and the due index are unreachable, a webhook waits for the audit. Here it
    /// runs soon.
    async fn on(parts: Parts) -> Self {
        let parts = parts.set("AUDIT_AGE_MS", "5000").set("REQUEUE_GRACE_MS", "9000");
        let (stack, receiver) = (parts.launch.start().unwrap(), Receiver::start().await.unwrap());
        let clients =
            Clients::start(&stack.url(), &receiver.url("/x"), StatusCode::SERVICE_UNAVAILABLE);
        let load = Self { parts, stack, receiver, clients };
        load.wait_for_accepted("before").await;
        load
    }

    async fn wait_for_accepted(&self, when: &str) {
        self.clients.seen.accepts(when, 50).await;
    }

    /// Waits for the length of the outage. Returns how many of the requests that began in it were
    /// accepted, and how many refused.
    async fn wait_for_outage(&self) -> (usize, usize) {
        self.clients.seen.begin_phase();
        sleep(OUTAGE).await;
        self.clients.seen.in_phase()
    }

    /// Checks that all accepted webhooks are delivered and nothing is left.
    async fn close(self) {
        let accepted = self.clients.stop().await;
        let api = ApiClient::new(&self.stack.url(), None).unwrap();
        let ledger = ledger::settle(&api, &accepted, BOUND).await;
        assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
        let received: std::collections::HashSet<String> = self
            .receiver
            .received()
            .iter()
            .filter_map(|request| Some(request.webhook_id()?.to_owned()))
            .collect();
        assert!(
            accepted.iter().all(|id| received.contains(id)),
            "each delivered webhook reached the receiver"
        );
        // A refused webhook may have been created when the server resumed. It is delivered too, by
        // the audit at the latest.
        wait_until_idle(&api, 2 * BOUND).await;
        self.parts.close(&api, self.stack).await;
    }
}

/// A server with store and queue hangs, or dies and restarts from its disk. Requests are refused
/// and delayed.
#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_the_server_hangs_or_dies() {
    let mut server = RedisServer::durable().unwrap();
    let load = Load::on(Parts::on_one(&server)).await;
    server.pause().unwrap();
    let (accepted, refused) = load.wait_for_outage().await;
    assert!(
        accepted == 0 && refused > 0,
        "during the hang, {accepted} were accepted and {refused} refused"
    );
    server.resume().unwrap();
    load.wait_for_accepted("after it hung").await;
    server.crash();
    let (accepted, refused) = load.wait_for_outage().await;
    assert!(
        accepted == 0 && refused > 0,
        "while the server was down, {accepted} were accepted and {refused} refused"
    );
    server.restart().unwrap();
    load.wait_for_accepted("after it died").await;
    load.close().await;
}

/// If only the queue's server fails, no request is refused. Accepted webhooks wait in the due
/// index.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_refused_when_only_the_queue_server_hangs_or_dies() {
    let (status, mut queue) = (RedisServer::durable().unwrap(), RedisServer::durable().unwrap());
    let load = Load::on(Parts::on(Some(&status.url(0)), Some(&queue.url(0)))).await;
    queue.pause().unwrap();
    let (accepted, refused) = load.wait_for_outage().await;
    assert!(
        accepted > 0 && refused == 0,
        "during the hang, {accepted} were accepted and {refused} refused"
    );
    queue.resume().unwrap();
    load.wait_for_accepted("after it hung").await;
    queue.crash();
    let (accepted, refused) = load.wait_for_outage().await;
    assert!(
        accepted > 0 && refused == 0,
        "while the server was down, {accepted} were accepted and {refused} refused"
    );
    queue.restart().unwrap();
    load.wait_for_accepted("after it died").await;
    assert_eq!(load.clients.seen.in_all().1, 0, "no request was refused");
    load.close().await;
}

/// If a cluster loses a node, webhooks of the other nodes are accepted. After the node is back, all
/// are, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_a_cluster_node_hangs_or_dies() {
    let mut cluster = RedisCluster::durable().unwrap();
    let load = Load::on(Parts::on(Some(&cluster.url()), Some(&cluster.url()))).await;
    cluster.nodes()[1].pause().unwrap();
    let (_, refused) = load.wait_for_outage().await;
    assert!(refused > 0, "the node's webhooks are refused during the hang");
    cluster.nodes()[1].resume().unwrap();
    cluster.wait_until_agreed().unwrap();
    load.wait_for_accepted("after it hung").await;
    cluster.nodes_mut()[2].crash();
    let (_, refused) = load.wait_for_outage().await;
    assert!(refused > 0, "the node's webhooks are refused while it is down");
    cluster.nodes_mut()[2].restart().unwrap();
    cluster.wait_until_agreed().unwrap();
    load.wait_for_accepted("after it died").await;
    load.close().await;
}
