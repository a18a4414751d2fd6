//! An agent behind one HTTP/2 connection: every call has a deadline, every answer a bound, every host a breaker.
//!
//! Commands are counted: at most [`Limits::commands_at_once`] are under way, the others wait their turn. `hello` and
//! the long poll pass beside both, because they are what the gateway judges a connection by.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::agent_client::Agent;
use crate::agent_client::answer;
use crate::agent_client::breaker::Breaker;
use crate::agent_client::link::Link;
use crate::ids::{HostName, OperationId, ReplicaId};
use crate::report::{Code, Fault, chain};
use crate::wire::{
    self, Answer, Command, Hello, HelloReply, HostCommand, Observations, Relationship, Remove,
    Resynchronize, Settings, Start, Synchronize,
};

pub use crate::agent_client::link::KeepAlive;
pub use answer::LargeAnswers;

/// The longest answer to anything but a poll: an operation id, or a fault.
const ANSWER_MAX: usize = 64 << 10;

/// How long calls may take, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub hello: Duration,
    /// From the request to the whole answer. Waiting for one's turn takes at most as long again.
    pub command: Duration,
    /// From the request to the answer's head (or the whole answer, if it is small).
    pub poll: Duration,
    /// Commands under way to one host. More would only wait for each other at its management service.
    pub commands_at_once: usize,
    pub keep_alive: KeepAlive,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hello: Duration::from_secs(10),
            command: Duration::from_secs(30),
            poll: wire::POLL + Duration::from_secs(10),
            commands_at_once: 4,
            keep_alive: KeepAlive::default(),
        }
    }
}

/// The agent at the other end of a connection.
pub struct HttpAgent {
    host: HostName,
    link: Link,
    limits: Limits,
    large: LargeAnswers,
    commands: Semaphore,
    breaker: Mutex<Breaker>,
}

/// A call that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Ended(String),
    #[error("{0} commands are under way and none has ended in time")]
    Busy(usize),
    #[error("it has not answered several commands in a row and is left alone for a while")]
    LeftAlone,
    #[error("no answer in {0:?}")]
    Silence(Duration),
    #[error("the request could not be delivered or answered")]
    Transport(#[source] hyper::Error),
    #[error(transparent)]
    Answer(#[from] answer::Error),
    #[error("the agent answered operation {got} instead of {asked}")]
    OtherOperation { asked: String, got: String },
    #[error("the agent said no")]
    Said(Fault),
}

/// What is asked, and how long the answer may be on its way.
struct Call {
    method: Method,
    path: String,
    within: Duration,
    max: usize,
}

impl HttpAgent {
    /// Starts HTTP/2 as its client on a connection that `host` has opened.
    ///
    /// # Errors
    /// `AgentUnreachable` if the connection is gone already.
    pub async fn connect<IO>(
        host: HostName,
        io: IO,
        limits: Limits,
        large: LargeAnswers,
    ) -> Result<Self, Fault>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let link = Link::open(io, limits.keep_alive).await.map_err(|error| {
            let message = format!("host {host}: {}", chain(&error));
            Fault::new(Code::AgentUnreachable, message)
        })?;
        Ok(HttpAgent {
            host,
            link,
            limits,
            large,
            commands: Semaphore::new(limits.commands_at_once),
            breaker: Mutex::default(),
        })
    }

    /// Waits for the end of the connection, and says why it came.
    pub async fn ended(&self) -> String {
        self.link.ended().await
    }

    /// Takes no more commands, waits for those under way at most until `patience` has passed, and closes.
    pub async fn close(&self, patience: Duration) {
        let all = u32::try_from(self.limits.commands_at_once).unwrap_or(u32::MAX);
        let _ = timeout(patience, self.commands.acquire_many(all)).await;
        self.commands.close();
        self.link.close().await;
    }

    async fn command<B: Serialize + Sync>(
        &self,
        name: &'static str,
        method: Method,
        path: String,
        operation: &OperationId,
        command: &B,
    ) -> Result<Answer, Fault> {
        self.breaker(|breaker| breaker.admit(now()).map(drop))
            .map_err(|_| self.left_alone(name))?;
        let _turn = self.turn(name).await?;
        self.breaker(|breaker| breaker.admit(now()).map(|next| *breaker = next))
            .map_err(|_| self.left_alone(name))?;
        let call = Call {
            method,
            path,
            within: self.limits.command,
            max: ANSWER_MAX,
        };
        let result = self
            .call(&call, json(command))
            .await
            .and_then(|answer: Answer| match answer.operation {
                ref answered if answered == operation => Ok(answer),
                got => Err(Failure::OtherOperation {
                    asked: operation.to_string(),
                    got: got.to_string(),
                }),
            });
        self.breaker(|breaker| {
            *breaker = match &result {
                Err(failure) if failure.is_silence() => breaker.failed(now()),
                Ok(_) | Err(_) => breaker.answered(),
            };
        });
        result.map_err(|failure| self.fault(name, failure))
    }

    /// Waits until fewer commands are under way.
    async fn turn(&self, name: &'static str) -> Result<SemaphorePermit<'_>, Fault> {
        match timeout(self.limits.command, self.commands.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(self.fault(name, Failure::Ended(self.link.why()))),
            Err(_) => Err(self.fault(name, Failure::Busy(self.limits.commands_at_once))),
        }
    }

    async fn call<T>(&self, call: &Call, body: Bytes) -> Result<T, Failure>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let deadline = Instant::now() + call.within;
        let sender = self.link.sender();
        let mut sender = sender.ok_or_else(|| Failure::Ended(self.link.why()))?;
        let request = Request::builder()
            .method(&call.method)
            // HTTP/2 wants an authority; the connection has decided which host it is.
            .uri(format!("https://agent{}", call.path))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("the paths of the wire are made of ids and numbers");
        let response = timeout_at(deadline, sender.send_request(request))
            .await
            .map_err(|_| Failure::Silence(call.within))?
            .map_err(Failure::Transport)?;
        let status = response.status();
        let max = if status == StatusCode::OK {
            call.max
        } else {
            ANSWER_MAX
        };
        let answer = self.large.read(response.into_body(), max, deadline).await?;
        if status != StatusCode::OK {
            return Err(Failure::Said(answer.fault(status.as_u16())));
        }
        Ok(answer.parse().await?)
    }

    fn breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn left_alone(&self, name: &'static str) -> Fault {
        self.fault(name, Failure::LeftAlone)
    }

    /// A failure as the controller tells it, with the host and what was asked of it.
    fn fault(&self, name: &'static str, failure: Failure) -> Fault {
        match failure {
            Failure::Said(fault) => fault,
            failure => Fault::new(
                failure.code(),
                format!("{name} on host {}: {}", self.host, chain(&failure)),
            ),
        }
    }
}

