//! The machine around the gateway: disks, systemd, the clock, the network.

use fogbeat::doctor::Verdict;

use crate::support::loopdev::LoopDisk;
use crate::support::wire::publish_once;
use crate::{Patient, is_root};

#[test]
fn a_disk_that_is_full_and_one_that_is_memory() {
    let mut patient = Patient::new("disk");
    let memory = tempfile::Builder::new().prefix("fogbeat-doctor-").tempdir_in("/dev/shm").unwrap();
    patient.setup.state_dir = memory.path().to_owned();
    patient.examine().exit(69).expect("state directory", Verdict::Error, "is kept in memory (tmpfs)");
    if !is_root() {
        return;
    }
    let disk = match LoopDisk::new(patient.dir.path(), 64) {
        Ok(disk) => disk,
        Err(error) => {
            println!("SKIPPED: no disk of its own: {error}");
            return;
        }
    };
    patient.setup.state_dir = disk.mount.join("state");
    let daemon = patient.start();
    publish_once(patient.setup.mqtt, "hr/strap-1", "71");
    daemon.kill();
    let seen = patient.ask(&[]);
    seen.expect("state directory", Verdict::Ok, "on ext4").expect("journal", Verdict::Ok, "1 readings");

    let filler = disk.mount.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    // Until nothing more fits.
    let _ = std::io::copy(&mut std::io::repeat(1), &mut file);
    drop(file);
    patient.ask(&[]).exit(69).expect("disk space", Verdict::Error, "takes nothing any more");
    std::fs::remove_file(&filler).unwrap();
    patient.ask(&[]).expect("journal", Verdict::Ok, "1 readings");
    disk.remount("ro").unwrap();
    patient.ask(&[]).exit(69).expect("disk space", Verdict::Error, "read-only");
    disk.remount("rw").unwrap();
}

#[test]
fn what_systemd_says_of_the_service() {
    let patient = Patient::new("systemd");
    let shown = |lines: &str| {
        let text =
            "LoadState=loaded\\nUnitFileState=enabled\\nExecMainCode=1\\nExecMainStatus=0\\nNRestarts=0\\n";
        patient.program("systemctl", &format!("printf '{text}{lines}'"));
    };
    shown("ActiveState=active\\nSubState=running\\nResult=success\\n");
    patient.examine().exit(0).expect("service", Verdict::Ok, "is active");
    shown("ActiveState=failed\\nSubState=failed\\nResult=start-limit-hit\\n");
    let seen = patient.ask(&[]);
    seen.exit(69).expect("service", Verdict::Error, "start limit");
    assert!(seen.of("service")[0].next.as_ref().unwrap().contains("reset-failed"));
    shown(
        "ActiveState=activating\\nSubState=auto-restart\\nResult=exit-code\\nExecMainStatus=78\\nNRestarts=7\\n",
    );
    patient.ask(&[]).exit(69).expect("service", Verdict::Error, "7 times");
    shown("ActiveState=active\\nSubState=running\\nResult=success\\nNRestarts=2\\n");
    patient.program("journalctl", "echo 'Watchdog timeout (limit 30s)!'");
    patient.ask(&[]).exit(1).expect("service", Verdict::Warning, "watchdog had to end it 1 times");
    // One that hangs is not waited for.
    patient.program("systemctl", "sleep 60");
    patient.ask(&[]).exit(1).expect("service", Verdict::Warning, "did not answer");
}

#[test]
fn clocks_that_nobody_vouches_for() {
    let patient = Patient::new("clock");
    patient.program("timedatectl", "echo no");
    patient.examine().exit(1).expect("clock", Verdict::Warning, "is not synchronised");
    patient.program("timedatectl", "exit 1");
    patient.ask(&[]).exit(1).expect("clock", Verdict::Warning, "nobody on this machine can say");
}

#[test]
fn a_card_is_held_against_what_it_can_take() {
    let patient = Patient::new("card");
    let daemon = patient.start();
    for n in 0..50 {
        publish_once(patient.setup.mqtt, "hr/strap-1", &format!("{}", 60 + n));
    }
    let seen = patient.ask(&["--card-endurance", "10TB"]);
    // A minute says nothing yet; that it is counted, `status` shows.
    seen.expect("card", Verdict::Skipped, "too short to tell");
    let status = std::process::Command::new(crate::binary())
        .args(["status", "--json", "--config"])
        .arg(&patient.setup.config)
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status.pointer("/process/written_bytes").unwrap().as_u64().unwrap() > 4096, "{status}");
    daemon.kill();
}

#[test]
fn without_a_network_uplinks_are_skipped_and_say_so() {
    if !is_root() {
        return;
    }
    let mut patient = Patient::new("island");
    patient.setup.extra =
        "[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\nregion = \"eu-west-1\"\n".to_owned();
    let words = ["unshare", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    patient.under = words.map(str::to_owned).to_vec();
    let seen = patient.examine();
    seen.exit(1)
        .expect("network", Verdict::Warning, "no route")
        .expect("uplink firehose", Verdict::Skipped, "there is no network")
        .expect("uplink directory", Verdict::Ok, "");
    patient.under.clear();
    let seen = patient.ask(&["--offline"]);
    seen.expect("uplink firehose", Verdict::Skipped, "--offline");
}
