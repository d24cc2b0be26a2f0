//! Where a list goes on, as an opaque text: a place in an order, with a schema version and the
//! list's name, so that an old, a newer or another list's cursor is told from a good one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use shared::{id::TaskId, model::SCHEMA, store::DeadLetterPosition};

use crate::problem::{Kind, Problem};

/// The longest text that is looked at.
pub(crate) const MAX_CURSOR_BYTES: usize = 512;

/// A place in a list.
pub(crate) trait Position: Serialize + DeserializeOwned {
    /// The list's name within its cursors.
    const LIST: &'static str;
}

impl Position for TaskId {
    const LIST: &'static str = "w";
}

impl Position for DeadLetterPosition {
    const LIST: &'static str = "d";
}

#[derive(Serialize, Deserialize)]
struct Stored<P> {
    v: u16,
    list: String,
    after: P,
    /// The number of the page that begins there, for people.
    page: usize,
}

#[derive(Deserialize)]
struct Versioned {
    v: u16,
}

/// The text for the page number `page`, which begins after this place.
pub(crate) fn encode<P: Position>(after: P, page: usize) -> String {
    let stored = Stored { v: SCHEMA, list: P::LIST.to_owned(), after, page };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&stored).unwrap_or_default())
}

/// The place and the page's number; a 400 that names `cursor` if it is not one of this list's.
pub(crate) fn decode<P: Position>(text: &str) -> Result<(P, usize), Problem> {
    let refused = |message: &'static str| Problem::about(Kind::BadRequest, "cursor", message);
    let foreign =
        || refused("must be the next_cursor of an earlier answer of this list, as it was");
    if text.len() > MAX_CURSOR_BYTES {
        return Err(foreign());
    }
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| foreign())?;
    let Versioned { v } = serde_json::from_slice(&json).map_err(|_| foreign())?;
    if v > SCHEMA {
        return Err(refused("is of a newer version of Posthaste; begin again without it"));
    }
    let stored: Stored<P> = serde_json::from_slice(&json).map_err(|_| foreign())?;
    if stored.list == P::LIST { Ok((stored.after, stored.page)) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {
    use shared::clock::Timestamp;

    use super::*;

    fn task() -> TaskId {
        TaskId::mint(Timestamp::from_millis(1_700_000_000_000), [7; 10])
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        assert_eq!(decode::<TaskId>(&encode(task(), 3)).unwrap(), (task(), 3));
        let position = DeadLetterPosition { archived_at: Timestamp::from_millis(5), task: task() };
        assert_eq!(decode::<DeadLetterPosition>(&encode(position, 2)).unwrap(), (position, 2));
    }

    #[test]
    fn another_lists_a_newer_and_a_broken_one_are_refused() {
        let newer = URL_SAFE_NO_PAD.encode(format!(r#"{{"v":{},"other":1}}"#, SCHEMA + 1));
        let position = DeadLetterPosition { archived_at: Timestamp::from_millis(5), task: task() };
        let mut cut = encode(task(), 1);
        cut.truncate(20);
        for bad in ["x", "%%", "e30", &newer, &encode(position, 1), &cut, &"A".repeat(10_000)] {
            let problem = decode::<TaskId>(bad).unwrap_err();
            assert_eq!(problem.kind(), Kind::BadRequest, "{bad}");
            assert!(serde_json::to_string(&problem).unwrap().contains(r#""field":"cursor""#));
        }
    }
}
