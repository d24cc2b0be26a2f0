//! Targets: the units of traffic control.
//!
//! | target | key | failures that count for its circuit |
//! |---|---|---|
//! | origin | scheme, host, port | no answer: DNS, connect, TLS, timeout |
//! | URL without query | origin, `#`, path hash | answers with 5xx |
//! | endpoint | application, `/`, endpoint ID | no answer, answers with 5xx |
//!
//! A delivery goes to its endpoint alone. A direct webhook goes to both others, so it needs the
//! permission of both. An answer below 500 closes all its circuits. An answer with 5xx closes the
//! origin's, because the origin answered.
//!
//! A receiver can fail with 5xx on so many different URLs that no circuit of a URL opens. After
//! many consecutive 5xx answers the worker opens the origin's circuit for retries only
//! ([`Circuit::retries_only`]). First attempts still go, so one customer's failing URLs never stop
//! the URLs of others.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::pace::Pace;
use crate::{
    applications::id::{ApplicationId, EndpointId},
    circuit::{Circuit, Settings},
    clock::Timestamp,
    model::ErrorKind,
};

/// How long an open circuit is kept after its last write: 24 h.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The bytes of a path's SHA-256 that its hash keeps.
const PATH_HASH_BYTES: usize = 8;

/// The key of a target. It is stored, and the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetKey(String);

impl TargetKey {
    /// The key of an origin: scheme, host and port.
    pub fn origin(origin: &str) -> Self {
        Self(origin.to_owned())
    }

    /// The key of a URL of this origin.
    pub fn url(origin: &str, path_hash: &str) -> Self {
        Self(format!("{origin}#{path_hash}"))
    }

    /// The key of an endpoint. It contains no `:`, so no origin has it.
    pub fn endpoint(application: &ApplicationId, endpoint: EndpointId) -> Self {
        Self(format!("{application}/{endpoint}"))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its scheme, host and port.
    pub fn origin_part(&self) -> &str {
        self.0.split_once('#').map_or(&*self.0, |(origin, _)| origin)
    }

    /// Whether it is an endpoint's.
    pub fn is_endpoint(&self) -> bool {
        !self.0.contains(':')
    }

    /// Whether it is a URL's.
    pub fn is_url(&self) -> bool {
        self.0.contains('#')
    }
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hash by which a webhook's record names the path of its URL: the first 8 bytes of the SHA-256
/// in base64url. A path can be a secret, so no list shows it.
pub fn path_hash(path: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(&Sha256::digest(path)[..PATH_HASH_BYTES])
}

/// The stored state of a target. Nothing is stored of a target that works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The key.
    #[serde(rename = "k")]
    pub key: TargetKey,
    /// The number of writes. Every write is conditional on it.
    #[serde(rename = "r")]
    pub revision: u64,
    /// The circuit.
    #[serde(rename = "c", default, skip_serializing_if = "Circuit::is_idle")]
    pub circuit: Circuit,
    /// The pause and the learned rate. `None`: the target has not refused a request lately.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// When it was last written.
    #[serde(rename = "t")]
    pub touched_at: Timestamp,
}

impl Target {
    /// The state of a target of which nothing is stored.
    pub fn idle(key: TargetKey) -> Self {
        Self {
            key,
            revision: 0,
            circuit: Circuit::default(),
            pace: None,
            touched_at: Timestamp::default(),
        }
    }

    /// Whether there is nothing to store.
    pub fn is_idle(&self) -> bool {
        self.circuit.is_idle() && self.pace.is_none()
    }

    /// When the state no longer restricts an attempt. `None`: it restricts none, because its
    /// circuit only counts failures.
    pub fn restricts_until(&self) -> Option<Timestamp> {
        let circuit = self.circuit.open_until.map(|_| self.touched_at.plus(MAX_AGE));
        circuit.max(self.pace.map(|pace| pace.forget_at))
    }

