//! An agent whose connection misbehaves by plan: what is lost, and when, is data.
//!
//! ```text
//! FailBefore   the request never arrives            → the fault that is given
//! LoseReply    it is done, its answer is lost       → AgentUnreachable
//! Hold         it waits at a gate, then it is done  → the agent's answer
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use crate::agent_client::Agent;
use crate::ids::ReplicaId;
use crate::report::{Code, Fault};
use crate::wire::{
    Answer, Command, Hello, HelloReply, HostCommand, Observations, Relationship, Remove,
    Resynchronize, Settings, Start, Synchronize,
};

/// The requests of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Hello,
    Observations,
    Settings,
    CreateRelationship,
    Start,
    Synchronize,
    Resynchronize,
    Remove,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Mishap {
    FailBefore(Fault),
    LoseReply,
    Hold(Gate),
}

/// One entry of a plan: the `nth` request of its kind (the first is 1) meets a mishap.
#[derive(Clone, Debug)]
pub struct Planned {
    pub request: Request,
    pub nth: u32,
    pub mishap: Mishap,
}

/// Holds requests until it is opened, and tells how many have come.
#[derive(Clone, Debug)]
pub struct Gate {
    state: watch::Sender<GateState>,
}

#[derive(Clone, Copy, Debug)]
struct GateState {
    arrived: u32,
    open: bool,
}

impl Default for Gate {
    fn default() -> Self {
        let (state, _) = watch::channel(GateState {
            arrived: 0,
            open: false,
        });
        Gate { state }
    }
}

impl Gate {
    /// Lets through what waits, and all that will come.
    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    /// Waits until `count` requests have come to the gate.
    pub async fn arrived(&self, count: u32) {
        self.wait(|state| state.arrived >= count).await;
    }

    /// Comes to the gate, and waits until it is open.
    pub async fn pass(&self) {
        self.state.send_modify(|state| state.arrived += 1);
        self.wait(|state| state.open).await;
    }

    async fn wait(&self, until: impl FnMut(&GateState) -> bool) {
        let mut state = self.state.subscribe();
        let reached = state.wait_for(until).await;
        reached.expect("the gate itself holds the sender");
    }
}

/// An agent to which the planned mishaps happen.
pub struct Faulty<A> {
    inner: A,
    plan: Vec<Planned>,
    seen: Mutex<HashMap<Request, u32>>,
}

impl<A> Faulty<A> {
    pub fn new(inner: A, plan: Vec<Planned>) -> Self {
        Faulty {
            inner,
            plan,
            seen: Mutex::default(),
        }
    }

    /// Counts the request, and says what happens to it.
    fn next(&self, request: Request) -> Option<Mishap> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let nth = seen.entry(request).or_default();
        *nth += 1;
        self.plan
            .iter()
            .find(|planned| planned.request == request && planned.nth == *nth)
            .map(|planned| planned.mishap.clone())
    }

    async fn call<T>(
        &self,
        request: Request,
        perform: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        match self.next(request) {
            None => perform.await,
            Some(Mishap::FailBefore(fault)) => Err(fault),
            Some(Mishap::LoseReply) => {
                let _ = perform.await;
                let message = format!("the reply to {request:?} was lost");
                Err(Fault::new(Code::AgentUnreachable, message))
            }
            Some(Mishap::Hold(gate)) => {
                gate.pass().await;
                perform.await
            }
        }
    }
}

#[async_trait]
impl<A: Agent> Agent for Faulty<A> {
    async fn hello(&self, hello: &Hello) -> Result<HelloReply, Fault> {
        self.call(Request::Hello, self.inner.hello(hello)).await
    }

    async fn observations(&self, session: Uuid, after: u64) -> Result<Observations, Fault> {
        let perform = self.inner.observations(session, after);
        self.call(Request::Observations, perform).await
    }

    async fn settings(&self, command: &HostCommand<Settings>) -> Result<Answer, Fault> {
        self.call(Request::Settings, self.inner.settings(command))
            .await
    }

    async fn create_relationship(&self, command: &Command<Relationship>) -> Result<Answer, Fault> {
        let perform = self.inner.create_relationship(command);
        self.call(Request::CreateRelationship, perform).await
    }

