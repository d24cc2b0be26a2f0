use proptest::prelude::*;

use super::*;
use crate::random::{FixedRandom, SystemRandom};

const GOLDEN: &str = include_str!("../../../golden/applications/key.json");
const GOLDEN_EXPIRING: &str = include_str!("../../../golden/applications/key_expiring.json");
const GOLDEN_KEY: &str =
    "pha.acme.key-0706050403020100.AAECAwQFBgcAAQIDBAUGBwABAgMEBQYHAAECAwQFBgc";
const GOLDEN_RANDOM: FixedRandom = FixedRandom(0x0706_0504_0302_0100);
const NOW: Timestamp = Timestamp::from_millis(4_000_000_000_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

fn scopes(names: &[&str]) -> Scopes {
    Scopes::parse(names).unwrap()
}

fn issue(random: &dyn Random, expires_at: Option<Timestamp>) -> (StoredKey, ApplicationKey) {
    let name = "billing – é".parse().unwrap();
    StoredKey::issue("acme", name, scopes(&["manage", "publish"]), expires_at, NOW, random).unwrap()
}

fn presented(key: &ApplicationKey) -> PresentedKey {
    PresentedKey::parse(key.reveal().as_bytes()).unwrap()
}

/// The hash is that of `sha256sum`.
#[test]
fn the_golden_keys_are_written_and_read_byte_for_byte() {
    let (stored, key) = issue(&GOLDEN_RANDOM, None);
    let (expiring, same) = issue(&GOLDEN_RANDOM, Some(at(86_400_000)));
    assert_eq!((key.reveal(), same.reveal()), (GOLDEN_KEY, GOLDEN_KEY));
    for (stored, golden) in [(stored, GOLDEN), (expiring, GOLDEN_EXPIRING)] {
        assert_eq!(format!("{}\n", serde_json::to_string(&stored).unwrap()), golden);
        let read: StoredKey = serde_json::from_str(golden).unwrap();
        assert_eq!(read, stored);
        assert_eq!(presented(&key).check(std::slice::from_ref(&read), NOW), KeyCheck::Valid(&read));
    }
}

#[test]
fn a_key_is_recognised_by_its_application_id_and_secret() {
    let (first, first_key) = issue(&SystemRandom, None);
    let (second, second_key) = issue(&SystemRandom, None);
    let keys = [first, second];
    for (key, stored) in [(&first_key, &keys[0]), (&second_key, &keys[1])] {
        let presented = presented(key);
        assert_eq!((presented.application(), presented.id()), ("acme", stored.id));
        assert_eq!(presented.check(&keys, NOW), KeyCheck::Valid(stored));
    }
    assert_eq!(presented(&first_key).check(&keys[1..], NOW), KeyCheck::Unknown, "revoked");
    assert_eq!(presented(&first_key).check(&[], NOW), KeyCheck::Unknown);
    // The secret of one key with the id of another, and with another application.
    let id = keys[1].id.to_string();
    for forged in [
        first_key.reveal().replace(&keys[0].id.to_string(), &id),
        first_key.reveal().replace("acme", "acme2"),
    ] {
        let forged = PresentedKey::parse(forged.as_bytes()).unwrap();
        assert_eq!(forged.check(&keys, NOW), KeyCheck::Unknown);
    }
}

/// A reader of the store cannot call the API with what is stored.
#[test]
fn the_stored_hash_is_not_a_key() {
    let (stored, key) = issue(&SystemRandom, None);
    let json = serde_json::to_string(&stored).unwrap();
    let secret = key.reveal().rsplit('.').next().unwrap();
    assert!(!json.contains(secret), "{json}");
    let hash = URL_SAFE_NO_PAD.encode(stored.sha256.to_bytes());
    let forged = format!("pha.acme.{}.{hash}", stored.id);
    let forged = PresentedKey::parse(forged.as_bytes()).unwrap();
    assert_eq!(forged.check(&[stored], NOW), KeyCheck::Unknown);
}

#[test]
fn a_key_is_valid_until_it_expires() {
    let (stored, key) = issue(&SystemRandom, Some(at(10)));
    let keys = [stored];
    for (millis, valid) in [(0, true), (9, true), (10, false), (11, false)] {
        let check = presented(&key).check(&keys, at(millis));
        assert_eq!(check == KeyCheck::Valid(&keys[0]), valid, "{millis}: {check:?}");
        assert_eq!(check == KeyCheck::Expired(&keys[0]), !valid, "{millis}: {check:?}");
    }
    for past in [at(-1), NOW] {
        let (name, all) = ("a".parse().unwrap(), scopes(&["read"]));
        let refused = StoredKey::issue("acme", name, all, Some(past), NOW, &SystemRandom);
        assert_eq!(refused.unwrap_err(), AlreadyExpired);
    }
}

#[test]
fn a_text_of_another_form_is_no_key() {
    let (head, secret) = GOLDEN_KEY.rsplit_once('.').unwrap();
    let id = "key-0706050403020100";
    let long = "a".repeat(65);
    for text in [
        "",
        "pha.",
        "pha...",
        head,
        secret,
        "correct-horse",
        &format!("{head}."),
        &format!("{GOLDEN_KEY}."),
        &format!("{GOLDEN_KEY}.a"),
        &format!("{GOLDEN_KEY}="),
        &format!(" {GOLDEN_KEY}"),
        &format!("PHA{}", &GOLDEN_KEY[3..]),
        &format!("pha..{id}.{secret}"),
        &format!("pha.{long}.{id}.{secret}"),
        &format!("pha.a/b.{id}.{secret}"),
        &format!("pha.é.{id}.{secret}"),
        &format!("pha.acme.{}.{secret}", &id[4..]),
        &format!("pha.acme.key-070605040302010G.{secret}"),
        &format!("pha.acme.{id}.{}", &secret[1..]),
        &format!("pha.acme.{id}.{secret}A"),
        &format!("pha.acme.{id}.{}!", &secret[1..]),
        // Another spelling of the same 32 bytes.
        &format!("pha.acme.{id}.{}d", &secret[..secret.len() - 1]),
    ] {
        assert_eq!(PresentedKey::parse(text.as_bytes()), Err(InvalidApplicationKey), "{text}");
    }
    assert_eq!(PresentedKey::parse(b"pha.\xff"), Err(InvalidApplicationKey));
    let longest = format!("pha.{}.{id}.{secret}", "a".repeat(64));
    assert_eq!(longest.len(), 133);
    assert!(PresentedKey::parse(longest.as_bytes()).is_ok());
}

#[test]
fn manage_includes_read_and_nothing_else_is_included() {
    for (names, included) in [
        (&["publish"][..], &[Scope::Publish][..]),
        (&["read"], &[Scope::Read]),
        (&["manage"], &[Scope::Read, Scope::Manage]),
        (&["publish", "read"], &[Scope::Publish, Scope::Read]),
        (&["manage", "publish"], &[Scope::Publish, Scope::Read, Scope::Manage]),
        (&["manage", "read", "manage"], &[Scope::Read, Scope::Manage]),
    ] {
        let scopes = scopes(names);
        for scope in Scope::ALL {
            assert_eq!(scopes.include(scope), included.contains(&scope), "{names:?} {scope}");
        }
    }
}

#[test]
fn scopes_are_named_once_and_in_one_order() {
    let of = scopes(&["manage", "publish", "manage"]);
    assert_eq!(of.iter().collect::<Vec<_>>(), [Scope::Publish, Scope::Manage]);
    assert_eq!(serde_json::to_string(&of).unwrap(), r#"["publish","manage"]"#);
    assert_eq!(Scopes::parse::<&str>(&[]), Err(InvalidScopes::Empty));
    for (names, position) in [(["read", "write"], 2), (["Read", "read"], 1), (["", "read"], 1)] {
        assert_eq!(Scopes::parse(&names), Err(InvalidScopes::Unknown { position }));
    }
    for stored in ["[]", r#"["write"]"#, r#""read""#] {
        assert!(serde_json::from_str::<Scopes>(stored).is_err(), "{stored}");
    }
}

#[test]
fn a_name_is_short_and_printable() {
    for good in ["a", " ", "Müller & Söhne", &"é".repeat(64)] {
        let name: KeyName = good.parse().unwrap();
        assert_eq!(name.as_str(), good);
    }
    for bad in ["", "a\n", "\u{7f}", "\u{85}", &"é".repeat(65)] {
        assert_eq!(bad.parse::<KeyName>(), Err(InvalidKeyName), "{bad:?}");
        let json = serde_json::to_string(bad).unwrap();
        assert!(serde_json::from_str::<KeyName>(&json).is_err(), "{json}");
    }
}

#[test]
fn a_stored_hash_has_64_digits_and_an_error_quotes_none() {
    for hash in ["", "hunter2", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
        let json = GOLDEN.replace(&GOLDEN[golden_hash()], hash);
        let error = serde_json::from_str::<StoredKey>(&json).unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits") && !error.contains("hunter2"), "{error}");
    }
}

fn golden_hash() -> std::ops::Range<usize> {
    let start = GOLDEN.find("sha256\":\"").unwrap() + "sha256\":\"".len();
    start..start + 64
}

#[test]
fn debug_shows_no_key_and_no_hash() {
    let (stored, key) = issue(&GOLDEN_RANDOM, None);
    assert_eq!(format!("{key:?}"), "ApplicationKey(..)");
    for shown in [format!("{stored:?}"), format!("{:?}", presented(&key))] {
        assert!(shown.contains("key-0706050403020100"), "{shown}");
        assert!(!shown.contains("AAECAw"), "{shown}");
        assert!(!shown.contains(&GOLDEN[golden_hash()][..8]), "{shown}");
    }
}

#[test]
fn every_issued_key_is_valid_and_no_changed_one() {
    let application = "[A-Za-z0-9_-]{1,64}";
    let (index, character) = (any::<prop::sample::Index>(), any::<char>());
    proptest!(|(application in application, index in index, character in character)| {
        let name = "a".parse().unwrap();
        let all = scopes(&["read"]);
        let issued = StoredKey::issue(&application, name, all, None, NOW, &SystemRandom);
        let (stored, key) = issued.unwrap();
        let keys = [stored];
        let presented = presented(&key);
        prop_assert_eq!(presented.application(), &application);
        prop_assert_eq!(presented.check(&keys, NOW), KeyCheck::Valid(&keys[0]));
        let mut changed: Vec<char> = key.reveal().chars().collect();
        let index = index.index(changed.len());
        changed[index] = character;
        let changed = String::from_iter(changed);
        if let Ok(other) = PresentedKey::parse(changed.as_bytes()) {
            let same = changed == key.reveal();
            prop_assert_eq!(other.check(&keys, NOW) == KeyCheck::Valid(&keys[0]), same);
        }
    });
}

#[test]
fn no_bytes_make_parsing_panic() {
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "pha\\..*")| {
        let _ = PresentedKey::parse(&bytes);
        prop_assert!(PresentedKey::parse(text.as_bytes()).is_err());
    });
}
