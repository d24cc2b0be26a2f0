//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): reads a caller's `traceparent` and
//! `tracestate`, and writes the destination's. Pure.
//!
//! An invalid header is ignored, as the recommendation requires. A broken trace is better than a
//! rejected webhook.

use serde::{Deserialize, Serialize};

/// The most bytes of `tracestate` that are kept: the least that the recommendation wants
/// propagated. Whole members over the limit are left out.
pub const MAX_STATE_BYTES: usize = 512;

/// The most members of a `tracestate`.
const MAX_STATE_MEMBERS: usize = 32;

/// Members larger than this are left out first if a `tracestate` is too long.
const LARGE_MEMBER_BYTES: usize = 128;

/// The flag that is passed on: the caller may have recorded the trace.
const SAMPLED: u8 = 1;

/// The trace of a webhook. The field names are short, because the record stores them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// 32 lower-case hexadecimal digits, not all zero.
    #[serde(rename = "i")]
    pub id: String,
    /// Whether the caller may have recorded it.
    #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
    pub sampled: bool,
    /// The vendors' data as it is passed on. At most [`MAX_STATE_BYTES`].
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Trace {
    /// Parses these headers. `states` are the values of all `tracestate` headers, in order. Returns
    /// `None` if `parent` is invalid. An invalid `tracestate` is left out.
    pub fn parse(parent: &str, states: &[&str]) -> Option<Self> {
        let (version, rest) = parent.split_once('-')?;
        let version = hex_byte(version).filter(|version| *version != 0xff)?;
        let mut fields = rest.splitn(4, '-');
        let (id, span, flags) = (fields.next()?, fields.next()?, fields.next()?);
        // Later versions may append fields after the flags. This version has none.
        if version == 0 && fields.next().is_some() {
            return None;
        }
        if !is_id(id, 32) || !is_id(span, 16) {
            return None;
        }
        let sampled = hex_byte(flags)? & SAMPLED == SAMPLED;
        Some(Self { id: id.to_owned(), sampled, state: state(states) })
    }

    /// Parses X-Ray's header (`Root=1-8hex-24hex;Parent=…;Sampled=1`) if the trace is sampled.
    /// X-Ray shows nothing under the ID of another trace, which would only make the record larger.
    pub fn from_xray(header: &str) -> Option<Self> {
        let field = |name: &str| {
            header.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let (time, random) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
        let id = format!("{time}{random}");
        let is_sound = time.len() == 8 && is_id(&id, 32) && field("Sampled") == Some("1");
        is_sound.then_some(Self { id, sampled: true, state: None })
    }

    /// The `traceparent` for the span with this ID, which must not be zero.
    pub fn parent(&self, span: u64) -> String {
        format!("00-{}-{span:016x}-{:02x}", self.id, u8::from(self.sampled))
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn hex_byte(text: &str) -> Option<u8> {
    if text.len() == 2 && is_hex(text) { u8::from_str_radix(text, 16).ok() } else { None }
}

fn is_id(text: &str, digits: usize) -> bool {
    text.len() == digits && is_hex(text) && text.bytes().any(|byte| byte != b'0')
}

fn state(headers: &[&str]) -> Option<String> {
    let all = headers.iter().flat_map(|header| header.split(','));
    let members: Vec<&str> = all
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
        .collect();
    if members.is_empty() || members.len() > MAX_STATE_MEMBERS {
        return None;
    }
    let mut keys = Vec::with_capacity(members.len());
    for member in &members {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) || keys.contains(&key) {
            return None;
        }
        keys.push(key);
    }
    Some(shortened(members)).filter(|state| !state.is_empty())
}

/// The members that fit, in order. Large members are left out first, then the oldest, which are
/// last.
fn shortened(mut members: Vec<&str>) -> String {
    let length = |members: &[&str]| {
        members.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1)
    };
    if length(&members) > MAX_STATE_BYTES {
        members.retain(|member| member.len() <= LARGE_MEMBER_BYTES);
    }
    while length(&members) > MAX_STATE_BYTES {
        members.pop();
    }
    members.join(",")
}

/// `key` or `tenant@system`.
fn is_key(key: &str) -> bool {
    let is_part = |part: &str, max: usize, digit_first: bool| {
        let first = part.bytes().next();
        let begins = first.is_some_and(|byte| {
            byte.is_ascii_lowercase() || (digit_first && byte.is_ascii_digit())
        });
        let rest = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte)
        };
        begins && part.len() <= max && part.bytes().all(rest)
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_part(tenant, 241, true) && is_part(system, 14, false),
        None => is_part(key, 256, false),
    }
}

