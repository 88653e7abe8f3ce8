//! `ostack-image check`: each service judges its own files, in the image's root, before there is an image.

use super::build::Work;
use super::report::Steps;
use super::session::{RoleFiles, Session, write_lock};
use super::{Global, print_json};
use crate::base::error::{Error, Place, Result};
use crate::base::name::Role;
use crate::cli::terminal::{note, out};
use crate::image::check::Judged;
use crate::plan::RolePlan;
use crate::plan::checks::CheckStep;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(super) struct Options {
    /// Roles to check; by default every role that has a recipe
    roles: Vec<Role>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let all = || session.roles.iter().map(|files| files.role).collect();
    let roles: Vec<Role> = if options.roles.is_empty() { all() } else { options.roles.clone() };
    let mut lock = session.release_lock()?;
    for role in &roles {
        session.plan(session.role(*role)?, &lock)?;
    }
    if !global.offline {
        session.mirrors()?;
    }
    let store = session.store()?;
    let write_lock = write_lock(&store)?;
    let mut results = Vec::new();
    let mut failed = Ok(());
    for role in roles {
        let files = session.role(role)?;
        let steps = Steps::new(global.verbose, None);
        let work =
            Work { session: &session, files, store: &store, write_lock: &write_lock, global, relock: false, steps: &steps };
        let (plan, _, judged) = work.layers_and_checks(&mut lock)?;
        let report = Report::new(&session, files, &plan, &judged)?;
        report.warn(|_| true);
        if global.json {
            results.push(report.json());
        } else {
            report.table();
        }
        // One role's failure does not keep the others from being checked.
        let refused = report.refuse();
        if let (Err(before), Err(_)) = (&failed, &refused) {
            note!("error: {before}");
        }
        if refused.is_err() {
            failed = refused;
        }
    }
    if global.json {
        print_json(&if results.len() == 1 { results.remove(0) } else { Value::Array(results) })?;
    }
    failed
}

/// The checks of a role, with the places that their words are about.
pub(super) struct Report<'a> {
    session: &'a Session,
    plan: &'a RolePlan,
    checks: Vec<Reported<'a>>,
}

struct Reported<'a> {
    check: &'a CheckStep,
    judged: &'a Judged,
    /// Of each warning.
    warnings: Vec<Place>,
    failure: Option<Error>,
}

impl<'a> Report<'a> {
    /// Looks for the places.
    ///
    /// # Errors
    /// As planning's.
    pub fn new(session: &'a Session, files: &RoleFiles, plan: &'a RolePlan, judged: &'a [Judged]) -> Result<Self> {
        // Most checks say nothing, and to get ready for planning takes as long as all else in a build that finds everything.
        let silent = |judged: &Judged| judged.verdict.warnings.is_empty() && judged.verdict.failure.is_none();
        let mut planner = if judged.iter().all(silent) { None } else { Some(session.planner(files)?) };
        let mut place = |check: &CheckStep, words: &[String]| {
            let at_check = || Place { file: check.file.clone(), line: Some(check.line) };
            planner.as_mut().map_or_else(at_check, |planner| planner.place(check, words))
        };
        let mut report = |judged: &'a Judged| {
            let check = &plan.checks[judged.index];
            let verdict = &judged.verdict;
            let warnings = verdict.warnings.iter().map(|line| place(check, std::slice::from_ref(line))).collect();
            let failure = verdict.failure.as_ref().map(|failure| {
                let place = place(check, &failure.words);
                let words: String = failure.words.iter().map(|line| format!("\n    {line}")).collect();
                let own = (place.file != check.file || place.line != Some(check.line))
                    .then(|| format!("; the check is in {}:{}", check.file.display(), check.line));
                Error::new(format!("the check {} {}:{words}", check.full_name(), failure.how))
                    .at(place.file, place.line)
                    .doing(format!("checking {}", plan.role))
                    .next(format!("correct what `{}` complains of{}", shown(check), own.unwrap_or_default()))
            });
            Reported { check, judged, warnings, failure }
        };
        let checks = judged.iter().map(&mut report).collect();
        Ok(Self { session, plan, checks })
    }

    /// Says on stderr what the services warn of, in the checks that are wanted.
    pub fn warn(&self, wanted: impl Fn(&Judged) -> bool) {
        for one in self.checks.iter().filter(|one| wanted(one.judged)) {
            for (line, place) in one.judged.verdict.warnings.iter().zip(&one.warnings) {
                note!("warning: {place}: the check {} says: {line}", one.check.full_name());
            }
        }
    }

    /// Says on stderr which checks failed, but for the last, which is the error.
    ///
    /// # Errors
    /// A check failed.
    pub fn refuse(&self) -> Result<()> {
        let mut failures: Vec<&Error> = self.checks.iter().filter_map(|one| one.failure.as_ref()).collect();
        let Some(last) = failures.pop() else { return Ok(()) };
        for failure in failures {
            note!("error: {failure}");
        }
        Err(last.clone())
    }

    /// One line per check.
    fn table(&self) {
        let width = self.checks.iter().map(|one| one.check.full_name().len()).max().unwrap_or(0);
        out!("{}: {} checks", self.plan.role, self.checks.len());
        for one in &self.checks {
            let took = one.judged.seconds.map_or("cached".to_string(), |seconds| format!("{seconds:.2} s"));
            out!("  {:width$}  {:12}  {took}", one.check.full_name(), one.result());
        }
    }

    fn json(&self) -> Value {
        let check = |one: &Reported<'_>| {
            json!({
                "overlay": one.check.overlay,
                "check": one.check.name,
                "result": if one.failure.is_some() { "failed" } else { "ok" },
                "cached": one.judged.seconds.is_none(),
                "seconds": one.judged.seconds.map(|seconds| (seconds * 1000.0).round() / 1000.0),
                "warnings": one.judged.verdict.warnings,
                "failure": one.failure.as_ref().map(ToString::to_string),
            })
        };
        let checks: Vec<Value> = self.checks.iter().map(check).collect();
        json!({ "role": self.plan.role, "release": self.session.release_name, "checks": checks })
    }
}

impl Reported<'_> {
    fn result(&self) -> String {
        match (&self.failure, self.warnings.len()) {
            (Some(_), _) => "failed".to_string(),
            (None, 0) => "ok".to_string(),
            (None, 1) => "1 warning".to_string(),
            (None, several) => format!("{several} warnings"),
        }
    }
}

/// A check's command in one short line.
fn shown(check: &CheckStep) -> String {
    let command = &check.run.command;
    let line = command.iter().find(|word| word.contains('\n')).map_or_else(|| command.join(" "), |_| command[0].clone() + " …");
    if line.chars().count() > 80 { line.chars().take(79).collect::<String>() + "…" } else { line }
}
