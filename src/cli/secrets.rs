//! `ostack-image secrets`: the site's passwords, keys and certificates, in one encrypted file. No verb prints a value.

use super::session::Session;
use super::unlock::{self, From};
use super::{Global, print_json};
use crate::base::error::{Context, Error, Result};
use crate::base::name::{Role, Word};
use crate::cli::terminal::{note, out};
use crate::deploy::seed::{self, Needed};
use crate::model::secret::{Per, SecretKind};
use crate::secrets::file::{self, Lock};
use crate::secrets::{Held, Wanted, draw};
use clap::{Args, Subcommand};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::Path;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Draw what overlays ask for and is not there yet; the file is made, or added to
    Init(Init),
    /// Draw secrets anew, with all that an authority among them signs
    Rotate(Rotate),
    /// Take a value that is not drawn, such as a fence device's password, from standard input
    Set(Set),
    /// List the secrets: name, kind, for whom, whether drawn
    List(List),
}

#[derive(Args)]
pub(super) struct Init {
    #[command(flatten)]
    from: From,
    /// Encrypt to this age1… and to no passphrase; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
}

#[derive(Args)]
pub(super) struct Rotate {
    /// Secrets to draw anew
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<Word>,
    /// Draw every secret anew
    #[arg(long, conflicts_with = "names")]
    all: bool,
    #[command(flatten)]
    from: From,
}

#[derive(Args)]
pub(super) struct Set {
    /// The secret; its value is the first line of standard input
    name: Word,
    #[command(flatten)]
    from: From,
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    from: From,
}

pub(super) fn run(global: &Global, verb: &Verb) -> Result<()> {
    let session = Session::open(global)?;
    match verb {
        Verb::Init(options) => init(global, &session, options),
        Verb::Rotate(options) => rotate(global, &session, options),
        Verb::Set(options) => set(global, &session, options),
        Verb::List(options) => list(global, &session, options),
    }
}

fn init(global: &Global, session: &Session, options: &Init) -> Result<()> {
    session.warn();
    let wanted = unlock::wanted(session, None)?;
    let path = options.from.file(session);
    let there = path.exists();
    let (mut held, lock) = match (&options.recipient[..], there) {
        (recipients, true) => {
            let (held, lock) = options.from.key.open_with_lock(&path, session)?;
            (held, if recipients.is_empty() { lock } else { Lock::Recipients(recipients.to_vec()) })
        }
        ([], false) => (Held::new(session.site.name.as_str()), Lock::Passphrase(options.from.key.new_passphrase()?)),
        (recipients, false) => (Held::new(session.site.name.as_str()), Lock::Recipients(recipients.to_vec())),
    };
    let new = draw::missing(&mut held, &wanted)?;
    if !new.is_empty() || !options.recipient.is_empty() || !there {
        file::write(&path, &mut held, &lock)?;
    }
    let outdated: BTreeSet<&str> = draw::outdated(&held, &wanted).into_iter().map(|one| one.name.as_str()).collect();
    for name in outdated {
        note!("warning: {name} is for other names than the site has now; run: ostack-image secrets rotate {name}");
    }
    if global.json {
        return print_json(&json!({ "file": path, "secrets": wanted.len(), "drawn": kinds(&new) }));
    }
    told(&new);
    out!("{}: {} secrets drawn, {} were there", path.display(), new.len(), wanted.len() - new.len());
    Ok(())
}

fn rotate(global: &Global, session: &Session, options: &Rotate) -> Result<()> {
    session.warn();
    let mut names: BTreeSet<&Word> = options.names.iter().collect();
    for name in &names {
        known(session, name)?;
    }
    if options.all {
        names = session.secrets.keys().collect();
    }
    // What an authority signed is worth nothing without it.
    names.extend(
        session
            .secrets
            .iter()
            .filter(|(_, one)| one.entry.ca.as_ref().is_some_and(|ca| options.names.contains(ca)))
            .map(|(name, _)| name),
    );
    let path = options.from.file(session);
    let wanted = unlock::wanted(session, None)?;
    let (mut held, lock) = options.from.key.open_with_lock(&path, session)?;
    for name in &names {
        held.forget(name.as_str());
    }
    let new = draw::missing(&mut held, &wanted)?;
    let roles = roles_of(session, &names)?;
    file::write(&path, &mut held, &lock)?;
    done(global, &path, &new, &roles)
}

