//! Requests below an application whose response contains a secret. The stored response is sealed
//! under the master key, for this application and this idempotency key.

use axum::response::Response;
use http::StatusCode;
use sha2::{Digest, Sha256};
use shared::{
    applications::{
        application::{Application, MAX_CHANGES_KEPT},
        id::{ApplicationId, ENDPOINT_RANDOM_BYTES},
    },
    id::TaskId,
    sealing::{Binding, Sealed},
};

use super::{Key, KeyState, replay, reserve};
use crate::{app::App, edit::master_keys, problem::Problem, respond};

/// One try of a request that creates an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Try {
    /// With an idempotency key: the task ID that each of its tries has.
    task: Option<TaskId>,
    is_repeated: bool,
}

impl Try {
    /// Whether an earlier try of the same request may have created the object.
    pub(crate) const fn is_repeated(self) -> bool {
        self.is_repeated
    }

    /// The bits of the object's ID. Each try with the same idempotency key has the same ones.
    /// Without a key they are random.
    pub(crate) fn id_bits(self, app: &App) -> [u8; ENDPOINT_RANDOM_BYTES] {
        let mut bits = [0; ENDPOINT_RANDOM_BYTES];
        match self.task {
            Some(task) => {
                let hash = Sha256::new().chain_update("object/").chain_update(task.as_bytes());
                bits.copy_from_slice(&hash.finalize()[..ENDPOINT_RANDOM_BYTES]);
            }
            None => app.context.random.fill(&mut bits),
        }
        bits
    }

    /// Whether an earlier try may have made this change, which the document lists. An application
    /// lists the newest changes only. If all of them are younger than the first try, an older one
    /// may be missing.
    pub(crate) fn may_have_made(self, seen: &Application, change: &str) -> bool {
        let Some(task) = self.task.filter(|_| self.is_repeated) else { return false };
        let is_complete = seen.changes.len() < MAX_CHANGES_KEPT
            || seen.changes.first().is_some_and(|oldest| oldest.at < task.created_at());
        !is_complete || seen.changes.iter().any(|note| note.what == change)
    }
}

/// Runs a request that creates an object, once if it has a key. `run` returns the response's body.
/// The status is 201. Without a master key that is a 503, and nothing is run.
pub(crate) async fn once_sealed(
    app: &App,
    application: &ApplicationId,
    key: Option<Key>,
    run: impl AsyncFnOnce(Try) -> Result<String, Problem>,
) -> Result<Response, Problem> {
    let keys = master_keys(&app.context)?;
    let Some(key) = key else {
        let body = run(Try { task: None, is_repeated: false }).await?;
        return Ok(respond::json_text(StatusCode::CREATED, body));
    };
    let binding = Binding::answer(application, &key.stored);
    let reserved = match reserve(app, &key).await? {
        KeyState::Answered(sealed) => {
            let opened = keys.open(&Sealed::from(sealed), &binding)?;
            let body = String::from_utf8(opened.into_bytes())
                .map_err(|_| Problem::internal().because(NotText))?;
            return Ok(replay(StatusCode::CREATED, body));
        }
        KeyState::Unanswered(reserved) => reserved,
    };
    let tried = Try { task: Some(reserved.task()), is_repeated: reserved.tried_before };
    let body = run(tried).await?;
    // No answer is nearly as large as the limit of a sealed text.
    if let Ok(sealed) = keys.seal(body.as_bytes(), &binding, &*app.context.random) {
        reserved.finish(app, sealed.as_str()).await;
    }
    Ok(respond::json_text(StatusCode::CREATED, body))
}

/// A stored response is not text.
#[derive(Debug, thiserror::Error)]
#[error("the stored response of an idempotency key is not UTF-8")]
struct NotText;
