//! The agent's side of the wire: requests in, faults out, and whoever does the work behind [`Service`].
//!
//! A connection opens with hello; before it, and after one that named no leader or no common version, everything else is
//! refused. A command is done to its end even if whoever asked goes away or loses patience: the same operation id asks
//! for its outcome. A panic is an answer (`Internal`), never the end of the connection.

mod request;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agent::routes::request::{Body, Led, Poll, Replica};
use crate::ids::ReplicaId;
use crate::report::{Code, Fault};
use crate::wire::{
    self, Answer, Command, Hello, HelloReply, HostCommand, Observations, Relationship, Remove,
    Resynchronize, Settings, Start, Synchronize, Versions,
};

/// How long whoever asked waits for a command; the controller gives up a little later.
const COMMAND: Duration = Duration::from_secs(25);
/// How long the service may overrun the deadline of a poll.
const POLL_MARGIN: Duration = Duration::from_secs(3);
/// Commands at once, those among them that nobody waits for any more.
const COMMANDS: usize = 16;

/// What the wire's requests ask of the host.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Who this is. `version` is the newest that both sides speak.
    fn hello(&self, hello: &Hello, version: u32) -> HelloReply;

    /// What is newer than `after` of `session`, or everything if that is not the present one. Waits for something until
    /// `deadline`. Its future may be dropped at any time.
    ///
    /// # Errors
    /// If the host cannot say what it observes.
    async fn observations(
        &self,
        session: Option<Uuid>,
        after: u64,
        deadline: Instant,
    ) -> Result<Observations, Fault>;

    /// # Errors
    /// What is in the way.
    async fn settings(&self, command: HostCommand<Settings>) -> Result<Answer, Fault>;

    /// # Errors
    /// What is in the way; `GenerationStale` if somebody newer has commanded.
    async fn create_relationship(&self, command: Command<Relationship>) -> Result<Answer, Fault>;

    /// # Errors
    /// What is in the way; `NotReplicating` if there is no such relationship.
    async fn start(&self, replica: ReplicaId, command: Command<Start>) -> Result<Answer, Fault>;

    /// # Errors
    /// What is in the way; `NotReplicating` if nothing is replicated.
    async fn synchronize(
        &self,
        replica: ReplicaId,
        command: Command<Synchronize>,
    ) -> Result<Answer, Fault>;

    /// # Errors
    /// What is in the way; `NotReplicating` if there is no such relationship.
    async fn resynchronize(
        &self,
        replica: ReplicaId,
        command: Command<Resynchronize>,
    ) -> Result<Answer, Fault>;

    /// # Errors
    /// What is in the way. A relationship that is not there any more is success.
    async fn remove(&self, replica: ReplicaId, command: Command<Remove>) -> Result<Answer, Fault>;
}

/// What one connection has come to, shared between the routes and whoever holds the connection.
pub(crate) struct Conversation {
    stage: watch::Sender<Stage>,
    /// Cancelled when the connection is about to close: a poll does not hold it up.
    pub(crate) closing: CancellationToken,
}

/// What the controller's hello has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has not been said.
    Silent,
    /// This is the leader, of this release.
    Led { release: String },
    /// This replica of the controller does not act.
    NotLeader,
    /// No version is common to both.
    Incompatible { theirs: Versions },
}

/// A fault on its way out.
pub(crate) struct Failed(pub(crate) Fault);

#[derive(Clone)]
struct Routes {
    service: Arc<dyn Service>,
    commands: Arc<Semaphore>,
}

type Reply<T> = Result<Json<T>, Failed>;

/// The wire's paths over `service`. Every connection adds its `Conversation` as an extension.
pub fn router(service: Arc<dyn Service>) -> Router {
    let routes = Routes {
        service,
        commands: Arc::new(Semaphore::new(COMMANDS)),
    };
    Router::new()
        .route("/v1/hello", post(hello))
        .route("/v1/observations", get(observations))
        .route("/v1/settings", put(settings))
        .route("/v1/replications/{replica}", put(create_relationship))
        .route("/v1/replications/{replica}/start", post(start))
        .route("/v1/replications/{replica}/synchronize", post(synchronize))
        .route(
            "/v1/replications/{replica}/resynchronize",
            post(resynchronize),
        )
        .route("/v1/replications/{replica}/remove", post(remove))
        .fallback(request::unknown)
        .method_not_allowed_fallback(request::unknown)
        .layer(axum::middleware::from_fn(request::catch_panic))
        .with_state(routes)
}

