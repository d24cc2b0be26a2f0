use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::random::{FixedRandom, SystemRandom};

/// The bytes 0 to 31.
const FIRST: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const FIRST_ID: &str = "630dcd29";
/// 32 zeros.
const OTHER: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const OTHER_ID: &str = "66687aad";

/// Made by another implementation, Python's `cryptography` 48: HKDF-SHA-256 without salt,
/// AES-256-GCM with the nonce 00 01 02 03 04 05 06 07 00 01 02 03.
const GOLDEN: &str = include_str!("../../golden/applications/sealed.txt");
const GOLDEN_PLAINTEXT: &[u8] = b"correct horse battery staple";
const GOLDEN_RANDOM: FixedRandom = FixedRandom(0x0706_0504_0302_0100);

fn keys(text: &str) -> MasterKeys {
    text.parse().unwrap()
}

fn place() -> Binding {
    Binding::secret("acme", "ep-aaaaaaaaaaaaaaaa", "sec-0000000000000001")
}

fn golden() -> Sealed {
    Sealed::from(GOLDEN.trim_end().to_owned())
}

/// A change of the format would lose every stored secret.
#[test]
fn the_golden_text_is_sealed_and_opened_byte_for_byte() {
    let keys = keys(FIRST);
    assert_eq!(keys.sealing_key_id().to_string(), FIRST_ID);
    let sealed = keys.seal(GOLDEN_PLAINTEXT, &place(), &GOLDEN_RANDOM).unwrap();
    assert_eq!(sealed.as_str(), golden().as_str());
    assert_eq!(keys.open(&golden(), &place()).unwrap().as_bytes(), GOLDEN_PLAINTEXT);
    assert_eq!(serde_json::to_string(&sealed).unwrap(), format!("\"{}\"", sealed.as_str()));
}

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let (first, both, swapped) =
        (keys(FIRST), keys(&format!("{FIRST} {OTHER}")), keys(&format!("\t{OTHER},{FIRST}\n")));
    for (sealing, id) in [(&first, FIRST_ID), (&both, FIRST_ID), (&swapped, OTHER_ID)] {
        let sealed = sealing.seal(b"x", &place(), &SystemRandom).unwrap();
        assert_eq!(sealed.key_id().map(|id| id.to_string()).as_deref(), Some(id));
        for opening in [&both, &swapped] {
            assert_eq!(opening.open(&sealed, &place()).unwrap().as_bytes(), b"x");
        }
    }
    assert!(both.holds(swapped.sealing_key_id()) && !first.holds(swapped.sealing_key_id()));
}

#[test]
fn an_unknown_key_is_named_by_its_id() {
    let sealed = keys(OTHER).seal(b"x", &place(), &SystemRandom).unwrap();
    let error = keys(FIRST).open(&sealed, &place()).unwrap_err();
    assert_eq!(error, UnsealError::UnknownKey { key_id: keys(OTHER).sealing_key_id() });
    let text = error.to_string();
    assert!(text.contains(OTHER_ID) && text.contains("add that key"), "{text}");
    assert!(!text.contains(OTHER) && !text.contains(FIRST), "{text}");
}

/// The secret of one tenant cannot be put in another one's place.
#[test]
fn a_text_opens_only_at_its_own_place() {
    let places = [
        place(),
        Binding::secret("acme", "ep-aaaaaaaaaaaaaaaa", "sec-0000000000000002"),
        Binding::secret("acme", "ep-aaaaaaaaaaaaaaab", "sec-0000000000000001"),
        Binding::secret("acm", "ep-aaaaaaaaaaaaaaaa", "sec-0000000000000001"),
        Binding::headers("acme", "ep-aaaaaaaaaaaaaaaa"),
        Binding::answer("acme", "ep-aaaaaaaaaaaaaaaa"),
        Binding::answer("acme", "POST /applications/acme/keys 1"),
    ];
    let keys = keys(FIRST);
    for (index, sealed_for) in places.iter().enumerate() {
        let sealed = keys.seal(b"x", sealed_for, &SystemRandom).unwrap();
        for (other, opened_at) in places.iter().enumerate() {
            let opened = keys.open(&sealed, opened_at);
            assert_eq!(opened.is_ok(), index == other, "{sealed_for:?} at {opened_at:?}");
            let refused = UnsealError::NotAuthentic { key_id: keys.sealing_key_id() };
            assert!(index == other || opened == Err(refused), "{opened:?}");
        }
    }
    assert_eq!(place().as_str(), "acme/ep-aaaaaaaaaaaaaaaa/sec-0000000000000001");
    assert_eq!(places[4].as_str(), "acme/ep-aaaaaaaaaaaaaaaa/headers");
}

