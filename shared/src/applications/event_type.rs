//! Event types, and the patterns by which endpoints choose them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest event type, in characters.
pub const MAX_EVENT_TYPE_CHARS: usize = 128;

/// The end of a pattern that matches by prefix.
const ANY_REST: &str = ".*";

/// Why a text is no event type or pattern. The text continues a sentence that begins with the
/// field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEventType {
    /// Not 1 to 128 of `A-Za-z0-9_.-`.
    #[error("must be 1 to 128 characters of A-Z, a-z, 0-9, '_', '.' and '-'")]
    Name,
    /// Neither an event type, nor `prefix.*`, nor `*`.
    #[error(
        "must be an event type such as order.paid, a prefix such as order.*, or * for every event \
         type"
    )]
    Pattern,
}

/// The type of an event: 1 to 128 of `A-Za-z0-9_.-`. There is no registry. Case matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(String);

impl EventType {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for EventType {
    type Error = InvalidEventType;

    fn try_from(text: String) -> Result<Self, InvalidEventType> {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if text.is_empty() || text.len() > MAX_EVENT_TYPE_CHARS || !text.bytes().all(sane) {
            return Err(InvalidEventType::Name);
        }
        Ok(Self(text))
    }
}

impl From<EventType> for String {
    fn from(event_type: EventType) -> Self {
        event_type.0
    }
}

/// The event types that an endpoint receives: an exact name, `prefix.*` for the names that begin
/// with `prefix.`, or `*` for all.
///
/// An exact name is one event type and nothing below it: `order` does not match `order.paid`.
/// `order.*` does not match `order`. A star stands at the end alone: `*.paid` and `order*` are
/// refused, because they look as if they matched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Every,
    Exact(EventType),
    /// The part before `.*`.
    Below(EventType),
}

impl EventPattern {
    /// Whether an endpoint with this pattern receives events of this type.
    pub fn matches(&self, event_type: &EventType) -> bool {
        match &self.0 {
            Kind::Every => true,
            Kind::Exact(name) => name == event_type,
            Kind::Below(prefix) => {
                let rest = event_type.as_str().strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Every => f.write_str("*"),
            Kind::Exact(name) => f.write_str(name.as_str()),
            Kind::Below(prefix) => write!(f, "{prefix}{ANY_REST}"),
        }
    }
}

impl FromStr for EventPattern {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        let name = |text: &str| text.parse().map_err(|_| InvalidEventType::Pattern);
        Ok(Self(match text.strip_suffix(ANY_REST) {
            _ if text == "*" => Kind::Every,
            Some(prefix) => Kind::Below(name(prefix)?),
            None => Kind::Exact(name(text)?),
        }))
    }
}

impl TryFrom<String> for EventPattern {
    type Error = InvalidEventType;

    fn try_from(text: String) -> Result<Self, InvalidEventType> {
        text.parse()
    }
}

impl From<EventPattern> for String {
    fn from(pattern: EventPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(text: &str) -> EventType {
        text.parse().unwrap()
    }

    fn matches(pattern: &str, event_type: &str) -> bool {
        pattern.parse::<EventPattern>().unwrap().matches(&event(event_type))
    }

    #[test]
    fn an_event_type_is_a_short_name() {
        for good in ["a", "order.paid", "Order_Paid-2", ".", &"x".repeat(128)] {
            assert_eq!(event(good).as_str(), good);
        }
        for bad in ["", "a b", "a*", "*", "é", "a/b", &"x".repeat(129)] {
            assert_eq!(bad.parse::<EventType>(), Err(InvalidEventType::Name), "{bad}");
        }
    }

    #[test]
    fn a_pattern_matches_one_name_those_below_a_prefix_or_all() {
        for (pattern, yes, no) in [
            ("order.paid", vec!["order.paid"], vec!["order.paid.late", "order", "Order.paid"]),
            ("order.*", vec!["order.paid", "order.", "order.a.b"], vec!["order", "orders.paid"]),
            ("a.b.*", vec!["a.b.c"], vec!["a.b", "a.bc", "a.c"]),
            ("*", vec!["order", "a.b", "."], vec![]),
        ] {
            for event_type in yes {
                assert!(matches(pattern, event_type), "{pattern} {event_type}");
            }
            for event_type in no {
                assert!(!matches(pattern, event_type), "{pattern} {event_type}");
            }
        }
    }

    #[test]
    fn a_star_elsewhere_is_refused() {
        for bad in ["", ".*", "*.*", "*.paid", "order*", "order.*.x", "order.**", "a b.*", "**"] {
            assert_eq!(bad.parse::<EventPattern>(), Err(InvalidEventType::Pattern), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_is_read_as_it_was_written(text in "[ab.*]{1,5}", event_type in "[ab.]{1,6}") {
            let Ok(pattern) = text.parse::<EventPattern>() else { return Ok(()) };
            prop_assert_eq!(pattern.to_string(), &*text);
            // The definition, without the type.
            let expected = match text.strip_suffix('*') {
                Some(prefix) => event_type.starts_with(prefix),
                None => event_type == text,
            };
            prop_assert_eq!(pattern.matches(&event(&event_type)), expected);
        }
    }
}
