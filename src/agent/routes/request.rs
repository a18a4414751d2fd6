//! What a request must bring before the service hears of it, and what becomes of one that does not.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use uuid::Uuid;

use crate::agent::routes::{Conversation, Failed, Stage};
use crate::ids::ReplicaId;
use crate::report::{Code, Fault, chain};
use crate::wire::REQUEST_MAX;

/// How long a request's body may take; the largest needs one second at 10 Mbit/s.
const BODY: Duration = Duration::from_secs(10);
/// How much of what was wrong is repeated in the answer.
const SHOWN: usize = 200;

/// A JSON body of bounded size and time.
pub(crate) struct Body<T>(pub(crate) T);

/// The proof that a leader has said hello on this connection.
pub(crate) struct Led(pub(crate) Arc<Conversation>);

/// The replica in the path.
pub(crate) struct Replica(pub(crate) ReplicaId);

/// The query of a poll.
pub(crate) struct Poll {
    pub(crate) session: Option<Uuid>,
    pub(crate) after: u64,
}

#[derive(Deserialize)]
struct RawPoll {
    #[serde(default)]
    session: String,
    #[serde(default)]
    after: u64,
}

fn invalid(message: impl Into<String>) -> Failed {
    Failed(Fault::new(Code::InvalidRequest, message))
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failed> {
        let body = axum::body::to_bytes(request.into_body(), REQUEST_MAX);
        let bytes = match timeout(BODY, body).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                let why = chain(&error);
                let message = format!(
                    "the request's body cannot be read (it may hold {REQUEST_MAX} bytes): {why}"
                );
                return Err(invalid(message));
            }
            Err(_) => {
                let message = format!("the request's body did not arrive in {BODY:?}");
                return Err(invalid(message));
            }
        };
        // The parser's message can repeat a value, and a value can be a signature; where it stands is enough.
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            let kind = match error.classify() {
                serde_json::error::Category::Data => "has a wrong or missing field",
                serde_json::error::Category::Io
                | serde_json::error::Category::Syntax
                | serde_json::error::Category::Eof => "is not JSON",
            };
            let (line, column) = (error.line(), error.column());
            invalid(format!(
                "the request's body {kind} at line {line}, column {column}"
            ))
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Led {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        let Some(conversation) = parts.extensions.get::<Arc<Conversation>>() else {
            let message = "the connection was not prepared";
            return Err(Failed(Fault::new(Code::Internal, message)));
        };
        let conversation = conversation.clone();
        let led = matches!(*conversation.stage.borrow(), Stage::Led { .. });
        if led {
            Ok(Led(conversation))
        } else {
            Err(invalid("a connection opens with the hello of a leader"))
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Replica {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(replica)) => Ok(Replica(replica)),
            Err(rejection) => Err(invalid(shown(&PathRejection::body_text(&rejection)))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Poll {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let Query(RawPoll { session, after }) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| invalid(shown(&QueryRejection::body_text(&rejection))))?;
        let session = match session.as_str() {
            "" => None,
            text => {
                let parsed = text.parse();
                Some(parsed.map_err(|_| invalid("the session of a poll is not a UUID"))?)
            }
        };
        Ok(Poll { session, after })
    }
}

/// A path or verb that the wire does not have.
pub(crate) async fn unknown(method: Method, uri: Uri) -> Failed {
    let path = shown(uri.path());
    invalid(format!("the agent has no `{method} {path}`"))
}

/// Turns a panic below into an answer.
pub(crate) async fn catch_panic(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            let message = "the request panicked; the agent's log says where";
            Failed(Fault::new(Code::Internal, message)).into_response()
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