#[test]
fn a_text_of_another_form_is_malformed() {
    let (head, body) = GOLDEN.trim_end().split_once('.').unwrap();
    let shortest = URL_SAFE_NO_PAD.encode([0; NONCE_LEN + 16]);
    for text in [
        String::new(),
        ".".to_owned(),
        "sealed".to_owned(),
        body.to_owned(),
        format!(".{body}"),
        format!("{head}."),
        format!("{head}.{body}="),
        format!("{head}.{body}\n"),
        format!("{head}.{body}.{body}"),
        format!(" {head}.{body}"),
        format!("{}.{body}", head.to_uppercase()),
        format!("{}.{body}", &head[1..]),
        format!("{head}0.{body}"),
        format!("é{}.{body}", &head[2..]),
        format!("{head}.{}", &shortest[..shortest.len() - 2]),
    ] {
        let opened = keys(FIRST).open(&Sealed::from(text.clone()), &place());
        assert_eq!(opened, Err(UnsealError::Malformed), "{text}");
    }
    let forged = keys(FIRST).open(&Sealed::from(format!("{head}.{shortest}")), &place());
    assert!(matches!(forged, Err(UnsealError::NotAuthentic { .. })), "{forged:?}");
}

#[test]
fn a_rotation_reseals_what_an_older_key_sealed_and_nothing_else() {
    let both = keys(&format!("{OTHER} {FIRST}"));
    let resealed = both.reseal(&golden(), &place(), &SystemRandom).unwrap();
    assert_eq!(resealed.key_id(), Some(both.sealing_key_id()));
    assert_eq!(keys(OTHER).open(&resealed, &place()).unwrap().as_bytes(), GOLDEN_PLAINTEXT);
    assert_eq!(both.reseal(&resealed, &place(), &SystemRandom), Ok(resealed.clone()));
    let elsewhere = both.reseal(&golden(), &Binding::headers("a", "b"), &SystemRandom);
    assert!(matches!(elsewhere, Err(UnsealError::NotAuthentic { .. })), "{elsewhere:?}");
    let unknown = keys(FIRST).reseal(&resealed, &place(), &SystemRandom);
    assert!(matches!(unknown, Err(UnsealError::UnknownKey { .. })), "{unknown:?}");
}

#[test]
fn every_nonce_is_new() {
    let keys = keys(FIRST);
    let sealed = (0..1000).map(|_| keys.seal(b"x", &place(), &SystemRandom).unwrap());
    assert_eq!(sealed.map(|sealed| sealed.0).collect::<BTreeSet<_>>().len(), 1000);
}

#[test]
fn a_plaintext_has_a_limit() {
    let keys = keys(FIRST);
    for bytes in [0, 1, MAX_PLAINTEXT_BYTES] {
        let sealed = keys.seal(&vec![7; bytes], &place(), &SystemRandom).unwrap();
        assert_eq!(keys.open(&sealed, &place()).unwrap().into_bytes(), vec![7; bytes]);
    }
    let bytes = MAX_PLAINTEXT_BYTES + 1;
    let refused = keys.seal(&vec![7; bytes], &place(), &SystemRandom);
    assert_eq!(refused, Err(PlaintextTooLarge { bytes }));
}

