//! Redis goes away under load, for ten seconds: it hangs, or is killed and comes back with what it
//! has on disk. Nothing that was answered with a 202 is lost.

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

/// How long it is away: longer than any call waits, so that nobody sits it out.
const OUTAGE: Duration = Duration::from_secs(10);

/// A stack, a receiver that takes everything, and clients that post through everything.
struct Load {
    parts: Parts,
    stack: Stack,
    receiver: Receiver,
    clients: Clients,
}

impl Load {
    /// What neither the queue nor the due index took, since both were away, is the audit's; here it
    /// comes soon.
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

    /// The outage, which has begun, takes its time; how many of the requests that began in it were
    /// accepted, and how many refused.
    async fn sit_out(&self) -> (usize, usize) {
        self.clients.seen.begin_phase();
        sleep(OUTAGE).await;
        self.clients.seen.in_phase()
    }

    /// Everything that was accepted is delivered, and nothing is left.
    async fn close(self) {
        let accepted = self.clients.stop().await;
        let api = ApiClient::new(&self.stack.url(), None).unwrap();
        let ledger = ledger::settle(&api, &accepted, BOUND).await;
        assert_eq!(ledger.statuses, [("delivered".to_owned(), accepted.len())].into());
        let came: std::collections::HashSet<String> = self
            .receiver
            .received()
            .iter()
            .filter_map(|request| Some(request.webhook_id()?.to_owned()))
            .collect();
        assert!(accepted.iter().all(|id| came.contains(id)), "what is delivered has come");
        // What was refused may have been created all the same, once the server went on: it is
        // delivered too, at last by the audit.
        wait_until_idle(&api, 2 * BOUND).await;
        self.parts.close(&api, self.stack).await;
    }
}

/// A server that has both and hangs, or dies and comes back with what it has on disk, costs
/// refusals and delays.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_hangs_or_dies() {
    let mut server = RedisServer::durable().unwrap();
    let load = Load::on(Parts::on_one(&server)).await;
    server.pause().unwrap();
    let (accepted, refused) = load.sit_out().await;
    assert!(
        accepted == 0 && refused > 0,
        "while it hung, {accepted} were accepted and {refused} refused"
    );
    server.resume().unwrap();
    load.wait_for_accepted("after it hung").await;
    server.crash();
    let (accepted, refused) = load.sit_out().await;
    assert!(
        accepted == 0 && refused > 0,
        "while it was dead, {accepted} were accepted and {refused} refused"
    );
    server.restart().unwrap();
    load.wait_for_accepted("after it died").await;
    load.close().await;
}

/// Where only the queue's server is away, nothing is refused: what is accepted waits in the due
/// index.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_when_only_the_queue_s_server_hangs_or_dies() {
    let (status, mut queue) = (RedisServer::durable().unwrap(), RedisServer::durable().unwrap());
    let load = Load::on(Parts::on(Some(&status.url(0)), Some(&queue.url(0)))).await;
    queue.pause().unwrap();
    let (accepted, refused) = load.sit_out().await;
    assert!(
        accepted > 0 && refused == 0,
        "while it hung, {accepted} were accepted and {refused} refused"
    );
    queue.resume().unwrap();
    load.wait_for_accepted("after it hung").await;
    queue.crash();
    let (accepted, refused) = load.sit_out().await;
    assert!(
        accepted > 0 && refused == 0,
        "while it was dead, {accepted} were accepted and {refused} refused"
    );
    queue.restart().unwrap();
    load.wait_for_accepted("after it died").await;
    assert_eq!(load.clients.seen.in_all().1, 0, "nothing was refused");
    load.close().await;
}

/// A cluster that loses a node takes what the others keep, once it has one again everything, and
/// loses nothing.
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
