//! The cost of a sweep on Redis depends on the due webhooks, not on all open ones.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

mod measure;

/// The entries that a sweep reads at a time from a shard's due index.
const PAGE: u64 = 100;

/// The server runs the same commands and sends as many bytes, however many other webhooks are open.
/// The test sweeps the same due webhooks among few and among many others and compares the server's
/// counters. The few fill a page of each shard. `cargo run --release -p redis-backend --example
/// redis_sweep` compares 10,000 and 1,000,000.
#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_a_sweep_depends_only_on_due_webhooks() {
    let few = measure::sweep(2000, 100).await.unwrap();
    let many = measure::sweep(6000, 100).await.unwrap();
    println!("100 due among 2,100 open: {:.2?}; among 6,100: {:.2?}", few.took, many.took);
    assert!(few.fewest_waiting >= PAGE, "{} wait in a shard", few.fewest_waiting);
    assert_eq!((few.requeued, many.requeued), (100, 100));
    assert_eq!(few.commands, many.commands);
    let total: u64 = few.commands.values().sum();
    assert!(total > 800, "too few commands were counted: {total}");
    let (least, most) =
        (few.answered_bytes.min(many.answered_bytes), few.answered_bytes.max(many.answered_bytes));
    assert!(
        most - least < least / 100,
        "{} and {} bytes were sent",
        few.answered_bytes,
        many.answered_bytes
    );
}
