//! What a booted node says of itself: one line for a machine, one for a person.
//!
//! Its unit must not be part of what it waits for: `Type=simple`, never `oneshot`.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::node::console::say;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Where a hypervisor listens: the virtio serial port `org.ostack.report`.
const PORT: &str = "/dev/virtio-ports/org.ostack.report";
/// What init left.
const FACTS: &str = "/run/ostack/boot.json";
/// How long a service may take to come to rest once systemd calls the system up.
const SETTLE_SECONDS: u32 = 60;
/// For how long no service may be starting: longer than the usual `RestartSec`.
const CALM_SECONDS: u32 = 3;

#[derive(Deserialize)]
struct Facts {
    node: String,
    role: String,
    image: Digest,
}

/// One line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    node: String,
    role: String,
    image: Digest,
    /// systemd's word for the whole system: `running`, `degraded` …
    state: String,
    /// The units that failed.
    failed: Vec<String>,
    /// Seconds since the kernel started.
    uptime: u64,
}

/// Waits until systemd has started everything, then reports.
///
/// # Errors
/// The node was not booted by this program's init, or there is no systemd.
pub fn run() -> Result<()> {
    let facts: Facts =
        serde_json::from_str(&fs::read_text(Path::new(FACTS))?).map_err(|error| Error::new(error).at(FACTS, None))?;
    let systemctl = || Tool::new("systemctl").package("systemd");
    // Its exit status tells the state once more, so a failure is none; only the second call's words count.
    let _ = systemctl().args(["is-system-running", "--wait"]).run();
    let state = systemctl().args(["show", "--property=SystemState", "--value"]).run()?.text();
    let mut failed = units(&["--failed"])?;
    failed.extend(unsettled()?);
    failed.sort();
    failed.dedup();
    let uptime = fs::read_text(Path::new("/proc/uptime"))?;
    let report = Report {
        node: facts.node,
        role: facts.role,
        image: facts.image,
        state: state.trim().into(),
        failed,
        uptime: uptime.split('.').next().unwrap_or_default().parse().doing(|| "reading /proc/uptime")?,
    };
    let line = serde_json::to_string(&report).doing(|| "writing the report")?;
    if let Ok(mut port) = OpenOptions::new().write(true).open(PORT) {
        port.write_all(format!("{line}\n").as_bytes()).doing(|| format!("writing {PORT}"))?;
    }
    say(&words(&report));
    Ok(())
}

/// The names of units, as `systemctl list-units` with these options gives them.
fn units(options: &[&str]) -> Result<Vec<String>> {
    let list =
        Tool::new("systemctl").package("systemd").args(["list-units", "--plain", "--no-legend", "--no-pager"]).args(options);
    Ok(list.run()?.text().lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect())
}

/// Services that do not come to rest: one with `Restart=` that fails again and again is between two attempts most of the time,
/// and systemd counts the system as running meanwhile.
fn unsettled() -> Result<Vec<String>> {
    let mut calm = 0;
    let mut starting = Vec::new();
    for _ in 0..SETTLE_SECONDS {
        starting = units(&["--type=service", "--state=activating"])?;
        calm = if starting.is_empty() { calm + 1 } else { 0 };
        if calm == CALM_SECONDS {
            return Ok(Vec::new());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    // One that is only slow has not been started again.
    let mut restarted = Vec::new();
    for unit in starting {
        let count =
            Tool::new("systemctl").package("systemd").args(["show", "--property=NRestarts", "--value", &unit]).run()?.text();
        if count.trim() != "0" {
            restarted.push(unit);
        }
    }
    Ok(restarted)
}

fn words(report: &Report) -> String {
    let failed = match &report.failed[..] {
        [] => "no failed unit".to_string(),
        [one] => format!("1 failed unit: {one}"),
        more => format!("{} failed units: {}", more.len(), more.join(", ")),
    };
    format!("ostack: {} is up, image {}, {failed}", report.node, report.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_for_a_machine_and_one_for_a_person() {
        let image = Digest::of("x");
        let mut report = Report {
            node: "controller01".into(),
            role: "controller".into(),
            image,
            state: "degraded".into(),
            failed: vec!["a.service".into(), "b.service".into()],
            uptime: 31,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            format!(
                r#"{{"node":"controller01","role":"controller","image":"{image}","state":"degraded","failed":["a.service","b.service"],"uptime":31}}"#
            )
        );
        assert_eq!(words(&report), format!("ostack: controller01 is up, image {image}, 2 failed units: a.service, b.service"));
        report.failed.clear();
        assert_eq!(words(&report), format!("ostack: controller01 is up, image {image}, no failed unit"));
    }
}
