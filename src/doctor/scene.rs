//! What all checks look at: the configuration as far as it can be read, and whoever works in the state directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::Value;

use super::Options;
use super::permit::Who;
use crate::config::{self, Config, Problem};
use crate::control::{self, Request};
use crate::state::{self, StateDir};

/// A daemon that works answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the time there is, so much is left for telling what was found.
const RESERVE: Duration = Duration::from_secs(3);

/// See the module's documentation.
pub struct Scene {
    /// Where it has errors, they are left out.
    pub config: Config,
    pub problems: Vec<Problem>,
    pub file: PathBuf,
    pub daemon: Daemon,
    /// Whom the gateway runs as, or would.
    pub who: Who,
    pub offline: bool,
    pub listen: Duration,
    pub card_endurance: Option<ByteSize>,
    pub hands_off: bool,
    /// When a check should be back.
    pub deadline: Instant,
}

/// Who works in the state directory.
pub enum Daemon {
    /// A gateway, which has told its status.
    Answers { pid: Option<String>, socket: PathBuf, status: Value },
    /// A gateway, which tells nothing.
    Silent { pid: Option<String>, why: String },
    /// Nobody. The directory is ours, or why it is not.
    Dead(Result<StateDir, String>),
    /// There is no state directory.
    Fresh,
    /// This user may not know.
    Unknown(String),
}

impl Scene {
    pub fn look(options: &Options) -> Self {
        let deadline = Instant::now() + options.limit.saturating_sub(RESERVE);
        let (config, problems) = config::look(options.config.as_deref(), crate::source::judge);
        let file = options.config.clone().unwrap_or_else(|| PathBuf::from(config::DEFAULT_FILE));
        let config = config.unwrap_or_default();
        let daemon = Daemon::find(&config.gateway.state_dir, options.hands_off);
        let who = Who::of_gateway(&config.gateway.state_dir, daemon.pid());
        Self {
            config,
            problems,
            file,
            daemon,
            who,
            offline: options.offline,
            listen: options.listen,
            card_endurance: options.card_endurance,
            hands_off: options.hands_off,
            deadline,
        }
    }

    pub fn state_dir(&self) -> &Path {
        &self.config.gateway.state_dir
    }

    /// What the gateway says at `pointer` of its status, if it does.
    pub fn told(&self, pointer: &str) -> Option<&Value> {
        self.daemon.status()?.pointer(pointer)
    }

    /// Time until `deadline`, at most `most`.
    pub fn left(&self, most: Duration) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).min(most)
    }
}

impl Daemon {
    fn find(state_dir: &Path, hands_off: bool) -> Self {
        match control::find(state_dir) {
            Ok(Some(socket)) => {
                let pid = state::owner(state_dir).ok().flatten().map(|owner| owner.pid);
                match control::ask_within(&socket, &Request::Status, PATIENCE) {
                    Ok(status) => Self::Answers { pid, socket, status },
                    Err(error) => Self::Silent { pid, why: error.to_string() },
                }
            }
            Ok(None) if !state_dir.exists() => Self::Fresh,
            Ok(None) if hands_off => Self::Dead(Err("what a gateway left is not touched here".to_owned())),
            Ok(None) => Self::Dead(StateDir::open(state_dir).map_err(|error| error.to_string())),
            Err(error) => Self::Unknown(format!("{} cannot be looked into ({error})", state_dir.display())),
        }
    }

    pub fn status(&self) -> Option<&Value> {
        match self {
            Self::Answers { status, .. } => Some(status),
            _ => None,
        }
    }

    pub fn pid(&self) -> Option<&str> {
        match self {
            Self::Answers { pid, .. } | Self::Silent { pid, .. } => pid.as_deref(),
            _ => None,
        }
    }

    /// Why nothing can be asked of a gateway, for checks that need one.
    pub fn absence(&self) -> String {
        match self {
            Self::Answers { .. } => "the gateway does not tell".to_owned(),
            Self::Silent { .. } => "the gateway does not answer".to_owned(),
            Self::Dead(_) | Self::Fresh => "no gateway is running".to_owned(),
            Self::Unknown(why) => why.clone(),
        }
    }
}