    async fn start(&self, replica: &ReplicaId, command: &Command<Start>) -> Result<Answer, Fault> {
        let perform = self.inner.start(replica, command);
        self.call(Request::Start, perform).await
    }

    async fn synchronize(
        &self,
        replica: &ReplicaId,
        command: &Command<Synchronize>,
    ) -> Result<Answer, Fault> {
        let perform = self.inner.synchronize(replica, command);
        self.call(Request::Synchronize, perform).await
    }

    async fn resynchronize(
        &self,
        replica: &ReplicaId,
        command: &Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        let perform = self.inner.resynchronize(replica, command);
        self.call(Request::Resynchronize, perform).await
    }

    async fn remove(
        &self,
        replica: &ReplicaId,
        command: &Command<Remove>,
    ) -> Result<Answer, Fault> {
        let perform = self.inner.remove(replica, command);
        self.call(Request::Remove, perform).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::ids::OperationId;

    /// Counts what reaches it.
    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Counting {
        fn answer(&self, operation: &OperationId) -> Answer {
            self.0.fetch_add(1, Ordering::Relaxed);
            Answer {
                operation: operation.clone(),
                repeated: false,
            }
        }
    }

    #[async_trait]
    impl Agent for Counting {
        async fn hello(&self, _: &Hello) -> Result<HelloReply, Fault> {
            Err(Fault::new(Code::Internal, "not asked for"))
        }

        async fn observations(&self, _: Uuid, _: u64) -> Result<Observations, Fault> {
            Err(Fault::new(Code::Internal, "not asked for"))
        }

        async fn settings(&self, command: &HostCommand<Settings>) -> Result<Answer, Fault> {
            Ok(self.answer(&command.operation))
        }

        async fn create_relationship(&self, it: &Command<Relationship>) -> Result<Answer, Fault> {
            Ok(self.answer(&it.operation))
        }

        async fn start(&self, _: &ReplicaId, it: &Command<Start>) -> Result<Answer, Fault> {
            Ok(self.answer(&it.operation))
        }

        async fn synchronize(
            &self,
            _: &ReplicaId,
            it: &Command<Synchronize>,
        ) -> Result<Answer, Fault> {
            Ok(self.answer(&it.operation))
        }

        async fn resynchronize(
            &self,
            _: &ReplicaId,
            it: &Command<Resynchronize>,
        ) -> Result<Answer, Fault> {
            Ok(self.answer(&it.operation))
        }

        async fn remove(&self, _: &ReplicaId, it: &Command<Remove>) -> Result<Answer, Fault> {
            Ok(self.answer(&it.operation))
        }
    }

    fn settings() -> HostCommand<Settings> {
        HostCommand {
            operation: OperationId::from_random(1),
            body: Settings::default(),
        }
    }

    fn planned(nth: u32, mishap: Mishap) -> Planned {
        Planned {
            request: Request::Settings,
            nth,
            mishap,
        }
    }

    #[tokio::test]
    async fn a_lost_reply_was_done_and_a_failed_request_was_not() {
        let refused = Fault::new(Code::AgentUnreachable, "cable");
        let plan = vec![
            planned(1, Mishap::FailBefore(refused.clone())),
            planned(2, Mishap::LoseReply),
        ];
        let agent = Faulty::new(Counting::default(), plan);
        let done = || agent.inner.0.load(Ordering::Relaxed);
        assert_eq!(agent.settings(&settings()).await, Err(refused));
        assert_eq!(done(), 0);
        let lost = agent.settings(&settings()).await.unwrap_err();
        assert_eq!((lost.code, done()), (Code::AgentUnreachable, 1));
        assert!(agent.settings(&settings()).await.is_ok());
    }

    #[tokio::test]
    async fn a_held_request_is_done_when_its_gate_opens() {
        let gate = Gate::default();
        let plan = vec![planned(1, Mishap::Hold(gate.clone()))];
        let agent = Arc::new(Faulty::new(Counting::default(), plan));
        let asking = tokio::spawn({
            let agent = agent.clone();
            async move { agent.settings(&settings()).await }
        });
        gate.arrived(1).await;
        assert_eq!(agent.inner.0.load(Ordering::Relaxed), 0);
        gate.open();
        assert!(asking.await.unwrap().is_ok());
    }
}
