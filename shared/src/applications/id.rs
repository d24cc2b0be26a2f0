//! The identifiers of applications and endpoints. They name no other module, so that
//! [`crate::id`] and [`crate::model`] can use them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest application id, in characters.
pub const MAX_APPLICATION_ID_CHARS: usize = 64;

/// The application that operational messages go to. A caller cannot create it yet.
pub const RESERVED_APPLICATION_ID: &str = "posthaste";

/// The beginning of an endpoint id.
const ENDPOINT_PREFIX: &str = "ep-";

/// The random bytes of an endpoint id.
pub const ENDPOINT_RANDOM_BYTES: usize = 10;

/// The characters of an endpoint id after its prefix: 80 bits, five in each.
const ENDPOINT_CHARS: usize = 16;

/// The digits of RFC 4648's base32, in lower case.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// An invalid application or endpoint id. The text describes the valid form and continues a
/// sentence that begins with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 1 to 64 of `A-Za-z0-9_-`.
    #[error("must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")]
    Application,
    /// Not `ep-` and 16 digits of lower-case base32.
    #[error("must be ep- and 16 characters of a-z and 2-7, as the API returned it")]
    Endpoint,
}

/// The caller's name for a customer: 1 to 64 of `A-Za-z0-9_-`. Case matters.
///
/// [`RESERVED_APPLICATION_ID`] is a valid id, because later versions store such an application.
/// [`ApplicationId::is_reserved`] tells it, and
/// [`Application::new`](super::application::Application::new) refuses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApplicationId(String);

impl ApplicationId {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is [`RESERVED_APPLICATION_ID`].
    pub fn is_reserved(&self) -> bool {
        self.0 == RESERVED_APPLICATION_ID
    }
}

impl fmt::Display for ApplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ApplicationId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for ApplicationId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > MAX_APPLICATION_ID_CHARS || !text.bytes().all(sane) {
            return Err(InvalidId::Application);
        }
        Ok(Self(text))
    }
}

impl From<ApplicationId> for String {
    fn from(id: ApplicationId) -> Self {
        id.0
    }
}

/// The id of an endpoint: `ep-` and 80 random bits as 16 digits of lower-case base32 (RFC 4648,
/// without padding). An id is never used again. Ids sort as their texts do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointId([u8; ENDPOINT_CHARS]);

impl EndpointId {
    /// The id with these random bits.
    pub fn mint(random: [u8; ENDPOINT_RANDOM_BYTES]) -> Self {
        let bits = random.iter().fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
        let mut digits = [0; ENDPOINT_CHARS];
        for (index, digit) in digits.iter_mut().enumerate() {
            let shift = 5 * (ENDPOINT_CHARS - 1 - index);
            *digit = DIGITS[(bits >> shift) as usize % DIGITS.len()];
        }
        Self(digits)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ENDPOINT_PREFIX)?;
        f.write_str(std::str::from_utf8(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EndpointId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = text.strip_prefix(ENDPOINT_PREFIX).ok_or(InvalidId::Endpoint)?;
        let digits: [u8; ENDPOINT_CHARS] =
            digits.as_bytes().try_into().map_err(|_| InvalidId::Endpoint)?;
        if !digits.iter().all(|digit| DIGITS.contains(digit)) {
            return Err(InvalidId::Endpoint);
        }
        Ok(Self(digits))
    }
}

impl TryFrom<String> for EndpointId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<EndpointId> for String {
    fn from(id: EndpointId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_application_id_is_the_callers() {
        for good in ["a", "Customer_7-b", "posthaste", &"x".repeat(64)] {
            let id: ApplicationId = good.parse().unwrap();
            assert_eq!((id.as_str(), id.to_string()), (good, good.to_owned()));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(json, format!("\"{good}\""));
            assert_eq!(serde_json::from_str::<ApplicationId>(&json).unwrap(), id);
        }
        for bad in ["", "a.b", "a/b", "a b", "é", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<ApplicationId>(), Err(InvalidId::Application), "{bad}");
        }
        assert!(serde_json::from_str::<ApplicationId>("\"a/b\"").is_err());
        let reserved = |text: &str| text.parse::<ApplicationId>().unwrap().is_reserved();
        assert!(reserved("posthaste") && !reserved("Posthaste") && !reserved("posthaste-2"));
    }

    /// The test vectors of RFC 4648 end within a byte, so these are its digits by hand.
    #[test]
    fn an_endpoint_id_is_base32_of_its_bits() {
        assert_eq!(EndpointId::mint([0; 10]).to_string(), "ep-aaaaaaaaaaaaaaaa");
        assert_eq!(EndpointId::mint([0xff; 10]).to_string(), "ep-7777777777777777");
        assert_eq!(EndpointId::mint(*b"foobarfoob").to_string(), "ep-mzxw6ytbojtg633c");
    }

    #[test]
    fn an_endpoint_id_has_one_spelling() {
        for bad in [
            "",
            "ep-",
            "ep-aaaaaaaaaaaaaaa",
            "ep-aaaaaaaaaaaaaaaaa",
            "ep-AAAAAAAAAAAAAAAA",
            "ep-aaaaaaaaaaaaaaa1",
            "ep-aaaaaaaaaaaaaaa8",
            "ep_aaaaaaaaaaaaaaaa",
            "EP-aaaaaaaaaaaaaaaa",
            "ep-aaaaaaaaaaaaaaé",
        ] {
            assert_eq!(bad.parse::<EndpointId>(), Err(InvalidId::Endpoint), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_endpoint_id_is_read_as_it_was_written(
            a in any::<[u8; 10]>(), b in any::<[u8; 10]>(),
        ) {
            let (first, second) = (EndpointId::mint(a), EndpointId::mint(b));
            prop_assert_eq!(first.to_string().parse(), Ok(first));
            prop_assert_eq!(first == second, a == b, "no two values share an id");
            prop_assert_eq!(first.cmp(&second), first.to_string().cmp(&second.to_string()));
            let json = serde_json::to_string(&first).unwrap();
            prop_assert_eq!(serde_json::from_str::<EndpointId>(&json).unwrap(), first);
        }
    }
}
