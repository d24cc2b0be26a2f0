//! The check that no log contains a secret: neither the secrets of a stack's settings, nor the
//! private parts of requests.
//!
//! [`Launch::set`](crate::stack::Launch::set) and
//! [`ApiClient::call`](crate::client::ApiClient::call) collect the secrets. So every test that
//! starts a stack and calls it also checks its logs: dropping the [`Launch`](crate::stack::Launch)
//! searches them, and fails the test if one contains a secret.

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use url::Url;

/// The minimum length of a secret. Shorter ones could be words that a log may contain.
const MIN_SECRET_BYTES: usize = 8;

/// The minimum length of a private part of a request. It must also contain a digit, because the
/// payloads of tests are full of words.
const MIN_SENT_BYTES: usize = 12;

/// The maximum number of private parts that are kept, which limits the memory of long runs.
const MAX_SENT: usize = 4000;

/// The private parts of all requests of this process, to all stacks.
static SENT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A secret in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The file name of the log.
    pub log: String,
    /// The secret.
    pub secret: String,
    /// The line that contains it.
    pub line: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} contains '{}': {}", self.log, self.secret, self.line)
    }
}

/// Collects the private parts of a request body: payloads, header values, and the private parts of
/// URLs.
pub fn note_body(body: &str) {
    let Ok(body) = serde_json::from_str::<Value>(body) else { return };
    let webhooks = match body.get("webhooks").and_then(Value::as_array) {
        Some(batch) => batch.as_slice(),
        None => std::slice::from_ref(&body),
    };
    for webhook in webhooks {
        // The body of a test webhook is its payload.
        texts(webhook.get("payload").unwrap_or(webhook), &mut note);
        if webhook.get("payload").is_some() {
            texts(webhook.get("headers").unwrap_or(&Value::Null), &mut note);
            note_url(webhook.get("url").and_then(Value::as_str).unwrap_or_default());
        }
    }
}

/// Collects the private parts of a URL: user name, password and query.
pub fn note_url(url: &str) {
    let Ok(url) = Url::parse(url) else { return };
    for private in [Some(url.username()), url.password(), url.query()].into_iter().flatten() {
        note(private);
    }
}

/// Collects a private text, unless a log may contain it anyway, as it may contain times.
pub fn note(text: &str) {
    let is_distinctive =
        text.len() >= MIN_SENT_BYTES && text.contains(|c: char| c.is_ascii_digit());
    if !is_distinctive || text.parse::<jiff::Timestamp>().is_ok() {
        return;
    }
    let mut sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
    if sent.len() < MAX_SENT {
        sent.insert(text.to_owned());
    }
}

fn texts(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, see)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, see)),
        _ => {}
    }
}

/// The secrets that these environment variables hold.
pub fn secrets_of(settings: &[(String, String)]) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    for (variable, value) in settings {
        match variable.as_str() {
            "API_KEYS" => secrets.extend(
                value.split(',').map(|key| key.trim().trim_start_matches("sha256:").to_owned()),
            ),
            "WEBHOOK_HMAC_SECRET" => {
                let parts = value.split([',', ' ']);
                secrets.extend(parts.map(|secret| secret.trim_start_matches("whsec_").to_owned()));
            }
            "MASTER_KEY" => secrets.extend(value.split([',', ' ']).map(str::to_owned)),
            "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN" => drop(secrets.insert(value.clone())),
            "STATUS_REDIS_URL" | "QUEUE_REDIS_URL" | "WEBHOOK_PROXY_URL" => {
                // The password ends at the last `@`. A cluster's URL has several hosts after it.
                let userinfo = value
                    .split_once("://")
                    .and_then(|(_, rest)| rest.rsplit_once('@'))
                    .map(|(userinfo, _)| userinfo);
                secrets.extend(
                    userinfo
                        .and_then(|userinfo| userinfo.split_once(':'))
                        .map(|(_, password)| password.to_owned()),
                );
            }
            _ => {}
        }
    }
    secrets.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
    secrets
}

/// Searches the logs in this folder for the secrets of these settings and for the private parts of
/// all requests.
pub fn leaks(folder: &Path, settings: &[(String, String)]) -> Vec<Leak> {
    let mut secrets = secrets_of(settings);
    secrets.extend(SENT.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
    {
        if file.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        let log =
            file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.extend(secrets.iter().filter(|secret| text.contains(secret.as_str())).map(
            |secret| {
                Leak {
                    log: log.clone(),
                    secret: secret.clone(),
                    line: text
                        .lines()
                        .find(|line| line.contains(secret.as_str()))
                        .unwrap_or_default()
                        .to_owned(),
                }
            },
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(settings: &[(&str, &str)]) -> Vec<(String, String)> {
        settings
            .iter()
            .map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_secrets_of_settings_are_found() {
        let found = secrets_of(&settings(&[
            ("API_KEYS", "correct-horse, sha256:0123456789"),
            ("WEBHOOK_HMAC_SECRET", "whsec_c2VjcmV0LW9uZQ== my-old-secret!"),
            ("MASTER_KEY", "bWFzdGVyLW9uZQ== bWFzdGVyLXR3bw==,c2hvcnQ"),
            ("STATUS_REDIS_URL", "redis+cluster://user:p@ssw0rd-1@a:7000,b:7001"),
            ("QUEUE_REDIS_URL", "redis://127.0.0.1:6379/1"),
            ("DATA_DIR", "/some/where/else"),
        ]));
        let expected = [
            "0123456789",
            "bWFzdGVyLW9uZQ==",
            "bWFzdGVyLXR3bw==",
            "c2VjcmV0LW9uZQ==",
            "correct-horse",
            "my-old-secret!",
            "p@ssw0rd-1",
        ];
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn private_parts_of_requests_are_found_in_logs_and_not_in_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let body = r#"{"webhooks":[{"url":"http://u:userinfo-mark-1@h/?token=query-mark-2",
            "payload":{"a":["payload-mark-3"]},"headers":{"x":"header-mark-4"}}]}"#;
        note_body(body);
        note_body(
            r#"{"any":"test-payload-mark-5","a word":"payload","at":"2026-01-31T12:00:00.123Z"}"#,
        );
        for mark in [
            "userinfo-mark-1",
            "token=query-mark-2",
            "payload-mark-3",
            "header-mark-4",
            "test-payload-mark-5",
        ] {
            std::fs::write(folder.path().join("local.log"), format!("first\nsecond {mark}\n"))
                .unwrap();
            let found = leaks(folder.path(), &[]);
            assert!(
                found
                    .iter()
                    .any(|leak| leak.secret == mark && leak.line == format!("second {mark}")),
                "{mark}: {found:?}"
            );
        }
        std::fs::write(folder.path().join("local.log"), "payload 2026-01-31T12:00:00.123Z\n")
            .unwrap();
        assert_eq!(leaks(folder.path(), &[]), []);
        std::fs::write(folder.path().join("local.log"), "payload-mark-3\n").unwrap();
        std::fs::rename(folder.path().join("local.log"), folder.path().join("data")).unwrap();
        assert_eq!(leaks(folder.path(), &[]), []);
    }
}
