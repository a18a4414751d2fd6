//! A place where a request waits until a test lets it go on: time under control instead of sleeps.

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    open: bool,
    arrived: u64,
    finished: u64,
}

/// A gate, closed at first. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<State>>);

impl Gate {
    pub fn closed() -> Self {
        Gate(Arc::new(watch::Sender::new(State::default())))
    }

    /// Lets all go on who wait and who will come.
    pub fn open(&self) {
        self.0.send_modify(|state| state.open = true);
    }

    pub fn close(&self) {
        self.0.send_modify(|state| state.open = false);
    }

    /// Waits until `count` requests have come to the gate, since it was made.
    pub async fn arrived(&self, count: u64) {
        self.until(|state| state.arrived >= count).await;
    }

    /// Waits until `count` requests that came by the gate have been carried out.
    pub async fn finished(&self, count: u64) {
        self.until(|state| state.finished >= count).await;
    }

    /// What a request does at the gate.
    pub(crate) async fn pass(&self) {
        self.0.send_modify(|state| state.arrived += 1);
        self.until(|state| state.open).await;
    }

    pub(crate) fn finish(&self) {
        self.0.send_modify(|state| state.finished += 1);
    }

    async fn until(&self, reached: impl FnMut(&State) -> bool) {
        self.0
            .subscribe()
            .wait_for(reached)
            .await
            .expect("this gate holds the sender");
    }
}