#[test]
fn a_list_that_is_not_of_keys_is_refused_without_quoting_it() {
    let short = STANDARD.encode([7; 31]);
    let long = STANDARD.encode([7; 33]);
    let hex = "0f".repeat(32);
    let eleven = (0..=MAX_MASTER_KEYS as u8).map(|n| STANDARD.encode([n; 32])).collect::<Vec<_>>();
    assert!(eleven[1..].join(" ").parse::<MasterKeys>().is_ok());
    for (text, error) in [
        (String::new(), InvalidMasterKeys::Missing),
        (" ,\n".to_owned(), InvalidMasterKeys::Missing),
        (eleven.join(","), InvalidMasterKeys::TooMany),
        (format!("\"{FIRST}\""), InvalidMasterKeys::Quoted { position: 1 }),
        (format!("{FIRST} '{OTHER}'"), InvalidMasterKeys::Quoted { position: 2 }),
        ("hunter2!".to_owned(), InvalidMasterKeys::NotBase64 { position: 1 }),
        (FIRST.trim_end_matches('=').to_owned(), InvalidMasterKeys::NotBase64 { position: 1 }),
        (FIRST.replace('A', "-"), InvalidMasterKeys::NotBase64 { position: 1 }),
        ("ssm:/posthaste/master".to_owned(), InvalidMasterKeys::NotBase64 { position: 1 }),
        (short, InvalidMasterKeys::WrongLength { position: 1, bytes: 31 }),
        (format!("{FIRST},{long}"), InvalidMasterKeys::WrongLength { position: 2, bytes: 33 }),
        (hex, InvalidMasterKeys::WrongLength { position: 1, bytes: 48 }),
        (format!("{FIRST} {OTHER} {FIRST}"), InvalidMasterKeys::Repeated { position: 3 }),
    ] {
        assert_eq!(text.parse::<MasterKeys>().unwrap_err(), error, "{text}");
        let shown = error.to_string();
        assert!(text.len() < 8 || !shown.contains(&text), "{shown}");
    }
}

#[test]
fn a_generated_key_is_a_key() {
    let (one, two) = (generate_master_key(&SystemRandom), generate_master_key(&SystemRandom));
    assert_ne!(one, two);
    assert_ne!(keys(&one).sealing_key_id(), keys(&two).sealing_key_id());
    assert_eq!(keys(&format!("{one} {two}")).all().count(), 2);
}

#[test]
fn debug_shows_ids_and_no_secret() {
    let keys = keys(&format!("{FIRST} {OTHER}"));
    assert_eq!(format!("{keys:?}"), format!("MasterKeys[{FIRST_ID}, {OTHER_ID}]"));
    assert_eq!(format!("{:?}", golden()), format!("Sealed(Some({FIRST_ID}))"));
    let plaintext = keys.open(&golden(), &place()).unwrap();
    assert_eq!(format!("{plaintext:?}"), "Plaintext(..)");
}

/// Whatever is sealed opens again, and no change of a character leaves it valid.
#[test]
fn what_was_sealed_opens_and_what_was_changed_does_not() {
    let keys = keys(&format!("{FIRST} {OTHER}"));
    let value = proptest::collection::vec(any::<u8>(), 0..200);
    let (index, character) = (any::<prop::sample::Index>(), any::<char>());
    proptest!(|(value in value, random: u64, index in index, character in character, id in ".*")| {
        let place = Binding::answer("acme", id);
        let sealed = keys.seal(&value, &place, &FixedRandom(random)).unwrap();
        prop_assert_eq!(keys.open(&sealed, &place).unwrap().into_bytes(), value);
        prop_assert_eq!(sealed.key_id(), Some(keys.sealing_key_id()));
        let mut changed: Vec<char> = sealed.as_str().chars().collect();
        let index = index.index(changed.len());
        changed[index] = character;
        let changed = Sealed::from(String::from_iter(changed));
        prop_assert_eq!(keys.open(&changed, &place).is_ok(), changed == sealed);
        prop_assert!(keys.open(&sealed, &Binding::answer("other", "x")).is_err());
    });
}

/// A stored text may be anything.
#[test]
fn no_text_makes_opening_panic() {
    let keys = keys(FIRST);
    let text = prop_oneof![".*", "[0-9a-f]{8}\\.[A-Za-z0-9_-]{0,100}", "630dcd29\\..*"];
    proptest!(|(text in text)| {
        let sealed = Sealed::from(text);
        prop_assert!(keys.open(&sealed, &place()).is_err());
        prop_assert!(keys.reseal(&sealed, &place(), &SystemRandom).is_err()
            || sealed.key_id() == Some(keys.sealing_key_id()));
    });
}
