use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::speed::Speed;

/// `[[replay]]`: a recording that is played as if a wearable sent it, for demos, tests and support.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// CSV of RR intervals or JSON lines, plain or gzip.
    pub path: PathBuf,
    /// Name for all readings. Default: the names in the recording, else the file's name without its ending.
    #[serde(default)]
    pub device: Option<String>,
    /// `"1x"`, `"60x"`, `"max"`.
    #[serde(default)]
    pub speed: Speed,
    /// Begin again at the end.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
}
