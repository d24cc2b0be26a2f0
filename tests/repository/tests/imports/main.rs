//! No module of a workspace crate takes part in an import cycle.
//!
//! # Rule
//!
//! The nodes are the modules of one target. Module A imports module B if code of A names something
//! of B, in a `use` declaration or in a path: `crate::b::Item`, `super::b::Item`, `child::Item`.
//! The modules must not import each other in a cycle.
//!
//! - A path leads to the module that defines the item. If a module re-exports an item by `pub use`,
//!   the path leads through the re-export. The re-export itself is not an import.
//! - A submodule may use what its ancestors define, so an import of an ancestor does not count. A
//!   type that several submodules share can stand in their parent.
//! - Code under `#[cfg(test)]` does not count.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod cycles;
mod modules;
mod paths;

use std::path::{Path, PathBuf};

use harness::binaries::cargo_metadata;

use self::{cycles::cycle, modules::Crate};

#[test]
fn no_modules_import_each_other_in_a_cycle() {
    let targets = targets();
    assert!(targets.len() > 20, "targets of the workspace: {targets:?}");
    let mut found = Vec::new();
    for (name, root) in targets {
        let modules = Crate::read(&root).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(cycle) = cycle(&modules.imports()) {
            found.push(format!("{name}: {}", cycle.join(" -> ")));
        }
    }
    assert!(found.is_empty(), "import cycles:\n{}", found.join("\n"));
}

/// The name and the root file of each target of the workspace.
fn targets() -> Vec<(String, PathBuf)> {
    let metadata = cargo_metadata().unwrap();
    let mut targets = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            let name = format!(
                "{} ({} {})",
                package["name"].as_str().unwrap(),
                target["kind"][0].as_str().unwrap(),
                target["name"].as_str().unwrap()
            );
            targets.push((name, target["src_path"].as_str().unwrap().into()));
        }
    }
    targets
}

/// Writes the files of a crate, and finds its cycle.
fn cycle_of(files: &[(&str, &str)]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new(""))).unwrap();
        std::fs::write(file, text).unwrap();
    }
    cycle(&Crate::read(&folder.path().join("lib.rs")).unwrap().imports())
}

#[test]
fn a_cycle_of_use_declarations_is_found() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::{b::B, c};"),
        ("b.rs", "pub struct B; use super::c::C;"),
        ("c.rs", "pub struct C; fn c() { crate::a::run() }"),
    ];
    assert_eq!(cycle_of(&files), Some(vec!["a".into(), "c".into(), "a".into()]));
    assert_eq!(cycle_of(&[files[0], files[1], files[2], ("c.rs", "pub struct C;")]), None);
}

#[test]
fn a_path_within_a_macro_counts() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "fn a() { println!(\"{}\", crate::b::text()); }"),
        ("b.rs", "use crate::a;"),
    ];
    assert_eq!(cycle_of(&files), Some(vec!["a".into(), "b".into(), "a".into()]));
}

#[test]
fn a_submodule_may_use_its_parent_and_its_parent_it() {
    let files = [
        ("lib.rs", "mod a;"),
        ("a.rs", "mod x; mod y; pub struct A; fn a() { x::run(); y::run() }"),
        ("a/x.rs", "use super::A; pub fn run() {}"),
        ("a/y.rs", "use crate::a::A; pub fn run() {}"),
    ];
    assert_eq!(cycle_of(&files), None);
    let siblings = [
        files[0],
        files[1],
        ("a/x.rs", "use super::y; pub fn run() {}"),
        ("a/y.rs", "use super::x::run; pub fn run() {}"),
    ];
    assert_eq!(cycle_of(&siblings), Some(vec!["a::x".into(), "a::y".into(), "a::x".into()]));
}

#[test]
fn a_reexport_leads_to_the_module_that_defines_the_item() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod x; mod y; pub use self::{x::X, y::Y};"),
        ("a/x.rs", "pub struct X;"),
        ("a/y.rs", "use crate::b::B; pub struct Y;"),
        ("b.rs", "use crate::a::X; pub struct B;"),
    ];
    assert_eq!(cycle_of(&files), None);
    let mutual = [files[0], files[1], files[2], files[3], ("b.rs", "use crate::a::Y; struct B;")];
    assert_eq!(cycle_of(&mutual), Some(vec!["a::y".into(), "b".into(), "a::y".into()]));
}

#[test]
fn tests_comments_and_strings_do_not_count() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b;"),
        (
            "b.rs",
            "// crate::a::x\nconst TEXT: &str = \"crate::a::x\";
             #[cfg(test)] use crate::a; #[cfg(test)] mod tests { use crate::a::x; }",
        ),
    ];
    assert_eq!(cycle_of(&files), None);
}
