//! `MASTER_KEY`.

use super::*;

/// The bytes 0 to 31, and 32 zeros.
const KEYS: [&str; 2] = [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
];

#[test]
fn the_first_master_key_seals_and_none_is_shown() {
    assert!(good(&[]).master_keys.is_none() && good(&[("MASTER_KEY", " ")]).master_keys.is_none());
    for (value, ids) in [
        (KEYS[0].to_owned(), "MasterKeys[630dcd29]"),
        (KEYS.join(" "), "MasterKeys[630dcd29, 66687aad]"),
        (format!("{}, {}", KEYS[1], KEYS[0]), "MasterKeys[66687aad, 630dcd29]"),
    ] {
        let config = good(&[("MASTER_KEY", &value)]);
        assert_eq!(format!("{:?}", config.master_keys.as_ref().unwrap()), ids);
        let shown = format!("{config:?}");
        assert!(!KEYS.iter().any(|key| shown.contains(key)), "a key is never shown");
    }
}

/// The error says what to set, and quotes nothing.
#[test]
fn a_list_that_is_not_of_master_keys_stops_the_start() {
    for (value, says) in [
        ("hunter2!", "key number 1 is not padded standard base64"),
        (&*format!("{} hunter2!", KEYS[0]), "key number 2 is not padded standard base64"),
        ("aHVudGVyMg==", "key number 1 has 7 bytes, but must have 32"),
        (&*format!("\"{}\"", KEYS[0]), "key number 1 is in quotes; remove them"),
        (&*format!("{0},{0}", KEYS[0]), "key number 2 has the same id as an earlier key"),
        (",", "holds no key"),
    ] {
        bad("MASTER_KEY", value, says);
        let text = read(&[("MASTER_KEY", value)]).unwrap_err().to_string();
        assert!(text.contains("openssl rand -base64 32"), "{text}");
        assert!(value.len() < 2 || !text.contains(value), "{text}");
        assert!(!text.contains("hunter2") && !text.contains(KEYS[0]), "{text}");
    }
}
