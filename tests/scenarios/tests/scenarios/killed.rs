//! `kill -9` of functions under load: nothing that was
//! answered with a 202 is lost, and what comes twice is at most what had an attempt without a
//! recorded answer. Nobody takes anything over: what a dead process held comes back when leases and
//! visibility timeouts are over.

use harness::crash::{kill_functions, times};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_functions_are_killed_on_sqlite() {
    kill_functions("SQLite", times("600", "1000")).await;
}