impl Failure {
    /// Whether the host did not answer, as opposed to an answer that does not please.
    const fn is_silence(&self) -> bool {
        match self {
            Failure::Ended(_)
            | Failure::Busy(_)
            | Failure::LeftAlone
            | Failure::Silence(_)
            | Failure::Transport(_)
            | Failure::Answer(answer::Error::Late | answer::Error::Broken(_)) => true,
            Failure::Answer(answer::Error::TooLong(_) | answer::Error::Meaning(_))
            | Failure::OtherOperation { .. }
            | Failure::Said(_) => false,
        }
    }

    const fn code(&self) -> Code {
        match self {
            Failure::Said(fault) => fault.code,
            silence if silence.is_silence() => Code::AgentUnreachable,
            _ => Code::InvalidRequest,
        }
    }
}

#[async_trait]
impl Agent for HttpAgent {
    async fn hello(&self, hello: &Hello) -> Result<HelloReply, Fault> {
        let call = Call {
            method: Method::POST,
            path: "/v1/hello".to_owned(),
            within: self.limits.hello,
            max: ANSWER_MAX,
        };
        let reply = self.call(&call, json(hello)).await;
        reply.map_err(|failure| self.fault("hello", failure))
    }

    async fn observations(&self, session: Uuid, after: u64) -> Result<Observations, Fault> {
        let call = Call {
            method: Method::GET,
            path: format!("/v1/observations?session={session}&after={after}"),
            within: self.limits.poll,
            max: wire::ANSWER_MAX,
        };
        let observations = self.call(&call, Bytes::new()).await;
        observations.map_err(|failure| self.fault("observations", failure))
    }

    async fn settings(&self, command: &HostCommand<Settings>) -> Result<Answer, Fault> {
        let path = "/v1/settings".to_owned();
        self.command("settings", Method::PUT, path, &command.operation, command)
            .await
    }

    async fn create_relationship(&self, command: &Command<Relationship>) -> Result<Answer, Fault> {
        let path = format!("/v1/replications/{}", command.body.replica);
        self.command(
            "create relationship",
            Method::PUT,
            path,
            &command.operation,
            command,
        )
        .await
    }

    async fn start(&self, replica: &ReplicaId, command: &Command<Start>) -> Result<Answer, Fault> {
        let path = format!("/v1/replications/{replica}/start");
        self.command("start", Method::POST, path, &command.operation, command)
            .await
    }

    async fn synchronize(
        &self,
        replica: &ReplicaId,
        command: &Command<Synchronize>,
    ) -> Result<Answer, Fault> {
        let path = format!("/v1/replications/{replica}/synchronize");
        self.command(
            "synchronize",
            Method::POST,
            path,
            &command.operation,
            command,
        )
        .await
    }

    async fn resynchronize(
        &self,
        replica: &ReplicaId,
        command: &Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        let path = format!("/v1/replications/{replica}/resynchronize");
        self.command(
            "resynchronize",
            Method::POST,
            path,
            &command.operation,
            command,
        )
        .await
    }

    async fn remove(
        &self,
        replica: &ReplicaId,
        command: &Command<Remove>,
    ) -> Result<Answer, Fault> {
        let path = format!("/v1/replications/{replica}/remove");
        self.command("remove", Method::POST, path, &command.operation, command)
            .await
    }
}

fn json(body: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(body).expect("what the wire defines can be said in JSON");
    Bytes::from(json)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
