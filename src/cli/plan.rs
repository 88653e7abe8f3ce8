//! `ostack-image plan`: what would be built, what is there already, and why.

use super::session::Session;
use super::{Global, print_json};
use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::name::Role;
use crate::cli::terminal::out;
use crate::plan::{Key, RolePlan};
use crate::store::Store;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How many changed inputs of one step are listed for people.
const SHOWN: usize = 8;

#[derive(Args)]
pub(super) struct Options {
    /// Role to plan
    role: Role,
}

#[derive(Serialize)]
struct Line {
    step: String,
    key: String,
    cached: bool,
    changed: Vec<String>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    let files = session.role(options.role)?;
    let plan = session.plan(files, &session.release_lock()?)?;
    let store = session.store()?;
    let keys = keys(&plan, &session.node_program()?.digest);
    let last = store.last(&plan.image_name());
    let lines: Vec<Line> = keys
        .iter()
        .map(|key| {
            let cached = is_cached(&store, key);
            Line {
                step: key.step.clone(),
                key: key.digest().to_string(),
                cached,
                changed: if cached { Vec::new() } else { changed(key, &last) },
            }
        })
        .collect();
    if global.json {
        return print_json(&json!({ "role": options.role, "release": session.release_name, "steps": lines }));
    }
    let width = lines.iter().map(|line| line.step.len()).max().unwrap_or(0);
    for line in &lines {
        if line.cached {
            out!("{:width$}  cached", line.step);
            continue;
        }
        let what = if line.step == "lint" || line.step.starts_with("check ") { "to run" } else { "to build" };
        out!("{:width$}  {what}", line.step);
        for reason in line.changed.iter().take(SHOWN) {
            out!("{:width$}    {reason}", "");
        }
        if line.changed.len() > SHOWN {
            out!("{:width$}    and {} more (--json lists all)", "", line.changed.len() - SHOWN);
        }
    }
    Ok(())
}

/// Every step's key, in the order in which they are built.
pub(super) fn keys(plan: &RolePlan, program: &Digest) -> Vec<Key> {
    let mut keys = vec![plan.tools.clone(), plan.base.clone(), plan.boot(program), plan.packages.clone()];
    keys.extend(plan.overlays.iter().map(|step| step.key.clone()));
    keys.push(plan.agent(program));
    keys.extend(plan.lint.clone());
    keys.extend(plan.checks.iter().map(|check| check.key.clone()));
    keys
}

fn is_cached(store: &Store, key: &Key) -> bool {
    let digest = key.digest();
    store.step(&digest).is_some() || (key.step == "tools" && store.tools(&digest).exists())
}

/// What a later `plan` compares with.
pub(super) fn remembered(keys: &[Key]) -> Value {
    let steps: BTreeMap<&str, BTreeMap<String, String>> = keys.iter().map(|key| (key.step.as_str(), key.shown())).collect();
    json!(steps)
}

fn changed(key: &Key, last: &Value) -> Vec<String> {
    let Some(old) = last[&key.step].as_object() else {
        return vec!["never built for this role".to_string()];
    };
    let now = key.shown();
    let mut reasons = Vec::new();
    for (name, value) in &now {
        match old.get(name).and_then(Value::as_str) {
            None => reasons.push(format!("{name} is new")),
            Some(before) if before != value => reasons.push(format!("{name} changed{}", versions(before, value))),
            Some(_) => {}
        }
    }
    reasons.extend(old.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone")));
    if reasons.is_empty() { vec!["its result is no longer in the store".to_string()] } else { reasons }
}

/// `: 3.0.10 -> 3.0.11`, where the values begin with a version and not with a digest.
fn versions(before: &str, now: &str) -> String {
    let word = |text: &str| text.split(' ').next().unwrap_or_default().to_string();
    let (before, now) = (word(before), word(now));
    if before == now || before.starts_with("sha256:") { String::new() } else { format!(": {before} -> {now}") }
}
