//! What is asked of a node that runs in QEMU.

use ostack_image::base::tool::{PASSPHRASE, Tool};
use ostack_image::lab::agent::Agent;
use ostack_image::lab::qemu::Machine;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Enabled units that systemd has not started and does not call failed either, because something that they require is missing.
const IDLE: &str = r#"
units=$(find /etc/systemd/system/*.wants -name "*.service" -o -name "*.socket" -o -name "*.timer" | sed "s|.*/||" | sort -u)
systemctl show --property=Id,ActiveState,ConditionResult,Type,ExecMainStartTimestampMonotonic $units | awk 'BEGIN { RS = ""; FS = "\n" } {
    split("", value)
    for (line = 1; line <= NF; line++) { at = index($line, "="); value[substr($line, 1, at - 1)] = substr($line, at + 1) }
    # What has run and ended well has done its work.
    if (value["ActiveState"] == "inactive" && value["ConditionResult"] != "no" && value["Type"] != "oneshot" &&
        value["ExecMainStartTimestampMonotonic"] + 0 == 0) print value["Id"]
}'"#;

/// A copy of the shipped project in a folder of this name among the tests' own, without what an earlier run has left there.
pub fn shipped(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["recipes", "overlays", "images", "ostack.lock", "site.toml"] {
        Tool::new("cp").arg("-a").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).arg(folder.join(name)).run().unwrap();
    }
    folder
}

/// The program on a project, with what opens its secrets.
pub fn ostack(project: &Path) -> Tool {
    Tool::new(super::PROGRAM).arg("-C").arg(project).env(PASSPHRASE, "a passphrase of the test")
}

/// What a shell command on the node prints; the command must succeed.
#[track_caller]
pub fn on_node(machine: &Machine, command: &str) -> String {
    let answer = Agent::connect(&machine.agent_socket(), Duration::from_secs(600)).unwrap().shell(command).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(answer.code, 0, "{command}: {}{}", text(&answer.stdout), text(&answer.stderr));
    text(&answer.stdout)
}

/// How the node's steps are, one line each: name, state, words.
fn steps(machine: &Machine) -> String {
    let text = on_node(machine, "ostack-node status --json");
    let statuses: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let line = |(name, status): (&String, &serde_json::Value)| {
        let words = status["words"].as_str().unwrap_or_default();
        format!("{name}: {} {words}", status["state"].as_str().unwrap()).trim_end().to_string() + "\n"
    };
    statuses.iter().map(line).collect()
}

/// All units are well, before and after the steps have come to what is expected of them.
#[track_caller]
pub fn comes_to(machine: &Machine, expected: &str, patience: Duration) {
    assert_eq!(on_node(machine, IDLE), "", "enabled, not failed, and not running");
    let begin = Instant::now();
    let mut found = steps(machine);
    while found != expected && begin.elapsed() < patience {
        std::thread::sleep(Duration::from_secs(2));
        found = steps(machine);
    }
    assert_eq!(found, expected);
    // What the steps have started is well, too.
    assert_eq!(on_node(machine, "systemctl list-units --failed --plain --no-legend"), "");
}
