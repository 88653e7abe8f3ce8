//! How a lab's nodes are.

use crate::base::error::Result;
use crate::cli::terminal::out;
use crate::cli::{Global, print_json};
use crate::lab::holder::Holder;
use crate::lab::machine::Folder;
use crate::lab::outside;
use serde::Serialize;
use serde_json::Value;

/// systemd's word for a node: `running`, `degraded` …; `off` where there is none.
pub(super) fn system(folder: &Folder, holder: Holder, node: &str) -> String {
    if outside::leader(holder, node).is_none() {
        return "off".to_string();
    }
    let said = outside::says(folder, holder, node, &["systemctl", "show", "--property=SystemState", "--value"]);
    said.map_or_else(|| "starting".to_string(), |said| said.trim().to_string())
}

/// One node, for people and programs.
#[derive(Serialize)]
struct Shown {
    node: String,
    role: String,
    image: String,
    system: String,
    failed: Vec<String>,
    steps: Value,
}

pub(super) fn show(global: &Global, folder: &Folder) -> Result<()> {
    let holder = Holder::find(folder)?;
    let mut shown = Vec::new();
    for node in folder.nodes()? {
        let machine = folder.read(&node)?;
        let ask = |command: &[&str]| outside::says(folder, holder?, &node, command);
        let failed = ask(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).unwrap_or_default();
        let steps = ask(&["/usr/lib/ostack/ostack-node", "status", "--json"]).unwrap_or_default();
        shown.push(Shown {
            role: machine.role,
            image: machine.image.to_string(),
            system: holder.map_or_else(|| "off".to_string(), |holder| system(folder, holder, &node)),
            failed: failed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect(),
            steps: serde_json::from_str(&steps).unwrap_or(Value::Null),
            node,
        });
    }
    if global.json {
        return print_json(&shown);
    }
    for one in &shown {
        out!("{}", line(one));
    }
    Ok(())
}

/// A node in one line: `controller01  controller  running  12 of 20 steps done; keystone/start waits for the database`.
fn line(one: &Shown) -> String {
    let mut line = format!("{:14} {:10} {}", one.node, one.role, one.system);
    if !one.failed.is_empty() {
        line.push_str(&format!("  failed: {}", one.failed.join(", ")));
    }
    if let Value::Object(steps) = &one.steps {
        let state = |step: &Value| step["state"].as_str().unwrap_or_default().to_string();
        let done = steps.values().filter(|step| state(step) == "done").count();
        line.push_str(&format!("  {done} of {} steps done", steps.len()));
        if let Some((name, step)) = steps.iter().find(|(_, step)| state(step) != "done") {
            let words = step["words"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_string();
            line.push_str(&format!("; {name} {} {words}", state(step)));
        }
    }
    line.trim_end().to_string()
}
