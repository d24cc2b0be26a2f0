//! A thousand seeds of the simulation. `tests/simulation` runs more of them and plants bugs.

use simulation::search::run_seeds;

/// A few seconds on two cores.
const SEEDS: u64 = 1000;

#[test]
fn nothing_is_lost_in_a_thousand_worlds() {
    let failure = run_seeds(0, SEEDS, None, None).failure.map(|(seed, violation)| {
        format!("cargo run -p simulation --bin simulate -- --seed {seed} shows it: {violation}")
    });
    assert_eq!(failure, None);
}
