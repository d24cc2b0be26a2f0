use proptest::prelude::*;
use standardwebhooks::Webhook;

use super::*;
use crate::{
    random::{FixedRandom, SystemRandom},
    signing::sign,
};

const APPLICATION: &str = "acme";
const ENDPOINT: &str = "ep-aaaaaaaaaaaaaaaa";
const GOLDEN: &str = include_str!("../../../golden/applications/secret.json");
const GOLDEN_EXPIRING: &str = include_str!("../../../golden/applications/secret_expiring.json");
const GOLDEN_RANDOM: FixedRandom = FixedRandom(0x0706_0504_0302_0100);
const NOW: Timestamp = Timestamp::from_millis(4_000_000_000_000);

fn keys() -> MasterKeys {
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

fn sealed(secret: &EndpointSecret, random: &dyn Random) -> StoredSecret {
    StoredSecret::seal(secret, APPLICATION, ENDPOINT, &keys(), NOW, random).unwrap()
}

/// The sealed text was made by another implementation, see the tests of `sealing`.
#[test]
fn the_golden_secrets_are_written_and_read_byte_for_byte() {
    let secret = EndpointSecret::generate(&GOLDEN_RANDOM);
    let stored = sealed(&secret, &GOLDEN_RANDOM);
    let expiring = StoredSecret { expires_at: Some(at(86_400_000)), ..stored.clone() };
    for (stored, golden) in [(stored, GOLDEN), (expiring, GOLDEN_EXPIRING)] {
        assert_eq!(format!("{}\n", serde_json::to_string(&stored).unwrap()), golden);
        let read: StoredSecret = serde_json::from_str(golden).unwrap();
        assert_eq!(read, stored);
        let opened = read.open(APPLICATION, ENDPOINT, &keys()).unwrap();
        assert_eq!(opened.reveal(), "whsec_AAECAwQFBgcAAQIDBAUGBwABAgMEBQYHAAECAwQFBgc=");
    }
}

#[test]
fn a_generated_secret_is_32_random_bytes_that_receivers_can_use() {
    let [one, two] = [(); 2].map(|()| EndpointSecret::generate(&SystemRandom));
    assert_ne!(one, two);
    assert_eq!(one.0.len(), 32);
    assert_eq!(one.reveal().parse(), Ok(one.clone()));
    let stored = sealed(&one, &SystemRandom);
    let signer = stored.signer(APPLICATION, ENDPOINT, &keys()).unwrap();
    let now = jiff::Timestamp::now().as_second();
    let mut headers = http::HeaderMap::new();
    headers.insert("webhook-id", "m_1".parse().unwrap());
    headers.insert("webhook-timestamp", now.into());
    headers.insert("webhook-signature", sign(&[signer], "m_1", now, b"{}").parse().unwrap());
    Webhook::new(&one.reveal()).unwrap().verify(b"{}", &headers).unwrap();
    assert!(Webhook::new(&two.reveal()).unwrap().verify(b"{}", &headers).is_err());
}

#[test]
fn a_given_secret_has_24_to_64_bytes_with_or_without_the_prefix() {
    for bytes in 0..100 {
        let encoded = STANDARD.encode(vec![7; bytes]);
        for text in [encoded.clone(), format!("whsec_{encoded}")] {
            let parsed = text.parse::<EndpointSecret>();
            if (24..=64).contains(&bytes) {
                assert_eq!(parsed.unwrap().reveal(), format!("whsec_{encoded}"));
            } else {
                assert_eq!(parsed, Err(InvalidEndpointSecret::WrongLength { bytes }));
            }
        }
    }
}

#[test]
fn every_other_text_is_refused_without_quoting_it() {
    let unpadded = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWQ";
    for (text, error) in [
        ("your-secret-key-that-is-long-enough", InvalidEndpointSecret::NotBase64),
        ("whsec_not base64", InvalidEndpointSecret::NotBase64),
        (unpadded, InvalidEndpointSecret::NotBase64),
        (" QUJDREVGR0hJSktMTU5PUFFSU1RVVldY", InvalidEndpointSecret::NotBase64),
        ("\"QUJDREVGR0hJSktMTU5PUFFSU1RVVldY\"", InvalidEndpointSecret::NotBase64),
        ("-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_", InvalidEndpointSecret::NotBase64),
        ("whsec_whsec_QUJDREVGR0hJSktMTU5P", InvalidEndpointSecret::NotBase64),
        ("whsk_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY", InvalidEndpointSecret::Asymmetric),
        ("whpk_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY", InvalidEndpointSecret::Asymmetric),
        ("", InvalidEndpointSecret::WrongLength { bytes: 0 }),
    ] {
        assert_eq!(text.parse::<EndpointSecret>(), Err(error), "{text}");
        let shown = error.to_string();
        assert!(text.is_empty() || !shown.contains(text), "{shown}");
        assert!(shown.contains("omit it"), "{shown}");
    }
}

#[test]
fn a_secret_opens_for_its_own_endpoint_alone() {
    let stored = sealed(&EndpointSecret::generate(&SystemRandom), &SystemRandom);
    let other = StoredSecret { id: SecretId::generate(&SystemRandom), ..stored.clone() };
    for (stored, application, endpoint) in [
        (&stored, APPLICATION, "ep-bbbbbbbbbbbbbbbb"),
        (&stored, "other", ENDPOINT),
        (&other, APPLICATION, ENDPOINT),
    ] {
        let opened = stored.open(application, endpoint, &keys());
        let refused =
            SecretUnusable::Unseal(UnsealError::NotAuthentic { key_id: keys().sealing_key_id() });
        assert_eq!(opened, Err(refused));
    }
}

/// What was sealed for this place by hand, and is no key.
#[test]
fn a_sealed_text_that_is_no_secret_is_unusable() {
    let stored = sealed(&EndpointSecret::generate(&SystemRandom), &SystemRandom);
    let binding = stored.binding(APPLICATION, ENDPOINT);
    for bytes in [0, 23, 65] {
        let sealed = keys().seal(&vec![7; bytes], &binding, &SystemRandom).unwrap();
        let stored = StoredSecret { sealed, ..stored.clone() };
        let unusable = stored.signer(APPLICATION, ENDPOINT, &keys()).unwrap_err();
        assert_eq!(unusable, SecretUnusable::NotASecret);
    }
}

/// The end of `expires_at` excludes it. Without one, a secret lives for ever.
#[test]
fn a_secret_lives_until_it_expires() {
    let stored = sealed(&EndpointSecret::generate(&SystemRandom), &SystemRandom);
    assert!(stored.is_live(NOW) && stored.is_live(at(i64::MAX / 2)));
    let expiring = StoredSecret { expires_at: Some(at(10)), ..stored };
    for (millis, live) in [(-1, true), (0, true), (9, true), (10, false), (11, false)] {
        assert_eq!(expiring.is_live(at(millis)), live, "{millis}");
    }
}

/// With clocks that differ, `created_at` says nothing about the order.
#[test]
fn live_secrets_are_in_the_order_of_the_list() {
    let newest = sealed(&EndpointSecret::generate(&SystemRandom), &SystemRandom);
    let expired = StoredSecret { expires_at: Some(at(-1)), ..newest.clone() };
    let older = StoredSecret {
        id: SecretId::generate(&SystemRandom),
        created_at: at(5000),
        expires_at: Some(at(1)),
        ..newest.clone()
    };
    let list = [newest.clone(), expired, older.clone()];
    assert_eq!(live(&list, NOW).collect::<Vec<_>>(), [&newest, &older]);
    assert_eq!(live(&list, at(1)).collect::<Vec<_>>(), [&newest]);
}

#[test]
fn all_live_secrets_sign_or_none() {
    let secrets = [(); 2].map(|()| EndpointSecret::generate(&SystemRandom));
    let [newest, older] = secrets.each_ref().map(|secret| sealed(secret, &SystemRandom));
    let older = StoredSecret { expires_at: Some(at(1)), ..older };
    let list = [newest, older];
    let signature = |now| {
        let signers = signers(&list, APPLICATION, ENDPOINT, &keys(), now).unwrap();
        sign(&signers, "m_1", 1, b"{}")
    };
    let by = |secret: &EndpointSecret| {
        sign(&Secret::parse_list(&secret.reveal()).unwrap(), "m_1", 1, b"{}")
    };
    assert_eq!(signature(NOW), format!("{} {}", by(&secrets[0]), by(&secrets[1])));
    assert_eq!(signature(at(1)), by(&secrets[0]));

    let others: MasterKeys = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
    let resealed = list[0].reseal(APPLICATION, ENDPOINT, &keys(), &SystemRandom).unwrap();
    assert_eq!(resealed, list[0], "the first key has sealed it");
    let other = StoredSecret::seal(&secrets[0], APPLICATION, ENDPOINT, &others, NOW, &SystemRandom);
    let mixed = [list[0].clone(), other.unwrap()];
    let unusable = signers(&mixed, APPLICATION, ENDPOINT, &keys(), NOW).unwrap_err();
    let unknown = UnsealError::UnknownKey { key_id: others.sealing_key_id() };
    assert_eq!(unusable, SecretUnusable::Unseal(unknown));
    assert_eq!(mixed[1].reseal(APPLICATION, ENDPOINT, &keys(), &SystemRandom), Err(unknown));
}

/// A rotation of the master key changes nothing else of a secret.
#[test]
fn a_resealed_secret_is_the_same_secret() {
    let secret = EndpointSecret::generate(&SystemRandom);
    let stored = StoredSecret { expires_at: Some(at(9)), ..sealed(&secret, &SystemRandom) };
    let both: MasterKeys = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= \
                            AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        .parse()
        .unwrap();
    let resealed = stored.reseal(APPLICATION, ENDPOINT, &both, &SystemRandom).unwrap();
    assert_eq!(resealed.sealed.key_id(), Some(both.sealing_key_id()));
    assert_eq!(resealed.open(APPLICATION, ENDPOINT, &both), Ok(secret));
    assert_eq!(StoredSecret { sealed: stored.sealed.clone(), ..resealed }, stored);
}

#[test]
fn debug_shows_no_secret() {
    let secret = EndpointSecret::generate(&GOLDEN_RANDOM);
    assert_eq!(format!("{secret:?}"), "EndpointSecret(..)");
    let shown = format!("{:?}", sealed(&secret, &GOLDEN_RANDOM));
    assert!(shown.contains("sec-0706050403020100"), "{shown}");
    assert!(!shown.contains("AAEC") && !shown.contains("whsec"), "{shown}");
}

#[test]
fn every_secret_of_a_caller_survives_being_stored() {
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 24..=64))| {
        let secret: EndpointSecret = STANDARD.encode(&bytes).parse().unwrap();
        let stored = sealed(&secret, &SystemRandom);
        let json = serde_json::to_string(&stored).unwrap();
        let read: StoredSecret = serde_json::from_str(&json).unwrap();
        let opened = read.open(APPLICATION, ENDPOINT, &keys()).unwrap();
        prop_assert_eq!(opened.reveal(), format!("whsec_{}", STANDARD.encode(&bytes)));
        prop_assert!(!json.contains(&STANDARD.encode(&bytes)));
    });
}

#[test]
fn no_text_makes_parsing_panic() {
    proptest!(|(text in prop_oneof![".*", "whsec_[A-Za-z0-9+/]{0,100}={0,3}"])| {
        if let Ok(secret) = text.parse::<EndpointSecret>() {
            prop_assert_eq!(secret.reveal().parse(), Ok(secret));
        }
    });
}