    /// The pace, as long as it applies.
    pub fn pace(&self, now: Timestamp) -> Option<&Pace> {
        self.pace.as_ref().filter(|pace| pace.applies(now))
    }

    /// The state after `count` failures that count for its circuit.
    #[must_use]
    pub fn failed(&self, count: u32, settings: &Settings, now: Timestamp) -> Self {
        let circuit = self.circuit.failed(count, settings, self.touched_at, now);
        self.changed(circuit, self.pace, now)
    }

    /// The state after its circuit opened for retries, or a retry failed as its probe.
    #[must_use]
    pub fn opened_for_retries(&self, settings: &Settings, now: Timestamp) -> Self {
        let circuit = Circuit { retries_only: true, ..self.circuit.opened(settings, now) };
        self.changed(circuit, self.pace, now)
    }

    /// The state after an answer that closes its circuit.
    #[must_use]
    pub fn succeeded(&self, now: Timestamp) -> Self {
        self.changed(Circuit::default(), self.pace, now)
    }

    /// The state after a refusal with this pace. The pause takes the place of the circuit.
    #[must_use]
    pub fn paused(&self, pace: Pace, now: Timestamp) -> Self {
        self.changed(Circuit::default(), Some(pace), now)
    }

    /// The state after a worker leased the probe.
    #[must_use]
    pub fn probed(&self, settings: &Settings, now: Timestamp) -> Self {
        self.changed(self.circuit.probed(settings, now), self.pace, now)
    }

    /// The state after the worker returned the probe.
    #[must_use]
    pub fn released(&self, now: Timestamp) -> Self {
        self.changed(self.circuit.released(), self.pace, now)
    }

    /// A pace that no longer applies is left out. The first revision is the time, so that a new
    /// target has none that an earlier one under its key had.
    fn changed(&self, circuit: Circuit, pace: Option<Pace>, now: Timestamp) -> Self {
        let first = u64::try_from(now.as_millis()).unwrap_or_default();
        Self {
            key: self.key.clone(),
            revision: if self.revision == 0 {
                first.max(1)
            } else {
                self.revision.saturating_add(1)
            },
            circuit,
            pace: pace.filter(|pace| pace.applies(now)),
            touched_at: now,
        }
    }
}

/// What an answer proves about the targets of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The destination answered below 500: both targets work.
    Works,
    /// The destination answered with 5xx: the origin works, and the URL does not.
    UrlFails,
    /// There was no answer: the origin does not work. The URL is unknown.
    OriginFails,
    /// Nothing, e.g. because the address was refused before a connection.
    Nothing,
}

