//! The template as its users' tools see it.

use posthaste_tests::aws::run_script;

/// cfn-lint and `sam validate --lint` find nothing, and `sam build` makes a function from this checkout.
#[test]
fn the_template_is_clean_and_sam_builds_from_it() {
    let found = run_script("check").unwrap_or_else(|error| panic!("{error}"));
    println!("{found}");
}