impl Conversation {
    pub(crate) fn new() -> Self {
        let (stage, _) = watch::channel(Stage::Silent);
        Conversation {
            stage,
            closing: CancellationToken::new(),
        }
    }

    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(wire::status_of(self.0.code))
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

async fn hello(
    State(routes): State<Routes>,
    Extension(conversation): Extension<Arc<Conversation>>,
    Body(hello): Body<Hello>,
) -> Reply<HelloReply> {
    let Some(version) = Versions::OURS.common(hello.versions) else {
        let theirs = hello.versions;
        conversation
            .stage
            .send_replace(Stage::Incompatible { theirs });
        return Err(Failed(incompatible(theirs)));
    };
    let reply = routes.service.hello(&hello, version);
    conversation.stage.send_replace(if hello.leader {
        Stage::Led {
            release: hello.release,
        }
    } else {
        Stage::NotLeader
    });
    Ok(Json(reply))
}

/// What both sides say when their versions do not meet.
pub(crate) fn incompatible(theirs: Versions) -> Fault {
    let ours = Versions::OURS;
    let message = format!(
        "the agent speaks versions {} to {}, the controller {} to {}",
        ours.oldest, ours.newest, theirs.oldest, theirs.newest
    );
    Fault::new(Code::AgentIncompatible, message)
}

async fn observations(
    State(routes): State<Routes>,
    Led(conversation): Led,
    poll: Poll,
) -> Reply<Observations> {
    let deadline = Instant::now() + wire::POLL;
    let answer = routes
        .service
        .observations(poll.session, poll.after, deadline);
    tokio::select! {
        answer = timeout_at(deadline + POLL_MARGIN, answer) => match answer {
            Ok(answer) => answer.map(Json).map_err(Failed),
            Err(_) => Err(Failed(Fault::new(
                Code::HostTimeout,
                format!("the host did not say in {:?} what it observes", wire::POLL + POLL_MARGIN),
            ))),
        },
        () = conversation.closing.cancelled() => Err(Failed(Fault::new(
            Code::AgentUnreachable,
            "the agent is closing the connection",
        ))),
    }
}

async fn settings(
    State(routes): State<Routes>,
    _: Led,
    Body(command): Body<HostCommand<Settings>>,
) -> Reply<Answer> {
    let service = routes.service.clone();
    let work = async move { service.settings(command).await };
    routes.perform("settings", work).await
}

async fn create_relationship(
    State(routes): State<Routes>,
    _: Led,
    Replica(replica): Replica,
    Body(command): Body<Command<Relationship>>,
) -> Reply<Answer> {
    if replica != command.body.replica {
        let message = format!(
            "the relationship of replica {} was sent to {replica}",
            command.body.replica
        );
        return Err(Failed(Fault::new(Code::InvalidRequest, message)));
    }
    let service = routes.service.clone();
    let work = async move { service.create_relationship(command).await };
    routes.perform("create relationship", work).await
}

async fn start(
    State(routes): State<Routes>,
    _: Led,
    Replica(replica): Replica,
    Body(command): Body<Command<Start>>,
) -> Reply<Answer> {
    let service = routes.service.clone();
    let work = async move { service.start(replica, command).await };
    routes.perform("start", work).await
}

async fn synchronize(
    State(routes): State<Routes>,
    _: Led,
    Replica(replica): Replica,
    Body(command): Body<Command<Synchronize>>,
) -> Reply<Answer> {
    let service = routes.service.clone();
    let work = async move { service.synchronize(replica, command).await };
    routes.perform("synchronize", work).await
}

async fn resynchronize(
    State(routes): State<Routes>,
    _: Led,
    Replica(replica): Replica,
    Body(command): Body<Command<Resynchronize>>,
) -> Reply<Answer> {
    let service = routes.service.clone();
    let work = async move { service.resynchronize(replica, command).await };
    routes.perform("resynchronize", work).await
}

async fn remove(
    State(routes): State<Routes>,
    _: Led,
    Replica(replica): Replica,
    Body(command): Body<Command<Remove>>,
) -> Reply<Answer> {
    let service = routes.service.clone();
    let work = async move { service.remove(replica, command).await };
    routes.perform("remove", work).await
}

impl Routes {
    /// Does a command to its end, and waits for it within reason.
    async fn perform(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<Answer, Fault>> + Send + 'static,
    ) -> Reply<Answer> {
        let failed = |code, message: String| Failed(Fault::new(code, message));
        let Ok(place) = self.commands.clone().try_acquire_owned() else {
            let message = format!("{COMMANDS} commands are under way; `{name}` was not begun");
            return Err(failed(Code::HostBusy, message));
        };
        let task = tokio::spawn(async move {
            let _place = place;
            work.await
        });
        match timeout(COMMAND, task).await {
            Ok(Ok(result)) => result.map(Json).map_err(Failed),
            Ok(Err(_)) => {
                let message = format!("`{name}` panicked; the agent's log says where");
                Err(failed(Code::Internal, message))
            }
            Err(_) => {
                let message = format!("`{name}` goes on; it has not ended in {COMMAND:?}");
                Err(failed(Code::HostTimeout, message))
            }
        }
    }
}

#[cfg(test)]
mod tests;
