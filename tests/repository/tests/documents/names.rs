//! Names in the documents: code, tests, and the packages and programs of commands exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use harness::binaries::workspace;
use regex::Regex;
use repository::page::{Page, documents};

/// The crates that a document may point into, and where their sources are.
const CRATES: [(&str, &str); 6] = [
    ("shared", "shared/src"),
    ("api", "functions/api/src"),
    ("deliver", "functions/deliver/src"),
    ("sweep", "functions/sweep/src"),
    ("dlq", "functions/dlq/src"),
    ("local", "infra/local/src"),
];

/// The folders that hold Rust of this project.
const SOURCES: [&str; 5] = ["shared", "functions", "infra", "tests", "docs/examples"];

/// A path such as `api::dispatch::send`: modules by their files, then an item of the last file.
#[test]
fn every_code_path_names_an_item() {
    let path = Regex::new(r"^[a-z]+(::[A-Za-z_]+)+$").unwrap();
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        for code in Page::read(&document).codes.iter().filter(|code| path.is_match(code)) {
            checked += 1;
            if let Err(why) = resolve(code) {
                wrong.push(format!("{}: {code}: {why}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 20, "only {checked} paths were found");
}

/// Files and directories that a document names in code, such as `shared/src/signing.rs`.
#[test]
fn every_file_that_is_named_exists() {
    let file = Regex::new(r"^(shared|functions|infra|tests|docs)/[A-Za-z0-9_./-]+$").unwrap();
    let (mut checked, mut missing) = (0, Vec::new());
    for document in documents() {
        for code in Page::read(&document).codes.iter().filter(|code| file.is_match(code)) {
            checked += 1;
            if !workspace().join(code).exists() {
                missing.push(format!("{}: {code}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
    assert!(checked > 20, "only {checked} files were found");
}

/// The documents, and their sections, that code and configuration refer to, such as
/// `docs/architecture.md#claims`.
#[test]
fn every_document_that_the_code_refers_to_exists() {
    let reference = Regex::new(r"\b((?:docs|infra)/[A-Za-z-]+\.md)(?:#([a-z0-9-]+))?").unwrap();
    let mut wrong = Vec::new();
    for folder in SOURCES {
        for extension in ["rs", "lua", "sql", "toml", "yaml"] {
            for file in files_in(&workspace().join(folder), extension) {
                let text = fs::read_to_string(&file).unwrap();
                for found in reference.captures_iter(&text) {
                    let document = workspace().join(&found[1]);
                    let exists = document.exists()
                        && found.get(2).is_none_or(|anchor| {
                            Page::read(&document).anchors.iter().any(|a| a == anchor.as_str())
                        });
                    if !exists {
                        wrong.push(format!("{}: {}", file.display(), &found[0]));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table of planted bugs is the one that the simulation's tests use. A bug that seed 4 finds is
/// found after 5 seeds.
#[test]
fn the_planted_bugs_are_those_of_the_simulation() {
    let read = |file: &str| fs::read_to_string(workspace().join(file)).unwrap();
    let entry = Regex::new(r"\(Bug::(\w+), ([0-9_]+)\)").unwrap();
    let tested: BTreeSet<(String, u64)> = entry
        .captures_iter(&read("tests/simulation/tests/simulation.rs"))
        .map(|found| (found[1].to_owned(), found[2].replace('_', "").parse::<u64>().unwrap() + 1))
        .collect();
    let page = read("CONTRIBUTING.md");
    let start = page.find("## The simulation").unwrap();
    let end = page.find("Some of them were real").unwrap();
    let listed = Regex::new(r"`([A-Z]\w+)`(?:\s+([0-9,]+))?").unwrap();
    let listed: BTreeSet<(String, u64)> = listed
        .captures_iter(&page[start..end])
        .map(|found| {
            let seeds = found.get(2).map_or("1", |seeds| seeds.as_str()).replace(',', "");
            (found[1].to_owned(), seeds.parse().unwrap())
        })
        .collect();
    let differences: Vec<_> = tested.symmetric_difference(&listed).collect();
    assert!(differences.is_empty(), "in only one of the two: {differences:?}");
    let count = format!("each of the {} bugs", tested.len());
    assert!(page.contains(&count), "CONTRIBUTING.md does not say '{count}'");
}

/// Follows the modules of a path, and looks for the rest in the file of the last one.
fn resolve(path: &str) -> Result<(), String> {
    let mut segments = path.split("::").peekable();
    let name = segments.next().unwrap();
    let (_, sources) =
        CRATES.iter().find(|(known, _)| *known == name).ok_or("no crate of this project")?;
    let mut folder = workspace().join(sources);
    let mut file = folder.join("lib.rs");
    while let Some(module) = segments.peek().map(|name| folder.join(format!("{name}.rs"))) {
        if !module.exists() {
            break;
        }
        folder = module.with_extension("");
        file = module;
        segments.next();
    }
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    for item in segments {
        let definition =
            Regex::new(&format!(r"\b(fn|struct|enum|trait|const|static|type) {item}\b")).unwrap();
        if !definition.is_match(&text) {
            return Err(format!("{} has no {item}", file.display()));
        }
    }
    Ok(())
}

/// The tests that `docs/guarantees.md` names are functions of this project.
#[test]
fn every_test_that_a_guarantee_names_exists() {
    let sources = SOURCES.map(|folder| rust_in(&workspace().join(folder))).concat();
    let name = Regex::new("^[a-z0-9]+(_[a-z0-9]+){2,}$").unwrap();
    let page = Page::read(&workspace().join("docs/guarantees.md"));
    let names: BTreeSet<&String> = page.codes.iter().filter(|code| name.is_match(code)).collect();
    let texts: Vec<String> = sources.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !texts.iter().any(|text| text.contains(&format!("fn {name}("))))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    assert!(names.len() > 20, "only {} tests were found", names.len());
}

/// What a command of a document names: packages, binaries, tests and examples of `cargo`, and parts
/// of `tests/run`.
#[test]
fn every_command_names_what_exists() {
    let option = Regex::new(r"(?:^| )(-p|--bin|--test|--example) ([a-z0-9_-]+)").unwrap();
    let files = SOURCES.map(|folder| rust_in(&workspace().join(folder))).concat();
    let packages = packages();
    let parts = fs::read_to_string(workspace().join("tests/run")).unwrap();
    let is_file = |of: &str, name: &str| {
        let (file, main) = (format!("{of}/{name}.rs"), format!("{of}/{name}/main.rs"));
        files.iter().any(|path| path.ends_with(&file) || path.ends_with(&main))
    };
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let blocks = Page::read(&document).blocks.into_iter().filter(|block| block.info == "sh");
        let commands: Vec<String> = blocks.map(|block| block.text.replace("\\\n", " ")).collect();
        let lines = commands.iter().flat_map(|text| text.lines());
        for line in lines.clone().filter(|line| line.starts_with("tests/run")) {
            let part = line.split_whitespace().skip_while(|word| *word != "--only").nth(1);
            if part.is_some_and(|part| !parts.contains(&format!("\"{part}|"))) {
                wrong.push(format!("{}: {line}", document.display()));
            }
        }
        for line in lines.filter(|line| line.contains("cargo ")) {
            for found in option.captures_iter(line) {
                checked += 1;
                let name = &found[2];
                let exists = match &found[1] {
                    "-p" => packages.contains(name),
                    "--bin" => packages.contains(name) || is_file("src/bin", name),
                    "--test" => is_file("tests", name),
                    _ => is_file("examples", name),
                };
                if !exists {
                    wrong.push(format!("{}: {line}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these name what does not exist:\n{}", wrong.join("\n"));
    assert!(checked > 20, "only {checked} names were found");
}

/// The names of the workspace's packages.
fn packages() -> BTreeSet<String> {
    let name = Regex::new("(?m)^name = \"(.+)\"$").unwrap();
    let mut names = BTreeSet::new();
    for folder in SOURCES {
        for manifest in files_in(&workspace().join(folder), "toml") {
            let text = fs::read_to_string(&manifest).unwrap();
            names.extend(name.captures(&text).map(|found| found[1].to_owned()));
        }
    }
    names
}

pub(crate) fn rust_in(folder: &Path) -> Vec<PathBuf> {
    files_in(folder, "rs")
}

fn files_in(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "target" | "node_modules") {
            found.extend(files_in(&path, extension));
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found
}
