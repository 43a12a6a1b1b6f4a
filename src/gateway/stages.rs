//! The tasks of the gateway, by name, and somebody who awaits their end.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// The running tasks. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Stages {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// A task has ended, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub stage: &'static str,
    /// It panicked: a defect.
    pub panicked: bool,
}

impl Stages {
    /// Starts a task that is expected to run until it is told to stop.
    pub fn start(&mut self, stage: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.running.spawn(task);
        self.names.insert(handle.id(), stage);
    }

    /// The next task that ends; waits for ever when none runs. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        let (id, panicked) = match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, false),
            Some(Err(error)) => (error.id(), error.is_panic()),
            None => return std::future::pending().await,
        };
        Ended { stage: self.names.remove(&id).unwrap_or("unnamed"), panicked }
    }

    /// Waits until all have ended; returns those that panicked.
    pub async fn all_ended(&mut self) -> Vec<&'static str> {
        let mut panicked = Vec::new();
        while !self.running.is_empty() {
            let ended = self.ended().await;
            panicked.extend(ended.panicked.then_some(ended.stage));
        }
        panicked
    }

    pub fn count(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_by_name() {
        let mut stages = Stages::default();
        stages.start("journal", std::future::pending());
        stages.start("listener", async {});
        assert_eq!(stages.ended().await, Ended { stage: "listener", panicked: false });
        stages.start("web", async { panic!("as a test") });
        assert_eq!(stages.ended().await, Ended { stage: "web", panicked: true });
        assert_eq!(stages.count(), 1);
    }
}
