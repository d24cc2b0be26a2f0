//! Cursors: opaque texts for a position in a list. A cursor contains a schema version and the name
//! of its list, so that the cursor of another list or of a newer version is recognized.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use shared::{
    applications::id::{ApplicationId, EndpointId},
    clock::Timestamp,
    id::TaskId,
    model::SCHEMA,
    store::{DeadLetterPosition, ListPosition},
};

use crate::{
    input::query::Query,
    limits::MAX_CURSOR_BYTES,
    problem::{Problem, ProblemKind},
};

/// A position in a list.
pub(crate) trait Position: Serialize + DeserializeOwned {
    /// The name of the list within its cursors.
    const LIST: &'static str;
}

impl Position for ListPosition {
    const LIST: &'static str = "w";
}

impl Position for TaskId {
    const LIST: &'static str = "m";
}

/// A position in the list of an application's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DeliveryPosition(pub(crate) ListPosition);

impl Position for DeliveryPosition {
    const LIST: &'static str = "v";
}

impl Position for DeadLetterPosition {
    const LIST: &'static str = "d";
}

/// A position in the list of applications: after this one.
impl Position for ApplicationId {
    const LIST: &'static str = "a";
}

/// A position in the list of an application's endpoints: after the endpoint with this ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct EndpointPosition {
    pub(crate) created_at: Timestamp,
    pub(crate) endpoint: EndpointId,
}

impl Position for EndpointPosition {
    const LIST: &'static str = "e";
}

#[derive(Serialize, Deserialize)]
struct Encoded<P> {
    v: u16,
    list: String,
    after: P,
    /// The number of the page that starts there. Only people use it.
    page: usize,
}

#[derive(Deserialize)]
struct SchemaVersion {
    v: u16,
}

/// The cursor of the page `page`, which starts after this position.
pub(crate) fn encode<P: Position>(after: P, page: usize) -> String {
    let encoded = Encoded { v: SCHEMA, list: P::LIST.to_owned(), after, page };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&encoded).unwrap_or_default())
}

/// The position of the parameter `cursor`, and the number of the page that starts there. Without a
/// cursor, that is page 1. Checks the rest of the query first, so this is the last step of reading
/// one.
pub(crate) fn read<P: Position>(query: Query<'_>) -> Result<(Option<P>, usize), Problem> {
    let cursor = query.get("cursor").map(str::to_owned);
    query.field_errors.check()?;
    match cursor {
        Some(cursor) => decode(&cursor).map(|(after, page)| (Some(after), page)),
        None => Ok((None, 1)),
    }
}

/// The position and the page's number. If the text is not a cursor of this list, the error is a 400
/// that names `cursor`.
fn decode<P: Position>(text: &str) -> Result<(P, usize), Problem> {
    let refused =
        |message: &'static str| Problem::about(ProblemKind::BadRequest, "cursor", message);
    let foreign =
        || refused("must be an unchanged next_cursor of an earlier response of this list.");
    if text.len() > MAX_CURSOR_BYTES {
        return Err(foreign());
    }
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| foreign())?;
    let SchemaVersion { v } = serde_json::from_slice(&json).map_err(|_| foreign())?;
    if v > SCHEMA {
        return Err(refused(
            "was issued by a newer version of Posthaste. Start again without a cursor.",
        ));
    }
    let encoded: Encoded<P> = serde_json::from_slice(&json).map_err(|_| foreign())?;
    if encoded.list == P::LIST { Ok((encoded.after, encoded.page)) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn task() -> TaskId {
        TaskId::mint(Timestamp::from_millis(1_700_000_000_000), [7; 10])
    }

    fn letter() -> DeadLetterPosition {
        DeadLetterPosition { archived_at: Timestamp::from_millis(5), task: task(), endpoint: None }
    }

    #[test]
    fn a_cursor_round_trips() {
        let first = ListPosition::at(task());
        assert_eq!(decode::<ListPosition>(&encode(first, 3)).unwrap(), (first, 3));
        let delivery = ListPosition { endpoint: "ep-aaaaaaaaaaaaaaaa".parse().ok(), ..first };
        assert_eq!(decode::<ListPosition>(&encode(delivery, 3)).unwrap(), (delivery, 3));
        let position = letter();
        assert_eq!(decode::<DeadLetterPosition>(&encode(position, 2)).unwrap(), (position, 2));
    }

    #[test]
    fn a_foreign_a_newer_and_a_malformed_cursor_are_refused() {
        let newer = URL_SAFE_NO_PAD.encode(format!(r#"{{"v":{},"other":1}}"#, SCHEMA + 1));
        let position = letter();
        let mut cut = encode(ListPosition::at(task()), 1);
        cut.truncate(20);
        for bad in ["x", "%%", "e30", &newer, &encode(position, 1), &cut, &"A".repeat(10_000)] {
            let problem = decode::<ListPosition>(bad).unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::BadRequest, "{bad}");
            assert!(serde_json::to_string(&problem).unwrap().contains(r#""field":"cursor""#));
        }
    }
}