fn is_value(value: &str) -> bool {
    let sound = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(sound) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn parse(parent: &str) -> Option<(String, bool)> {
        Trace::parse(parent, &[]).map(|trace| (trace.id, trace.sampled))
    }

    #[test]
    fn a_valid_parent_is_understood_and_passed_on_with_another_span() {
        let trace =
            Trace::parse(&format!("00-{ID}-00f067aa0ba902b7-01"), &["a=1,b=2", "c@d=3"]).unwrap();
        assert_eq!(trace.state.as_deref(), Some("a=1,b=2,c@d=3"));
        assert_eq!(trace.parent(0xab), format!("00-{ID}-00000000000000ab-01"));
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            assert_eq!(
                parse(&format!("00-{ID}-00f067aa0ba902b7-{flags}")),
                Some((ID.to_owned(), sampled)),
                "{flags}"
            );
        }
        let unsampled = Trace::parse(&format!("00-{ID}-00f067aa0ba902b7-02"), &[]).unwrap();
        assert!(unsampled.parent(1).ends_with("-00"), "only the flag that is known is passed on");
        for later in [
            format!("cc-{ID}-00f067aa0ba902b7-01"),
            format!("01-{ID}-00f067aa0ba902b7-01-what-the-future-brings"),
        ] {
            assert_eq!(parse(&later), Some((ID.to_owned(), true)), "{later}");
        }
    }

    #[test]
    fn what_is_not_valid_is_no_trace() {
        let zeros = "0".repeat(32);
        for parent in [
            "",
            "00",
            "garbage",
            &format!("00-{ID}-00f067aa0ba902b7"),
            &format!("00-{ID}-00f067aa0ba902b7-"),
            &format!("00-{ID}-00f067aa0ba902b7-1"),
            &format!("00-{ID}-00f067aa0ba902b7-01-"),
            &format!("00-{ID}-00f067aa0ba902b7-01-more"),
            &format!("ff-{ID}-00f067aa0ba902b7-01"),
            &format!("0-{ID}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            &format!("00-{zeros}-00f067aa0ba902b7-01"),
            &format!("00-{ID}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", &ID[1..]),
            &format!("00-{ID}0-00f067aa0ba902b7-01"),
            &format!("00-{ID}-00f067aa0ba902bg-01"),
            &format!("cc-{ID}-00f067aa0ba902b7-01what"),
        ] {
            assert_eq!(parse(parent), None, "{parent}");
        }
    }

    fn state_of(states: &[&str]) -> Option<String> {
        Trace::parse(&format!("00-{ID}-00f067aa0ba902b7-01"), states)
            .expect("the parent is valid")
            .state
    }

    #[test]
    fn a_state_is_passed_on_as_far_as_it_is_valid_and_fits() {
        assert_eq!(state_of(&[" a=1 , ,b=x y"]).as_deref(), Some("a=1,b=x y"));
        assert_eq!(state_of(&["1t/-*_@sys=a"]).as_deref(), Some("1t/-*_@sys=a"));
        for bad in [
            "a", "A=1", "=1", "a=", "a=b=c", "a=1,a=2", "1a=1", "a@1=2", "a=\u{e4}", "a=\u{7f}",
            "a b=1",
        ] {
            assert_eq!(state_of(&[bad]), None, "{bad}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=1")).collect();
        assert_eq!(state_of(&[&many.join(",")]), None);
        assert_eq!(state_of(&[&many[..32].join(",")]), Some(many[..32].join(",")));
        let large = format!("large={}", "x".repeat(200));
        let small: Vec<String> = (0..8).map(|n| format!("k{n}={}", "y".repeat(60))).collect();
        let kept = state_of(&[&format!("{},{large},{}", small[0], small[1..].join(","))]).unwrap();
        assert_eq!(kept, small[..8].join(",")[..kept.len()], "the large one went");
        assert!(
            kept.len() <= MAX_STATE_BYTES && kept.len() > MAX_STATE_BYTES - 64,
            "{}",
            kept.len()
        );
    }

    #[test]
    fn a_sampled_trace_of_x_ray_has_the_same_id_here() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        let trace = Trace::from_xray(header).unwrap();
        assert_eq!(
            trace,
            Trace { id: "5759e988bd862e3fe1be46a994272793".to_owned(), sampled: true, state: None }
        );
        assert_eq!(
            Trace::from_xray("Sampled=1; Root=1-5759e988-bd862e3fe1be46a994272793"),
            Some(trace)
        );
        for other in [
            "",
            "Root=1-5759e988-bd862e3fe1be46a994272793",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
            "Root=2-5759e988-bd862e3fe1be46a994272793;Sampled=1",
            "Root=1-5759e98-8bd862e3fe1be46a994272793;Sampled=1",
            "Root=1-5759e988-bd862e3fe1be46a99427279;Sampled=1",
        ] {
            assert_eq!(Trace::from_xray(other), None, "{other}");
        }
    }
}
