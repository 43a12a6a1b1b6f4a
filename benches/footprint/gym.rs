//! Straps on the air: a message bus of its own with a player of BlueZ on it (`bluez.py`).

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::venv;

/// Two dongles: one is asked for 32 connections at most.
const ADAPTERS: usize = 2;

pub struct Gym {
    address: String,
    straps: usize,
    // In the order of their end.
    children: Vec<Child>,
}

impl Gym {
    /// `Err`: what is missing here.
    pub fn open(root: &Path, straps: usize) -> Result<Self, String> {
        let socket = root.join("bus");
        let config = root.join("bus.conf");
        std::fs::write(
            &config,
            format!(
                r#"<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
                <policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
                <allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/>
                <allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/>
                <allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
                </policy></busconfig>"#,
                socket.display()
            ),
        )
        .expect("write the bus's configuration");
        let mut bus = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg("--print-address")
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("there is no dbus-daemon ({error}); apt install dbus"))?;
        let address = first_line(&mut bus).ok_or("the message bus does not start")?;
        let mut gym = Self { address: address.clone(), straps, children: vec![bus] };
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/footprint/bluez.py");
        let mut player = Command::new(venv::program("python3"))
            .arg(script)
            .arg(address)
            .arg(ADAPTERS.to_string())
            .arg(straps.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3");
        let there = first_line(&mut player);
        gym.children.insert(0, player);
        there.map(|_| gym).ok_or_else(|| "bluez.py does not start; .venv/bin/pip install dbus-fast".into())
    }

    /// What DBUS_SYSTEM_BUS_ADDRESS has to be.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// An allow-list of all straps, each with a connection.
    pub fn settings(&self) -> String {
        let mut text = format!("[ble]\nslots = {}\n", self.straps.div_ceil(ADAPTERS));
        for strap in 1..=self.straps {
            let _ = write!(
                text,
                "[[ble.device]]\naddress = \"C4:A0:00:00:00:{strap:02X}\"\nalias = \"bike-{strap}\"\n"
            );
        }
        text
    }
}

fn first_line(child: &mut Child) -> Option<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    let line = line.trim_end().to_owned();
    (!line.is_empty()).then_some(line)
}

impl Drop for Gym {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
