//! `ostack-image secrets`: drawing the site's passwords, keys and certificates, into one encrypted file. No value is printed.

use super::session::Session;
use super::unlock::{self, From};
use super::{Global, print_json};
use crate::base::error::Result;
use crate::model::secret::SecretKind;
use crate::secrets::file::{self, Lock};
use crate::secrets::{Held, Wanted, draw};
use clap::{Args, Subcommand};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Draw what overlays ask for and is not there yet; the file is made, or added to
    Init(Init),
}

#[derive(Args)]
pub(super) struct Init {
    #[command(flatten)]
    from: From,
    /// Encrypt to this age recipient (age1…) instead of a passphrase; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
}

pub(super) fn run(global: &Global, verb: &Verb) -> Result<()> {
    let session = Session::open(global)?;
    match verb {
        Verb::Init(options) => init(global, &session, options),
    }
}

fn init(global: &Global, session: &Session, options: &Init) -> Result<()> {
    session.warn();
    let wanted = unlock::wanted(session, None)?;
    let path = options.from.file(session);
    let (mut held, lock) = if path.exists() {
        options.from.key.open_with_key(&path, session)?
    } else {
        let lock = match &options.recipient[..] {
            [] => Lock::Passphrase(options.from.key.new_passphrase()?),
            recipients => Lock::Recipients(recipients.to_vec()),
        };
        (Held::new(session.site.name.as_str()), lock)
    };
    let lock = if options.recipient.is_empty() { lock } else { Lock::Recipients(options.recipient.clone()) };
    let new = draw::missing(&mut held, &wanted)?;
    if !new.is_empty() || !options.recipient.is_empty() || !path.exists() {
        file::write(&path, &mut held, &lock)?;
    }
    told(global, &path, &new, wanted.len())
}

/// How many of what kind.
fn told(global: &Global, path: &Path, new: &[&Wanted], all: usize) -> Result<()> {
    let mut kinds: BTreeMap<SecretKind, usize> = BTreeMap::new();
    for one in new {
        *kinds.entry(one.kind).or_default() += 1;
    }
    if global.json {
        let kinds: BTreeMap<&str, usize> = kinds.into_iter().map(|(kind, count)| (kind.as_str(), count)).collect();
        return print_json(&json!({ "file": path, "secrets": all, "drawn": kinds }));
    }
    for (kind, count) in &kinds {
        println!("{count:>6}  {}", kind.as_str());
    }
    println!("{}: {} secrets drawn, {} were there", path.display(), new.len(), all - new.len());
    Ok(())
}
