//! The steps of a role: rendered, with full names, in an order that can be carried out.

use super::context::Values;
use super::render::Templates;
use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::model::load::LoadedOverlay;
use crate::model::step::{Need, Step, StepScope};
use std::collections::BTreeMap;

/// The steps of an overlay that are of this release and whose conditions hold.
///
/// # Errors
/// A template or a condition; with file and line.
pub fn of_overlay(overlay: &LoadedOverlay, release: &Word, values: &Values) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for entry in &overlay.overlay.steps {
        let at = |error: Error| error.at(&overlay.file, overlay.line(entry.name.span()));
        let here = entry.release.as_ref().is_none_or(|only| only == release);
        if !here || !Templates::holds(entry.when.as_deref(), values).map_err(at)? {
            continue;
        }
        let text = |text: &String| Templates::render_text(text, values).map_err(at);
        let need = |need: &Need| Ok(Need { name: text(&need.name)?, at: text(&need.at)? });
        let full = |name: &String| if name.contains('/') { name.clone() } else { format!("{}/{name}", overlay.name) };
        steps.push(Step {
            name: format!("{}/{}", overlay.name, entry.name.get_ref()),
            scope: entry.scope,
            after: entry.after.iter().map(full).collect(),
            needs: entry.needs.iter().map(need).collect::<Result<_>>()?,
            check: entry.check.iter().map(text).collect::<Result<_>>()?,
            apply: entry.apply.iter().map(text).collect::<Result<_>>()?,
            user: entry.user.clone(),
            timeout: entry.timeout,
            again: entry.again.unwrap_or(match entry.scope {
                StepScope::Node => 30,
                StepScope::Cluster => 3600,
            }),
            ready: entry.ready,
        });
    }
    Ok(steps)
}

/// Refuses an `after` that its overlay does not declare, and steps that wait for each other. `steps` are those of one role,
/// with their overlays. An overlay that is not in the role, or a step whose condition does not hold, is no hindrance.
///
/// # Errors
/// With file and line of the step.
pub fn check(steps: &[(&LoadedOverlay, Vec<Step>)]) -> Result<()> {
    let all: BTreeMap<&str, &Step> = steps.iter().flat_map(|(_, steps)| steps).map(|step| (step.name.as_str(), step)).collect();
    for (overlay, own) in steps {
        for step in own {
            let entry = overlay.overlay.steps.iter().find(|entry| step.name.ends_with(&format!("/{}", entry.name.get_ref())));
            let line = entry.map(|entry| overlay.line(entry.name.span()));
            for before in &step.after {
                let (of, name) = before.split_once('/').unwrap_or_default();
                let theirs = steps.iter().find(|(other, _)| other.name.as_str() == of).map(|(other, _)| other);
                let declared =
                    theirs.is_none_or(|other| other.overlay.steps.iter().any(|one| one.name.get_ref().as_str() == name));
                if !declared {
                    return Err(Error::new(format!("the step {} comes after {before}, which there is not", step.name))
                        .at(&overlay.file, line)
                        .next(format!("name a [[step]] of overlays/{of}/overlay.toml")));
                }
            }
            if let Some(circle) = circle(step, &all) {
                return Err(Error::new(format!("steps wait for each other: {}", circle.join(" after ")))
                    .at(&overlay.file, line)
                    .next("take one `after` out"));
            }
        }
    }
    Ok(())
}

/// The names from `start` back to itself, if its `after`s lead there.
fn circle(start: &Step, all: &BTreeMap<&str, &Step>) -> Option<Vec<String>> {
    let mut ways = vec![vec![start]];
    let mut seen = Vec::new();
    while let Some(way) = ways.pop() {
        let last = way[way.len() - 1];
        for before in &last.after {
            if *before == start.name {
                return Some(way.iter().map(|step| step.name.clone()).chain([before.clone()]).collect());
            }
            if let Some(step) = all.get(before.as_str())
                && !seen.contains(before)
            {
                seen.push(before.clone());
                ways.push([way.as_slice(), &[step]].concat());
            }
        }
    }
    None
}