fn set(global: &Global, session: &Session, options: &Set) -> Result<()> {
    session.warn();
    let entry = known(session, &options.name)?;
    if entry.kind.fields().len() > 1 || entry.per == Per::Node {
        return Err(Error::new(format!("{} is no single value, but drawn with all that belongs to it", options.name))
            .next(format!("run: ostack-image secrets rotate {}", options.name)));
    }
    let path = options.from.file(session);
    let (mut held, lock) = options.from.key.open_with_lock(&path, session)?;
    let value = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(format!("Value of {}: ", options.name)).doing(|| "reading the value")?
    } else {
        std::io::stdin().lines().next().transpose().doing(|| "reading the value")?.unwrap_or_default()
    };
    if value.is_empty() {
        return Err(
            Error::new("standard input has no value").next("write it as the first line, for example from a file: … < FILE")
        );
    }
    held.set(options.name.as_str(), entry.kind, value);
    let roles = roles_of(session, &BTreeSet::from([&options.name]))?;
    file::write(&path, &mut held, &lock)?;
    done(global, &path, &[], &roles)
}

fn list(global: &Global, session: &Session, options: &List) -> Result<()> {
    let held = options.from.held(session)?;
    let wanted = unlock::wanted(session, None)?;
    let mut rows = Vec::new();
    for (name, one) in &session.secrets {
        let all = wanted.iter().filter(|wanted| wanted.name == *name).count();
        let drawn = held.as_ref().map_or(0, |held| held.count(name.as_str()));
        let roles = session.roles.iter().filter(|files| {
            files.overlays.iter().flat_map(|overlay| &overlay.overlay.secrets).any(|entry| entry.name.get_ref() == name)
        });
        let roles: Vec<&str> = roles.map(|files| files.role.as_str()).collect();
        rows.push((name, one.entry.kind.as_str(), one.entry.per, roles, drawn, all));
    }
    if global.json {
        let row = |(name, kind, per, roles, drawn, all): &(&Word, &str, Per, Vec<&str>, usize, usize)| json!({ "name": name, "kind": kind, "per": per, "roles": roles, "drawn": drawn, "of": all });
        return print_json(&rows.iter().map(row).collect::<Vec<_>>());
    }
    for (name, kind, per, roles, drawn, all) in rows {
        let whom = if per == Per::Node { "each node" } else { "the site" };
        let state = match (drawn, all) {
            (0, _) => "not drawn".to_string(),
            (1, 1) => "drawn".to_string(),
            (drawn, all) => format!("{drawn} of {all} drawn"),
        };
        out!("{:<24} {kind:<12} {whom:<10} {state:<16} {}", name.as_str(), roles.join(", "));
    }
    Ok(())
}

/// The declaration of a secret that the user named.
fn known<'s>(session: &'s Session, name: &Word) -> Result<&'s crate::model::secret::SecretEntry> {
    session.secrets.get(name).map(|one| &one.entry).ok_or_else(|| {
        Error::new(format!("no overlay declares the secret {name}")).next("see their names with: ostack-image secrets list")
    })
}

/// The roles whose nodes have files with any of these.
fn roles_of(session: &Session, names: &BTreeSet<&Word>) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for files in &session.roles {
        let mut planner = session.planner(files)?;
        let mut asked = Needed::of(&mut planner, None)?.role;
        let mut nodes = planner.nodes();
        for node in session.site.of_role(files.role) {
            asked.extend(seed::asked(&nodes.plan(node)?));
        }
        if asked.iter().any(|reference| names.iter().any(|name| name.as_str() == reference.name)) {
            roles.push(files.role);
        }
    }
    Ok(roles)
}

fn kinds(new: &[&Wanted]) -> BTreeMap<&'static str, usize> {
    let mut kinds: BTreeMap<SecretKind, usize> = BTreeMap::new();
    for one in new {
        *kinds.entry(one.kind).or_default() += 1;
    }
    kinds.into_iter().map(|(kind, count)| (kind.as_str(), count)).collect()
}

/// How many of what kind.
fn told(new: &[&Wanted]) {
    for (kind, count) in kinds(new) {
        out!("{count:>6}  {kind}");
    }
}

/// What changed, and whom it concerns.
fn done(global: &Global, path: &Path, new: &[&Wanted], roles: &[Role]) -> Result<()> {
    if global.json {
        return print_json(&json!({ "file": path, "drawn": kinds(new), "roles": roles }));
    }
    told(new);
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    match &roles[..] {
        [] => out!("{}: no file of a node has what changed", path.display()),
        roles => out!("{}: seed again the nodes of: {}", path.display(), roles.join(", ")),
    }
    Ok(())
}
