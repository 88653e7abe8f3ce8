//! The site's secrets as a verb's options name them: which file, and what opens it. No option's value is a secret, because
//! everybody on the machine can read a program's arguments.

use super::session::Session;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::PASSPHRASE;
use crate::secrets::file::{self, Key, Lock, SHORTEST_PASSPHRASE};
use crate::secrets::{self, Held, wanted};
use age::secrecy::{ExposeSecret, SecretString};
use clap::Args;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Where the secrets are, for verbs that only read them.
#[derive(Args, Clone, Default)]
pub(super) struct From {
    /// Secrets, if not secrets.age beside the site
    #[arg(long, value_name = "FILE", env = "OSTACK_SECRETS", hide_env_values = true)]
    secrets: Option<PathBuf>,
    #[command(flatten)]
    pub key: Opener,
}

/// What opens the file.
#[derive(Args, Clone, Default)]
pub(super) struct Opener {
    /// Has their passphrase; else OSTACK_PASSPHRASE or a question
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// An age identity that opens them; may be repeated
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
}

impl From {
    /// From a file, or from the usual one.
    pub fn file_or_usual(file: Option<PathBuf>, key: &Opener) -> Self {
        let variable = || std::env::var_os("OSTACK_SECRETS").filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { secrets: file.or_else(variable), key: key.clone() }
    }

    /// The file, whether it is there or not.
    pub fn file(&self, session: &Session) -> PathBuf {
        let beside = || session.site_file.parent().unwrap_or(Path::new("")).join(file::NAME);
        self.secrets.clone().unwrap_or_else(beside)
    }

    /// The secrets; none where there is no file and nobody named one.
    pub fn held(&self, session: &Session) -> Result<Option<Held>> {
        let path = self.file(session);
        if !path.exists() && self.secrets.is_none() {
            return Ok(None);
        }
        self.key.open(&path, session).map(Some)
    }
}

/// There is no file of secrets where one is needed.
pub(super) fn not_there(path: &Path) -> Error {
    Error::new(format!("there are no secrets yet: {} does not exist", path.display())).next(format!("run: {}", secrets::INIT))
}

impl Opener {
    /// Opens a file of secrets for the session's site.
    pub fn open(&self, path: &Path, session: &Session) -> Result<Held> {
        self.open_with_lock(path, session).map(|(held, _)| held)
    }

    /// The same, with what would encrypt it again.
    pub fn open_with_lock(&self, path: &Path, session: &Session) -> Result<(Held, Lock)> {
        if !path.exists() {
            return Err(not_there(path));
        }
        let closed = file::read(path)?;
        let key = if closed.by_passphrase {
            Key::Passphrase(
                self.passphrase()?.ok_or_else(|| no_key(path, "a passphrase", "--passphrase-file FILE or OSTACK_PASSPHRASE"))?,
            )
        } else {
            Key::Identities(self.identities(path)?)
        };
        let held = closed.open(&key)?;
        let site = session.site.name.to_string();
        if held.site != site {
            return Err(Error::new(format!("these are the secrets of the site {}, and this is {site}", held.site))
                .at(path, None)
                .next("name this site's with --secrets FILE, or give the site its old name"));
        }
        let lock = match key {
            Key::Passphrase(passphrase) => Lock::Passphrase(passphrase),
            Key::Identities(_) => Lock::Recipients(held.recipients.clone()),
        };
        Ok((held, lock))
    }

    /// The passphrase of a new file, from wherever it is.
    pub fn new_passphrase(&self) -> Result<SecretString> {
        let passphrase = match self.given()? {
            Some(given) => given,
            None if std::io::stdin().is_terminal() => {
                let first = ask("Passphrase for the new file of secrets: ")?;
                if first.expose_secret() != ask("The same once more: ")?.expose_secret() {
                    return Err(Error::new("the two passphrases differ").next("try again"));
                }
                first
            }
            None => {
                return Err(Error::new("nothing says what the file of secrets is to be encrypted to")
                    .next("give --passphrase-file FILE, OSTACK_PASSPHRASE or --recipient age1…"));
            }
        };
        if passphrase.expose_secret().chars().count() < SHORTEST_PASSPHRASE {
            return Err(
                Error::new("the passphrase is too short").next(format!("take one of {SHORTEST_PASSPHRASE} characters or more"))
            );
        }
        Ok(passphrase)
    }

    fn passphrase(&self) -> Result<Option<SecretString>> {
        match self.given()? {
            Some(given) => Ok(Some(given)),
            None if std::io::stdin().is_terminal() => ask("Passphrase of the site's secrets: ").map(Some),
            None => Ok(None),
        }
    }

    fn given(&self) -> Result<Option<SecretString>> {
        if let Some(path) = &self.passphrase_file {
            let text = fs::read_text(path)?;
            let line = text.lines().next().unwrap_or_default();
            if line.is_empty() {
                return Err(Error::new("its first line is empty").at(path, 1).next("write the passphrase there"));
            }
            return Ok(Some(line.to_string().into()));
        }
        let value = std::env::var(PASSPHRASE).ok().filter(|value| !value.is_empty());
        Ok(value.map(Into::into))
    }

    fn identities(&self, path: &Path) -> Result<Vec<Box<dyn age::Identity + Send + Sync>>> {
        if self.identity.is_empty() {
            return Err(no_key(path, "an identity", "--identity FILE"));
        }
        let mut all = Vec::new();
        for path in &self.identity {
            all.extend(file::identities(path)?);
        }
        Ok(all)
    }
}

fn no_key(path: &Path, what: &str, next: &str) -> Error {
    Error::new(format!("it takes {what} to open it")).at(path, None).next(format!("give {next}"))
}

fn ask(prompt: &str) -> Result<SecretString> {
    rpassword::prompt_password(prompt).map(Into::into).doing(|| "reading the passphrase")
}

/// Everything that the overlays ask for; of what each node has, with `only`, that node's.
pub(super) fn wanted(session: &Session, only: Option<&crate::model::site::Node>) -> Result<Vec<secrets::Wanted>> {
    let planners = session.roles.iter().map(|files| session.planner(files)).collect::<Result<Vec<_>>>()?;
    wanted::of_site(&planners, &session.site, session.guide_passwords(), only)
}
