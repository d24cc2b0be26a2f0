//! `kill -9` of functions under load. No webhook with a 202 is lost, and only attempts without a
//! recorded outcome are repeated. The webhooks of a dead process resume when their leases and
//! visibility timeouts end.

use harness::crash::{kill_functions, times};

#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_functions_are_killed_on_sqlite() {
    kill_functions("SQLite", times("600", "1000")).await;
}
