//! Ids that Posthaste generates for the parts of an application: a prefix and 16 lower-case
//! hexadecimal digits. They are unique within their application, and are never reused.

/// Defines such an id, which is stored and shown as its text.
macro_rules! generated_id {
    ($(#[$doc:meta])* $name:ident, $invalid:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        #[doc = concat!("Not a valid [`", stringify!($name), "`].")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        #[error("must be {} and 16 characters of 0-9 and a-f, as the API returned it", $prefix)]
        pub struct $invalid;

        impl $name {
            /// A new id of 64 random bits.
            pub fn generate(random: &dyn $crate::random::Random) -> Self {
                Self(random.next_u64())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{:016x}"), self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $invalid;

            fn from_str(text: &str) -> Result<Self, $invalid> {
                let digits = text.strip_prefix($prefix).ok_or($invalid)?;
                let id = u64::from_str_radix(digits, 16).map(Self).map_err(|_| $invalid)?;
                // Only the canonical form is valid, so that each has one id.
                if id.to_string() == text { Ok(id) } else { Err($invalid) }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use generated_id;

#[cfg(test)]
mod tests {
    use crate::{
        applications::secrets::{InvalidSecretId, SecretId},
        random::{FixedRandom, SystemRandom},
    };

    #[test]
    fn an_id_is_read_as_it_was_written() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            let id = SecretId::generate(&FixedRandom(bits));
            assert_eq!(id.to_string().len(), "sec-".len() + 16);
            assert_eq!(id.to_string().parse(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(json, format!("\"{id}\""));
            assert_eq!(serde_json::from_str::<SecretId>(&json).unwrap(), id);
            assert_eq!(format!("{id:?}"), id.to_string());
        }
        let two = [(); 2].map(|()| SecretId::generate(&SystemRandom));
        assert_ne!(two[0], two[1]);
    }

    #[test]
    fn every_other_text_is_refused() {
        for text in [
            "",
            "sec-",
            "0123456789abcdef",
            "sec-0123456789abcde",
            "sec-00123456789abcdef",
            "sec-0123456789ABCDEF",
            "sec-+123456789abcdef",
            "sec-0123456789abcdeg",
            "sec-0123456789abcdef ",
            "key-0123456789abcdef",
        ] {
            assert_eq!(text.parse::<SecretId>(), Err(InvalidSecretId), "{text}");
        }
        let text = InvalidSecretId.to_string();
        assert_eq!(text, "must be sec- and 16 characters of 0-9 and a-f, as the API returned it");
    }
}
