//! The daemon's side of the socket.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{Answer, AnswerEnvelope, Refusal, RefusalKind, Request, VERSION, parse};

/// Commands that people and scripts run by hand: more at once is a runaway script.
const MOST_CONNECTIONS: usize = 8;
/// The longest request is a name; an uplink's has 64 characters.
const LONGEST_REQUEST: u64 = 4096;
/// A silent client gives its place to the next.
const IDLE: Duration = Duration::from_secs(30);
/// After a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The process at the other end, as the kernel tells.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub uid: u32,
    pub pid: Option<i32>,
}

/// One request, who asks, and where the answer goes.
pub struct Call {
    pub request: Request,
    pub peer: Peer,
    pub answer: oneshot::Sender<Answer>,
}

/// A bound socket; its file is removed when this is dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// `$RUNTIME_DIRECTORY/fogbeat.sock` (systemd), else `<state_dir>/fogbeat.sock`.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY").filter(|dir| !dir.is_empty());
    runtime.map_or_else(|| state_dir.to_owned(), PathBuf::from).join("fogbeat.sock")
}

/// Binds the socket with mode 0660. Only for the holder of the state directory's lock: a socket that is already there
/// is then a dead daemon's and is replaced; any other file is left alone and is an error.
pub fn bind(path: &Path) -> io::Result<Server> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let message = format!("{} is there and is not a socket; remove it", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        _ => {}
    }
    // Bound aside and renamed, so that it is never there with other permissions, nor missing while it is replaced.
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&fresh, path)?;
    Ok(Server { listener, path: path.to_owned() })
}

impl Drop for Server {
    fn drop(&mut self) {
        // What is left behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands requests to `calls` until `stop` turns true.
    pub async fn serve(self, calls: mpsc::Sender<Call>, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut sessions = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = sessions.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match (accepted, places.clone().try_acquire_owned()) {
                (Ok((stream, _)), Ok(place)) => {
                    let calls = calls.clone();
                    sessions.spawn(async move {
                        let _place = place;
                        if let Err(error) = session(stream, &calls).await {
                            tracing::debug!(%error, "a control connection ended");
                        }
                    });
                }
                (Ok((stream, _)), Err(_)) => drop(stream),
                (Err(error), _) => {
                    tracing::error!(%error, "the control socket cannot accept; raise the limit of open files");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Ending them with the daemon is all that is left to do: dropping the set does so.
    }
}

async fn session(stream: UnixStream, calls: &mpsc::Sender<Call>) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LONGEST_REQUEST);
        let read = tokio::time::timeout(IDLE, bounded.read_until(b'\n', &mut line))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        if read == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let answer = match parse(&line) {
            Ok(request) => pass_on(request, peer, calls).await,
            Err(_) if !whole => Err(Refusal::new(RefusalKind::Malformed, "the line is too long or cut off")),
            Err(refusal) => Err(refusal),
        };
        let (ok, error) = match answer {
            Ok(value) => (Some(value), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let mut text = serde_json::to_vec(&AnswerEnvelope { v: VERSION, ok, error })?;
        text.push(b'\n');
        tokio::time::timeout(IDLE, writer.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !whole {
            return Ok(());
        }
    }
}

async fn pass_on(request: Request, peer: Peer, calls: &mpsc::Sender<Call>) -> Answer {
    let stopping = || Refusal::new(RefusalKind::Failed, "the daemon is stopping");
    let (answer, answered) = oneshot::channel();
    calls.send(Call { request, peer, answer }).await.map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())?
}

#[cfg(test)]
mod tests {
    use super::super::{AskError, ask};
    use super::*;

    #[tokio::test]
    async fn a_daemon_answers_and_survives_rubbish() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fogbeat.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let server = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let (calls, mut received) = mpsc::channel::<Call>(1);
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(server.serve(calls, stopped));
        let answering = tokio::spawn(async move {
            while let Some(call) = received.recv().await {
                let answer = match call.request {
                    Request::Status => Ok(serde_json::json!({ "phase": "running" })),
                    other => Err(Refusal::new(RefusalKind::Impossible, format!("{other:?}"))),
                };
                call.answer.send(answer).unwrap();
            }
        });

        let rubbish = [&b"\n"[..], b"{}\n", &[b'x'; 10_000]];
        for bytes in rubbish {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.unwrap();
            assert!(answer.contains("malformed"), "{answer}");
        }
        let asked = path.clone();
        let told = tokio::task::spawn_blocking(move || {
            (ask(&asked, &Request::Status), ask(&asked, &Request::UplinkForget { name: "x".into() }))
        });
        let (status, forget) = told.await.unwrap();
        assert_eq!(status.unwrap(), serde_json::json!({ "phase": "running" }));
        assert!(
            matches!(forget, Err(AskError::Refused(refusal)) if refusal.message.contains("UplinkForget"))
        );
        stop.send(true).unwrap();
        serving.await.unwrap();
        answering.await.unwrap();
        assert!(!path.exists(), "the socket stays behind");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fogbeat.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
