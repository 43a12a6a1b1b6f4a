//! What systemd is told. Without systemd all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// How much longer a start that waits for its disk may take after each word of it: a start that falls silent is begun
/// anew, one that waits for weeks is not.
const START_EXTENSION: Duration = Duration::from_secs(120);
/// Beyond the grace of a stop: what is left then is a matter of moments.
const STOP_EXTENSION: Duration = Duration::from_secs(15);

/// Whether there is somebody to tell.
pub fn heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// The gateway takes readings (also: a reload is done).
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The start goes on, and why it takes so long.
pub fn starting(words: &str) {
    send(&[NotifyState::Status(words), extension(START_EXTENSION)]);
}

/// The configuration is being read again.
pub fn reloading() {
    // systemd wants to know when: a READY=1 from before must not count.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The gateway stops, and may go on delivering for `grace`: longer than the unit says, if it is so configured.
pub fn stopping(grace: Duration) {
    let words = format!("stopping: delivers for up to {} more", humantime::format_duration(grace));
    send(&[NotifyState::Stopping, NotifyState::Status(&words), extension(grace + STOP_EXTENSION)]);
}

/// All stages make progress: the watchdog's timer starts anew.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// What the gateway does, in words: `systemctl status` shows it.
pub fn status(words: &str) {
    send(&[NotifyState::Status(words)]);
}

fn extension(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
