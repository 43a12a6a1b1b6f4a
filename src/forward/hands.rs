//! The thread on which one uplink's batches are read, rendered and packed.
//!
//! It is nicer than the rest of the daemon: while readings come in as fast as the machine can take them, what is on
//! disk already can wait, and a sender that waits for its acknowledgement cannot. At [`NICENESS`] a busy machine still
//! gives it about a tenth of a core, many times what straps send.

use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;

/// Added to the daemon's own.
const NICENESS: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Hands {
    /// One job at a time: the driver waits for its end.
    jobs: SyncSender<Job>,
}

impl Hands {
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn new(uplink: &str) -> std::io::Result<Self> {
        let (jobs, receiver) = sync_channel::<Job>(1);
        std::thread::Builder::new().name(format!("pack-{uplink}")).spawn(move || {
            // On Linux niceness belongs to the thread. Without it the work is done all the same.
            let _ = rustix::process::nice(NICENESS);
            while let Ok(job) = receiver.recv() {
                job();
            }
        })?;
        Ok(Self { jobs })
    }

    /// Has the work done. The receiver fails when the work panics, or a job is under way already.
    pub(super) fn give<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, receiver) = oneshot::channel();
        let job = Box::new(move || {
            let _ = done.send(work());
        });
        // A job that is not taken drops its sender, which the receiver tells.
        let _ = self.jobs.try_send(job);
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::Hands;

    #[tokio::test]
    async fn work_is_done_on_a_nicer_thread() {
        let hands = Hands::new("test").unwrap();
        let own = rustix::process::nice(0).unwrap();
        let theirs = hands.give(|| rustix::process::nice(0).unwrap()).await.unwrap();
        assert_eq!(theirs, (own + super::NICENESS).min(19));
        assert_eq!(rustix::process::nice(0).unwrap(), own);
    }

    #[tokio::test]
    async fn a_panic_is_told_to_whoever_waits() {
        let hands = Hands::new("test").unwrap();
        assert!(hands.give(|| panic!("on purpose")).await.is_err());
    }
}
