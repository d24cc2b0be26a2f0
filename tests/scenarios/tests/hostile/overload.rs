//! Overload: `load --overload` in a short form. It asks for ten times what the stack carries; how
//! much of that comes through is up to the machine that client and stack share, and is told with
//! the result. `OVERLOAD_SECONDS=60` makes it a long one.

use clap::Parser;
use harness::binaries::binary;
use tools::load::{plan::Plan, run::run};

/// How long in the ordinary run.
const SECONDS: &str = "5";

/// What the stack's peak memory may grow by under ten times its load: its 256 requests at a time
/// with their bodies and answers, 400 connections with their buffers, and the allocator's slack. It
/// is the same whether the overload lasts for seconds or for minutes.
const GROWTH_BOUND_MIB: f64 = 64.0;

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_what_it_can_carry_is_shed_and_what_was_accepted_arrives() {
    let _turn = crate::turn().await;
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
        "it served on, and shed: {overload:?}"
    );
    assert!(
        overload.offered_per_second > 2.0 * overload.carries_per_second,
        "it was overloaded: {overload:?}"
    );
    assert!(overload.growth_mib() < GROWTH_BOUND_MIB, "{overload:?}");
}
