//! An uplink without batches: a connection that stands for live values and the shadow alone.
//!
//! It has no place in the journal, so nothing waits for it and nothing is kept for its sake. What is wrong with its
//! connection is shown and logged as with any other uplink.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::driver::{Drained, TURN};
use super::feed::Backlog;
use super::mqtt::{LinkStatus, Mqtt};
use super::status::{Board, Carries, Metrics, State};
use super::{Handle, Uplink as _, hold};
use crate::journal::Seq;

/// What waits for such an uplink.
struct Nothing;

impl Backlog for Nothing {
    fn queued(&self) -> u64 {
        0
    }
    fn cursor(&self) -> Seq {
        Seq(0)
    }
}

/// Starts its task.
pub(super) fn start(name: &str, uplink: Mqtt, metrics: &Metrics) -> Handle {
    let link = uplink.status();
    let board =
        Board::new(name, uplink.kind(), Carries::NoBatches, uplink.longest(), Some(link.clone()), metrics);
    // It holds no reading: whoever asks is told so at once, because nobody is there who could say otherwise.
    let (holder, _) = hold::pair();
    let watcher = board.watcher(Arc::new(Nothing), holder);
    let (drain, draining) = watch::channel(None);
    let task = tokio::spawn(stand(uplink, link, board, draining, watcher.retry_signal()));
    Handle { watcher, drain, task }
}

/// Until it is drained.
async fn stand(
    mut uplink: Mqtt,
    mut link: watch::Receiver<LinkStatus>,
    mut board: Board,
    mut draining: watch::Receiver<Option<Instant>>,
    retry: Arc<Notify>,
) -> Drained {
    let (mut lost, mut failures) = (0, 0);
    loop {
        let now = Instant::now();
        board.alive(now);
        let status = link.borrow_and_update().clone();
        match status.trouble {
            None if status.connected => {
                failures = 0;
                board.working(State::Idle);
            }
            // It has not been tried yet, or is being tried again.
            None => {}
            Some(_) if status.lost == lost => {}
            Some(verdict) => {
                failures += 1;
                board.refused(&verdict.failure);
                board.failing(verdict.failure, verdict.stuck, failures, now);
            }
        }
        lost = status.lost;
        tokio::select! {
            changed = link.changed() => if changed.is_err() {
                let failure = uplink.ended().await;
                board.failing(failure, true, 1, now);
                return Drained::Empty;
            },
            () = tokio::time::sleep(TURN) => {}
            () = retry.notified() => uplink.connect(),
            () = asked_to_end(&mut draining) => break,
        }
    }
    uplink.close().await;
    Drained::Empty
}

/// It is drained, or its handle was dropped.
async fn asked_to_end(draining: &mut watch::Receiver<Option<Instant>>) {
    // The answer says which of the two it was.
    let _ = draining.wait_for(Option::is_some).await;
}
