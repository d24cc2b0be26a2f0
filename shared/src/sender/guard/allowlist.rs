//! Finds the most common mistake in a `WEBHOOK_ALLOWLIST`: the pattern does not mark the end of the
//! host, so that `^https://hooks\.example\.com` also matches
//! `https://hooks.example.com.evil.example/`.
//!
//! It generates short texts that match the expression. It extends each text that ends within the
//! host to a different host, and tests whether the expression matches that, too.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::matches_from_start;

/// The maximum number of generated texts.
const MAX_TEXTS: usize = 64;

/// The maximum length of a generated text.
const MAX_TEXT_BYTES: usize = 512;

/// The extensions of the host.
const CONTINUATIONS: [&str; 2] = [".evil.example/", "evil.example/"];

/// URLs that no allowlist is meant to match.
const UNRELATED: [&str; 2] = ["https://evil.example/", "http://evil.example/"];

/// A URL with a different host that the expression accepts by mistake.
pub(super) fn gap(allowlist: &Regex) -> Option<String> {
    if UNRELATED.iter().any(|url| matches_from_start(allowlist, url)) {
        // The expression accepts every host, which is not this mistake.
        return None;
    }
    let parsed = regex_syntax::parse(allowlist.as_str()).ok()?;
    let ends_in_host = |text: &String| {
        text.split_once("://")
            .is_some_and(|(_, rest)| !rest.is_empty() && !rest.contains(['/', '?', '#', ':']))
    };
    let continued = texts(&parsed)
        .into_iter()
        .filter(ends_in_host)
        .flat_map(|text| CONTINUATIONS.map(|end| text.clone() + end));
    continued.filter(|url| !url.contains("..")).find(|url| matches_from_start(allowlist, url))
}

/// Short texts that match the expression, ignoring assertions (`^`, `$`, `\b`).
fn texts(hir: &Hir) -> Vec<String> {
    let mut made = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![String::new()],
        HirKind::Literal(literal) => vec![String::from_utf8_lossy(&literal.0).into_owned()],
        HirKind::Class(class) => example(class).map(String::from).into_iter().collect(),
        HirKind::Repetition(repeated) => {
            let least = repeated.min as usize;
            let most = if repeated.max == Some(0) { 0 } else { least.max(1) };
            // A repeated dot usually stands for a part of a name, and a single one for a dot.
            let part = |text: String| if text == "." { "a".to_owned() } else { text };
            let once: Vec<String> = texts(&repeated.sub).into_iter().map(part).collect();
            let times = |count: usize| {
                let short = once
                    .iter()
                    .filter(move |text| text.len().saturating_mul(count) <= MAX_TEXT_BYTES);
                short.map(move |text| text.repeat(count))
            };
            if least == most {
                times(least).collect()
            } else {
                times(most).chain([String::new()]).collect()
            }
        }
        HirKind::Capture(group) => texts(&group.sub),
        HirKind::Concat(parts) => parts.iter().fold(vec![String::new()], |made, part| {
            let next = texts(part);
            let joined =
                made.iter().flat_map(|text| next.iter().map(move |end| text.clone() + end));
            joined.take(MAX_TEXTS).collect()
        }),
        HirKind::Alternation(branches) => branches.iter().flat_map(texts).collect(),
    };
    made.truncate(MAX_TEXTS);
    made.retain(|text| text.len() <= MAX_TEXT_BYTES);
    made
}

/// A character of the class: a dot if it holds nearly all, else a letter if there is one, and
/// nothing that ends a host unless there is nothing else.
fn example(class: &Class) -> Option<char> {
    let contains = |wanted: char| match class {
        Class::Unicode(class) => {
            class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&wanted))
        }
        Class::Bytes(class) => u8::try_from(wanted).is_ok_and(|byte| {
            class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&byte))
        }),
    };
    if ['.', 'a', '%'].into_iter().all(contains) {
        return Some('.');
    }
    ('a'..='z')
        .chain('0'..='9')
        .chain(['-', '.', '_', '/', ':', '?', '#'])
        .find(|wanted| contains(*wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap_of(pattern: &str) -> Option<String> {
        gap(&Regex::new(pattern).unwrap())
    }

    /// Each pattern that does not mark the host's end, and a URL that it should not have matched.
    #[test]
    fn an_open_end_of_the_host_is_found() {
        for (pattern, url) in [
            (r"^https://hooks\.example\.com", "https://hooks.example.com.evil.example/"),
            (r"https://hooks.example.com", "https://hooks.example.com.evil.example/"),
            (r"^https://.*\.example\.com", "https://a.example.com.evil.example/"),
            (r"^https://[a-z-]+\.example\.com.*$", "https://a.example.coma.evil.example/"),
            (r"^https?://(a|b)\.example\.(com|org)", "https://a.example.com.evil.example/"),
            (r"^https://a\.example\.com(/.*)?", "https://a.example.com.evil.example/"),
            (
                r"^(https://a\.example\.com/|https://b\.example\.com)",
                "https://b.example.com.evil.example/",
            ),
            (r"^https://hooks\.", "https://hooks.evil.example/"),
            (r"(?i)^HTTPS://Hooks\.Example\.com", "https://hooks.example.com.evil.example/"),
        ] {
            let found = gap_of(pattern).unwrap_or_else(|| panic!("{pattern}"));
            assert!(found.eq_ignore_ascii_case(url), "{pattern}: {found}");
        }
    }

    #[test]
    fn a_closed_host_and_a_pattern_for_every_host_are_no_mistake() {
        for pattern in [
            r"^https://.*\.example\.com/.*$",
            r"^https://hooks\.example\.com/",
            r"^https://hooks\.example\.com(:\d+)?/",
            r"^https://(a|b)\.example\.com(/|$)",
            r"^https://[^/]+/services/.*$",
            r"^https://",
            r"^https?://.*$",
            r".*",
            "",
            r"^https://[a-z]{3}\.example\.com/(a|b|c)*$",
        ] {
            assert_eq!(gap_of(pattern), None, "{pattern}");
        }
    }

    /// However an expression is nested, few texts are made of it, and short ones.
    #[test]
    fn the_work_is_bounded() {
        let nested = format!("^https://{}", "(a|b|c|d|e|f|g|h)?".repeat(200));
        let parsed = regex_syntax::parse(&nested).unwrap();
        assert!(texts(&parsed).len() <= MAX_TEXTS);
        assert_eq!(texts(&regex_syntax::parse("((a{100}){100})").unwrap()), Vec::<String>::new());
    }
}
