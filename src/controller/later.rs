//! Objects that are to be looked at soon, each once for however many reasons: a site counts its VMs, and in a fleet one of
//! them changes at every moment.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::ids::ObjectName;

/// How long reasons are collected.
const COLLECTED: Duration = Duration::from_secs(2);

/// What is to be looked at soon.
#[derive(Default)]
pub struct Later {
    asked: Mutex<BTreeSet<ObjectName>>,
    news: Notify,
}

impl Later {
    /// Asks for a look.
    pub fn ask(&self, object: &ObjectName) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.insert(object.clone()) {
            self.news.notify_one();
        }
    }

    /// Waits for what is asked for, and a little longer for what else is.
    pub async fn next(&self) -> BTreeSet<ObjectName> {
        loop {
            self.news.notified().await;
            tokio::time::sleep(COLLECTED).await;
            let asked =
                std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
            if !asked.is_empty() {
                return asked;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_again_and_again_is_looked_at_once() {
        let later = Later::default();
        let site = |name: &str| ObjectName::new("dr", name).unwrap();
        for _ in 0..1000 {
            later.ask(&site("factory"));
        }
        later.ask(&site("office"));
        assert_eq!(later.next().await.len(), 2);
        let next = tokio::time::timeout(COLLECTED * 10, later.next()).await;
        assert!(next.is_err(), "nobody has asked again");
        later.ask(&site("office"));
        assert_eq!(later.next().await.len(), 1);
    }
}
