//! What a sweep on Redis costs with 1,000 due webhooks among 10,000 open ones, and among 1,000,000:
//! commands, bytes, and time. It prints figures; the test of the same name asserts on smaller ones.
//! It takes some minutes and 3 GiB of memory.
//!
//! `cargo run --release -p redis-backend --example redis_sweep -- [OPEN] [OPEN] [DUE]`

#[path = "../tests/redis_sweep/measure.rs"]
mod measure;

use measure::Failure;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let argument = |index: usize, default| arguments.get(index).copied().unwrap_or(default);
    let due = argument(2, 1_000);
    let mut commands = Vec::new();
    for open in [argument(0, 10_000), argument(1, 1_000_000)] {
        let swept = measure::sweep(open.saturating_sub(due), due).await?;
        let total: u64 = swept.commands.values().sum();
        shared::say!(
            "{open} open, at least {} waiting in each shard, {due} due: {} queued by {total} \
             commands in {:.2?}, {} bytes answered",
            swept.fewest_waiting,
            swept.requeued,
            swept.took,
            swept.answered_bytes
        );
        commands.push(swept.commands);
    }
    shared::say!(
        "{}",
        if commands[0] == commands[1] { "the same commands" } else { "NOT the same commands" }
    );
    for (name, count) in &commands[1] {
        shared::say!("  {name} {count}");
    }
    Ok(())
}
