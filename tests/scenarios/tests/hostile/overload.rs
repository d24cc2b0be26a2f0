//! Overload: a short `load --overload`, which tries to send ten times the stack's capacity. How
//! much the client reaches depends on the processors that it shares with the stack, and no check
//! depends on it: a request that is shed shows that the stack was overloaded. `OVERLOAD_SECONDS=60`
//! runs it for longer.

use clap::Parser;
use harness::binaries::binary;
use tools::load::{plan::Plan, run::run};

/// The default duration.
const SECONDS: &str = "3";

/// The maximum growth of the stack's peak memory: 256 concurrent requests with bodies and
/// responses, 400 connections with buffers, and the allocator's slack. It does not depend on the
/// duration.
const GROWTH_BOUND_MIB: f64 = 64.0;

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_shed_and_accepted_webhooks_arrive() {
    let _turn = crate::turn_alone().await;
    let seconds = std::env::var("OVERLOAD_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    let spawn = format!("--spawn={}", binary("local").unwrap().display());
    let folder = std::env::temp_dir();
    let folder = folder.to_str().unwrap();
    let plan = [
        "load",
        &spawn,
        "--overload",
        "--webhooks",
        "1000",
        "--seconds",
        &seconds,
        "--data-dir",
        folder,
    ];
    let results = run(&Plan::try_parse_from(plan).unwrap()).await.unwrap();
    print!("{results}");
    let overload = results.overload.as_ref().unwrap();
    assert!(results.is_clean(), "{overload:?}");
    assert!(
        overload.answered(202) > 0 && overload.shed() > 0,
        "it served requests and shed others: {overload:?}"
    );
    assert!(overload.growth_mib() < GROWTH_BOUND_MIB, "{overload:?}");
}
