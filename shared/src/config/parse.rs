//! Parses one variable at a time and collects the errors.

use std::{
    fmt::{Display, Write},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use globset::Glob;
use regex::Regex;

use super::{Access, Auth, Config, Excerpts, KeyHash, QueueBackend, StoreBackend};
use crate::{
    retry::{MAX_ATTEMPTS_LIMIT, MAX_DELAY_LIMIT},
    sealing::MasterKeys,
    signing::Secret,
    traffic::rate_limit::{InvalidRateLimits, RateLimits},
};

/// One bad value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {fault}; example: {example}")]
pub struct ConfigError {
    /// The variable's name.
    pub variable: String,
    /// The fault. It contains the value, unless that may be a secret.
    pub fault: String,
    /// A valid value.
    pub example: String,
}

impl ConfigError {
    pub(super) fn not_unicode(variable: &str) -> Self {
        let fault = "has a value that is not UTF-8".to_owned();
        Self { variable: variable.to_owned(), fault, example: "a value in UTF-8".to_owned() }
    }
}

/// All bad values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Lambda sets this variable on AWS. Local emulators of Lambda do not.
const SET_BY_LAMBDA: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";

/// Reads variables and remembers every error.
pub(super) struct Reader<'a> {
    source: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { source, errors: Vec::new() }
    }

    /// The settings, or the errors.
    pub(super) fn finish(self, config: Config) -> Result<Config, ConfigErrors> {
        if self.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(self.errors)) }
    }

    pub(super) fn fault(&mut self, variable: &str, fault: &str, example: &str) {
        let (variable, fault, example) =
            (variable.to_owned(), fault.to_owned(), example.to_owned());
        self.errors.push(ConfigError { variable, fault, example });
    }

    /// The value without surrounding white space. An empty value counts as not set, as a shell
    /// means it with `VAR= command`.
    fn value(&self, variable: &str) -> Option<String> {
        let value = (self.source)(variable)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    pub(super) fn is_set(&self, variable: &str) -> bool {
        self.value(variable).is_some()
    }

    pub(super) fn text(&self, variable: &str, default: &str) -> String {
        self.value(variable).unwrap_or_else(|| default.to_owned())
    }

    /// A value that may be a secret. No error may quote it.
    pub(super) fn secret_text(&self, variable: &str) -> Option<String> {
        self.value(variable)
    }

    pub(super) fn number<T>(&mut self, variable: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(value) = self.value(variable) else { return default };
        match value.parse::<T>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let fault = format!(
                    "is '{value}', but must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                );
                self.fault(variable, &fault, &default.to_string());
                default
            }
        }
    }

    pub(super) fn fraction(
        &mut self,
        variable: &str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let Some(value) = self.value(variable) else { return default };
        match value.parse::<f64>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let fault = format!(
                    "is '{value}', but must be a number from {} to {}",
                    range.start(),
                    range.end()
                );
                self.fault(variable, &fault, &default.to_string());
                default
            }
        }
    }

    pub(super) fn millis(
        &mut self,
        variable: &str,
        default_ms: u64,
        range: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number(variable, default_ms, range))
    }

    pub(super) fn flag(&mut self, variable: &str, default: bool) -> bool {
        let Some(value) = self.value(variable) else { return default };
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.fault(variable, &format!("is '{value}', but must be true or false"), "true");
                default
            }
        }
    }

    pub(super) fn store_backend(&mut self, variable: &str) -> StoreBackend {
        let choices = StoreBackend::ALL.map(|backend| (backend.as_str(), backend));
        self.choice(variable, &choices, "dynamodb").unwrap_or(StoreBackend::Sqlite)
    }

    pub(super) fn queue_backend(&mut self, variable: &str) -> QueueBackend {
        let choices = QueueBackend::ALL.map(|backend| (backend.as_str(), backend));
        self.choice(variable, &choices, "sqs").unwrap_or(QueueBackend::Sqlite)
    }

    pub(super) fn excerpts(&mut self, variable: &str) -> Excerpts {
        let choices = [("failures", Excerpts::Failures), ("all", Excerpts::All)];
        self.choice(variable, &choices, "failures").unwrap_or(Excerpts::Failures)
    }

    /// One of these values by its name. `None` if the variable is not set or has another value.
    fn choice<T: Copy>(
        &mut self,
        variable: &str,
        choices: &[(&str, T)],
        example: &str,
    ) -> Option<T> {
        let value = self.value(variable)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
            return Some(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let (last, others) = names.split_last()?;
        let fault = format!("is '{value}', but must be {} or {last}", others.join(", "));
        self.fault(variable, &fault, example);
        None
    }

    pub(super) fn regex(&mut self, variable: &str) -> Option<Regex> {
        let value = self.value(variable)?;
        match Regex::new(&value) {
            Ok(regex) => Some(regex),
            Err(error) => {
                let fault = format!(
                    "is not a regular expression: {}",
                    error.to_string().replace('\n', " ")
                );
                self.fault(variable, &fault, r"^https://.*\.example\.com/.*$");
                None
            }
        }
    }

    pub(super) fn host_globs(&mut self, variable: &str) -> Vec<String> {
        let Some(value) = self.value(variable) else { return Vec::new() };
        let globs: Vec<String> = list(&value).map(str::to_ascii_lowercase).collect();
        if globs.is_empty() {
            // A list without entries would allow every host, which is never the intent of setting
            // it.
            self.fault(
                variable,
                &format!("is '{value}', which names no host"),
                "api.example.com,*.example.org",
            );
        }
        for glob in &globs {
            if glob.contains('/') || Glob::new(glob).is_err() {
                self.fault(
                    variable,
                    &format!("has '{glob}', which is not a host name or a glob of one"),
                    "api.example.com,*.example.org",
                );
            }
        }
        globs
    }

    pub(super) fn rate_limits(&mut self, variable: &str) -> RateLimits {
        const EXAMPLE: &str = "hooks.example.com=10/1s,*.example.org=100/60s";
        let Some(value) = self.value(variable) else { return RateLimits::default() };
        let limits = value.parse().unwrap_or_else(|error: InvalidRateLimits| {
            self.fault(variable, &error.to_string(), EXAMPLE);
            RateLimits::default()
        });
        if value.chars().all(|char| char == ',' || char.is_whitespace()) {
            self.fault(variable, "names no host", EXAMPLE);
        }
        limits
    }

    pub(super) fn secrets(&mut self, variable: &str) -> Vec<Secret> {
        let Some(value) = self.value(variable) else { return Vec::new() };
        match Secret::parse_list(&value) {
            Ok(secrets) => secrets,
            Err(error) => {
                // The message leaves out the value.
                self.fault(
                    variable,
                    &format!("is not a list of secrets: {error}"),
                    "whsec_ and 24 to 64 random bytes in base64",
                );
                Vec::new()
            }
        }
    }

    pub(super) fn master_keys(&mut self, variable: &str) -> Option<MasterKeys> {
        match self.value(variable)?.parse() {
            Ok(keys) => Some(keys),
            Err(error) => {
                // The message leaves out the value.
                self.fault(
                    variable,
                    &format!("is not a list of master keys: {error}"),
                    "32 random bytes in base64, the output of: openssl rand -base64 32",
                );
                None
            }
        }
    }

    pub(super) fn access(&mut self) -> Access {
        let mut access = Access::default();
        let keys = self.value("API_KEYS").unwrap_or_default();
        if !keys.is_empty() && list(&keys).next().is_none() {
            self.fault(
                "API_KEYS",
                "names no key",
                "a long random text, or sha256: and its hash in hexadecimal",
            );
        }
        for key in list(&keys) {
            if key.starts_with(['"', '\'']) || key.ends_with(['"', '\'']) {
                self.fault(
                    "API_KEYS",
                    "has a key in quotes, which would be part of it; remove them",
                    "a long random text",
                );
                break;
            }
            match key.strip_prefix("sha256:") {
                None => access.key_hashes.push(KeyHash::of(key.as_bytes())),
                Some(hex) => match hash_from_hex(hex) {
                    Some(hash) => access.key_hashes.push(KeyHash::from_bytes(hash)),
                    None => self.fault(
                        "API_KEYS",
                        "has a sha256: entry that is not 64 hexadecimal digits",
                        "sha256:9f86d0…0a08",
                    ),
                },
            }
        }
        match self.value("API_AUTH").as_deref() {
            None | Some("keys") => {}
            Some("iam") => access.auth = Auth::Platform,
            // A load balancer forwards any Host header, so `local` would protect nothing there.
            Some("local") if self.is_set(SET_BY_LAMBDA) => {
                self.fault(
                    "API_AUTH",
                    "is 'local', which is for local work and is refused on AWS Lambda",
                    "keys",
                );
            }
            Some("local") => access.auth = Auth::Local,
            Some(other) => self.fault(
                "API_AUTH",
                &format!("is '{other}', but must be keys, iam or local"),
                "iam",
            ),
        }
        access
    }

    pub(super) fn schedule(&mut self, variable: &str) -> Vec<Duration> {
        let Some(value) = self.value(variable) else { return Vec::new() };
        let waits: Vec<Option<Duration>> = list(&value).map(wait).collect();
        if waits.is_empty()
            || waits.len() >= MAX_ATTEMPTS_LIMIT as usize
            || waits.iter().any(Option::is_none)
        {
            let fault = format!(
                "is '{value}', but must be 1 to 49 waits of at most 7 days, each with its unit \
                 (ms, s, m, h)"
            );
            self.fault(variable, &fault, "5s,5m,30m,2h,5h,10h,10h");
        }
        waits.into_iter().flatten().collect()
    }
}

/// The entries of a comma-separated list.
fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn wait(text: &str) -> Option<Duration> {
    // The friendly format. A bare number has no unit and is rejected.
    let wait = Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok()?;
    (wait <= MAX_DELAY_LIMIT).then_some(wait)
}

fn hash_from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(hex, &mut hash).ok()?;
    Some(hash)
}
