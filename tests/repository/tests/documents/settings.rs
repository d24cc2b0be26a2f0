//! `docs/settings.md`, held against the code: the settings that the code reads, their defaults and
//! their ranges.
//!
//! The list of settings is recorded from the code, by answering what it asks for. Defaults and
//! ranges come from the errors and the settings that the code makes. Nothing is listed here a
//! second time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use harness::binaries::workspace;
use regex::Regex;
use shared::{
    aws::secrets,
    config::{Config, Defaults},
};

const PAGE: &str = "docs/settings.md";

/// The columns of a settings table. Tables with other headings are about something else.
const COLUMNS: &str = "| setting | default | limits | meaning |";

/// Environments that lead the code down each path on which it reads further settings.
const ENVIRONMENTS: [&[(&str, &str)]; 4] = [
    &[],
    &[("STATUS_BACKEND", "dynamodb"), ("QUEUE_BACKEND", "sqs")],
    &[("STATUS_BACKEND", "redis"), ("QUEUE_BACKEND", "redis")],
    &[("API_AUTH", "local")],
];

/// A row of the page.
#[derive(Debug)]
struct Row {
    /// The default of the local stack, then that of a Lambda function. Empty: there is none.
    defaults: Vec<String>,
    limits: String,
}

#[tokio::test]
async fn the_page_lists_the_settings_that_the_code_reads_and_no_others() {
    let documented: BTreeSet<String> = rows().into_keys().collect();
    let mut read = read_by_config();
    read.extend(read_for_secrets().await);
    read.extend(read_directly());
    let missing: Vec<_> = read.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&read).collect();
    assert!(missing.is_empty(), "the code reads these, but {PAGE} lacks them: {missing:?}");
    assert!(unknown.is_empty(), "{PAGE} has these, but nothing reads them: {unknown:?}");
    assert!(read.len() > 60, "only {} settings were found", read.len());
}

/// A setting that is set to its documented default changes nothing.
#[test]
fn every_documented_default_is_the_default() {
    let rows = rows();
    let mut checked = 0;
    for (name, row) in &rows {
        for (defaults, index) in [(Defaults::LOCAL, 0), (Defaults::LAMBDA, 1)] {
            let Some(mut value) = row.defaults.get(index).or(row.defaults.last()) else { continue };
            // The default is another setting's value.
            if let Some(other) = rows.get(value) {
                value = other.defaults.first().unwrap();
            }
            let set = with(defaults, &[(name, value)]);
            let set = set.unwrap_or_else(|error| panic!("{name}={value}: {error}"));
            let unset = with(defaults, &[]).unwrap();
            assert!(
                format!("{set:?}") == format!("{unset:?}"),
                "the default of {name} is not {value}"
            );
            checked += 1;
        }
    }
    assert!(checked > 60, "only {checked} defaults were checked");
}

/// The range of a number, and its default, are those that the error about a bad value names. What
/// is on or off, or one of a few words, has a default.
#[test]
fn every_range_is_the_one_that_the_code_enforces() {
    let range = Regex::new(r"must be a (?:whole )?number from (\S+) to (\S+)$").unwrap();
    let (rows, mut checked) = (rows(), 0);
    for (name, row) in &rows {
        let Err(errors) = with(Defaults::LOCAL, &[(name, "no such value")]) else { continue };
        let Some(error) = errors.0.iter().find(|error| error.variable == **name) else { continue };
        if let Some(found) = range.captures(&error.fault) {
            let (least, most) = (&found[1], &found[2]);
            assert_eq!(row.limits, format!("{least} to {most}"), "the limits of {name}");
            assert_eq!(row.defaults.first(), Some(&error.example), "the default of {name}");
            checked += 1;
        } else if let Some((_, words)) = error.fault.split_once("must be ") {
            let choices: Vec<&str> = words.split([' ', ',']).filter(|word| *word != "or").collect();
            let choices: BTreeSet<&str> = choices.into_iter().filter(|w| !w.is_empty()).collect();
            let documented: BTreeSet<&str> =
                row.limits.split([' ', ',', '`']).filter(|word| !word.is_empty()).collect();
            if choices.len() <= 3 {
                assert_eq!(documented, choices, "the limits of {name}");
                assert!(!row.defaults.is_empty(), "{name} has no default");
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "only {checked} ranges were checked");
}

/// The rows of the page's tables, by setting.
fn rows() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(workspace().join(PAGE)).unwrap();
    let quoted = Regex::new("`([^`]+)`").unwrap();
    let mut rows = BTreeMap::new();
    let mut lines = text.lines();
    while lines.any(|line| line == COLUMNS) {
        for line in lines.by_ref().skip(1).take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, default, limits, meaning] = cells[..] else { panic!("four cells: {line}") };
            assert!(!meaning.is_empty(), "{name} has no meaning");
            let defaults = quoted.captures_iter(default).map(|found| found[1].to_owned());
            let row = Row { defaults: defaults.collect(), limits: limits.to_owned() };
            assert_eq!(row.defaults.is_empty(), default == "none", "the default of {name}");
            let earlier = rows.insert(name.trim_matches('`').to_owned(), row);
            assert!(earlier.is_none(), "{name} is there twice");
        }
    }
    rows
}

/// The settings of an environment in which nothing but these are set.
fn with(defaults: Defaults, set: &[(&str, &str)]) -> Result<Config, shared::config::ConfigErrors> {
    Config::from_source(defaults, |name| {
        set.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    })
}

/// What [`Config::from_source`] asks for.
fn read_by_config() -> BTreeSet<String> {
    let asked = RefCell::new(BTreeSet::new());
    for set in ENVIRONMENTS {
        // Whether these settings are complete does not matter here.
        let _ = Config::from_source(Defaults::LOCAL, |name| {
            asked.borrow_mut().insert(name.to_owned());
            set.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        });
    }
    asked.into_inner()
}

/// What reading a secret by reference asks for. It fails before it opens a connection.
async fn read_for_secrets() -> BTreeSet<String> {
    let asked = RefCell::new(BTreeSet::new());
    for reference in ["ssm:/posthaste/keys", "secretsmanager:posthaste"] {
        let resolved = secrets::resolve(|name| {
            asked.borrow_mut().insert(name.to_owned());
            match name {
                "API_KEYS" => Some(reference.to_owned()),
                _ if name.starts_with("AWS_ENDPOINT_URL") => Some("no endpoint".to_owned()),
                _ if name.starts_with("AWS_") => Some("some value".to_owned()),
                _ => None,
            }
        });
        assert!(resolved.await.is_err(), "{reference} cannot be read here");
    }
    asked.into_inner()
}

/// What is read from the environment by its name, past [`Config`].
fn read_directly() -> BTreeSet<String> {
    let call = Regex::new(r#"env::var(?:_os)?\(\s*"([A-Z_]+)""#).unwrap();
    let mut names = BTreeSet::new();
    for folder in ["shared/src", "functions", "infra/local/src"] {
        for_each_source(&workspace().join(folder), &mut |text| {
            names.extend(call.captures_iter(text).map(|found| found[1].to_owned()));
        });
    }
    names
}

/// Calls with the text of each Rust file below that is part of the programs.
fn for_each_source(folder: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            for_each_source(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&fs::read_to_string(path).unwrap());
        }
    }
}
