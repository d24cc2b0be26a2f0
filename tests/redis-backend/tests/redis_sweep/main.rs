//! The sweep on Redis costs what is due, whatever else is open.

#![allow(clippy::unwrap_used, reason = "these are tests: their panics are verdicts")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

mod measure;

/// A sweep reads this many entries at a time from a shard's due index.
const PAGE: u64 = 100;

/// The server is asked the same commands, and answers as much, however many webhooks are open that
/// are not due. Proved by the server's own count over one sweep of the same due webhooks among few
/// and among many others, where the few fill a page of each shard. `cargo run --release -p
/// redis-backend --example redis_sweep` does the same with 10,000 and 1,000,000.
#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_costs_what_is_due_and_not_what_is_open() {
    let few = measure::sweep(2000, 100).await.unwrap();
    let many = measure::sweep(6000, 100).await.unwrap();
    println!("100 due among 2,100 open: {:.2?}; among 6,100: {:.2?}", few.took, many.took);
    assert!(few.fewest_waiting >= PAGE, "{} wait in a shard", few.fewest_waiting);
    assert_eq!((few.requeued, many.requeued), (100, 100));
    assert_eq!(few.commands, many.commands);
    let total: u64 = few.commands.values().sum();
    assert!(total > 800, "they were counted: {total}");
    let (least, most) =
        (few.answered_bytes.min(many.answered_bytes), few.answered_bytes.max(many.answered_bytes));
    assert!(
        most - least < least / 100,
        "{} and {} bytes were answered",
        few.answered_bytes,
        many.answered_bytes
    );
}