impl Evidence {
    /// The evidence of an attempt that ended so. An attempt without an error was delivered.
    pub fn of(error: Option<ErrorKind>, status_code: Option<u16>) -> Self {
        match (error, status_code) {
            (_, Some(code)) if code >= 500 => Self::UrlFails,
            (_, Some(_)) | (None, None) => Self::Works,
            (Some(ErrorKind::Network | ErrorKind::Timeout | ErrorKind::Tls), None) => {
                Self::OriginFails
            }
            (Some(_), None) => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::pace::Refusal;

    const SETTINGS: Settings = Settings {
        failures: 3,
        open: Duration::from_secs(30),
        probe_lease: Duration::from_secs(45),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn idle() -> Target {
        Target::idle(TargetKey::url("https://example.com:443", &path_hash("/hook")))
    }

    fn pace(now: Timestamp) -> Pace {
        let refusal = Refusal { attempt_started_at: now, status_code: 429, retry_after: None };
        Pace::after_refusal(None, &refusal, Duration::from_secs(60), None, now).unwrap()
    }

    #[test]
    fn a_key_names_the_origin_and_the_hash_of_the_path() {
        let key = idle().key;
        assert_eq!(key.as_str(), "https://example.com:443#b8LQUXrd0pU");
        assert_eq!((key.origin_part(), key.is_url()), ("https://example.com:443", true));
        let origin = TargetKey::origin("https://[::1]:443");
        assert_eq!((origin.origin_part(), origin.is_url()), ("https://[::1]:443", false));
        assert_ne!(path_hash("/hook"), path_hash("/Hook"));
    }

    /// A write that is conditional on a revision of a target must not replace a later target.
    #[test]
    fn a_new_target_has_no_revision_of_an_earlier_one() {
        let earlier = idle().failed(1, &SETTINGS, at(1)).failed(1, &SETTINGS, at(2));
        let later = idle().failed(1, &SETTINGS, at(3));
        assert!(later.revision > earlier.revision, "{later:?}");
    }

    /// Every write is conditional on the revision, and dated for its expiry.
    #[test]
    fn every_change_has_its_own_revision_and_time() {
        let before = idle().failed(3, &SETTINGS, at(0));
        for after in [
            before.probed(&SETTINGS, at(7)),
            before.released(at(7)),
            before.failed(1, &SETTINGS, at(7)),
            before.opened_for_retries(&SETTINGS, at(7)),
            before.succeeded(at(7)),
            before.paused(pace(at(7)), at(7)),
        ] {
            assert_eq!((after.revision, after.touched_at, &after.key), (2, at(7), &before.key));
        }
    }

    #[test]
    fn a_success_leaves_nothing_and_a_pause_takes_the_place_of_the_circuit() {
        let open = idle().failed(3, &SETTINGS, at(0));
        assert!(open.succeeded(at(1)).is_idle());
        let paused = open.paused(pace(at(1)), at(1));
        assert!(paused.circuit.is_idle() && !paused.is_idle());
        assert!(!paused.succeeded(at(2)).is_idle(), "the pace stays");
        assert!(paused.succeeded(at(200)).is_idle(), "unless it is forgotten");
    }

    #[test]
    fn only_an_open_circuit_and_a_pace_restrict_attempts() {
        assert_eq!(idle().restricts_until(), None);
        assert_eq!(idle().failed(2, &SETTINGS, at(5)).restricts_until(), None);
        let open = idle().failed(3, &SETTINGS, at(5));
        assert_eq!(open.restricts_until(), Some(at(5).plus(MAX_AGE)));
        let paused = idle().paused(pace(at(5)), at(5));
        assert_eq!(paused.restricts_until(), Some(at(126)));
    }

    #[test]
    fn a_stored_target_is_read_again_unchanged() {
        for target in [
            idle().failed(2, &SETTINGS, at(5)),
            idle().failed(3, &SETTINGS, at(5)).probed(&SETTINGS, at(40)),
            idle().opened_for_retries(&SETTINGS, at(5)),
            idle().paused(pace(at(5)), at(5)),
        ] {
            let json = serde_json::to_string(&target).unwrap();
            assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), target, "{json}");
        }
    }

    #[test]
    fn an_answer_proves_something_about_each_target() {
        for (error, code, evidence) in [
            (None, Some(200), Evidence::Works),
            (Some(ErrorKind::HttpStatus), Some(404), Evidence::Works),
            (Some(ErrorKind::HttpStatus), Some(429), Evidence::Works),
            (Some(ErrorKind::HttpStatus), Some(500), Evidence::UrlFails),
            (Some(ErrorKind::HttpStatus), Some(599), Evidence::UrlFails),
            (Some(ErrorKind::Network), None, Evidence::OriginFails),
            (Some(ErrorKind::Timeout), None, Evidence::OriginFails),
            (Some(ErrorKind::Tls), None, Evidence::OriginFails),
            (Some(ErrorKind::RefusedAddress), None, Evidence::Nothing),
            (Some(ErrorKind::Interrupted), None, Evidence::Nothing),
        ] {
            assert_eq!(Evidence::of(error, code), evidence, "{error:?} {code:?}");
        }
    }
}
