//! What systemd is told. Without systemd all of this does nothing.

use sd_notify::NotifyState;

/// The gateway takes readings (also: a reload is done).
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is being read again.
pub fn reloading() {
    // systemd wants to know when: a READY=1 from before must not count.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// All stages make progress: the watchdog's timer starts anew.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
