//! Where archives are: what the site or the command line says, else the build machine's own apt sources.
//!
//! A mirror is no input of any digest: whatever comes from it is checked against the archive's signature
//! or the lock.

use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::base::name::Word;
use std::collections::BTreeMap;
use std::path::Path;

const MAIN: &str = "debian";
const SECURITY: &str = "debian-security";

/// Archive name -> base URLs without a trailing slash, the preferred one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    urls: BTreeMap<Word, Vec<String>>,
}

impl Mirrors {
    /// Finds archives: each one in `explicit` (archive name -> base URL) is taken from there alone; the
    /// others from the apt sources below `etc_apt` (the build machine's is `/etc/apt`).
    ///
    /// An explicit `debian` whose URL ends in `/debian` says where `debian-security` is, too: beside it.
    /// In apt's sources, suites ending in `-security` and URLs ending in `/debian-security` belong to
    /// `debian-security`, the other URLs ending in `/debian` to `debian`; all else is ignored, and so is
    /// what cannot be read as a source.
    ///
    /// # Errors
    /// An explicit URL is none, or the sources cannot be read. An archive that is nowhere is an error only
    /// when it is asked for, by [`Mirrors::of`].
    pub fn find(explicit: &BTreeMap<Word, String>, etc_apt: &Path) -> Result<Self> {
        let mut mirrors = Self::default();
        for (archive, url) in explicit {
            mirrors.urls.insert(
                archive.clone(),
                vec![base_url(url).map_err(|error| error.doing(format!("reading the mirror of {archive}")))?],
            );
        }
        let security: Word = SECURITY.parse()?;
        let beside = mirrors.urls.get(&MAIN.parse::<Word>()?).and_then(|urls| urls.first()?.strip_suffix("/debian"));
        if let (Some(parent), false) = (beside, mirrors.urls.contains_key(&security)) {
            let url = format!("{parent}/{SECURITY}");
            mirrors.urls.insert(security, vec![url]);
        }
        let known: Vec<Word> = mirrors.urls.keys().cloned().collect();
        for source in sources(etc_apt)? {
            let Some(archive) = source.archive() else { continue };
            let archive: Word = archive.parse()?;
            let Ok(url) = base_url(&source.uri) else { continue };
            let urls = mirrors.urls.entry(archive.clone()).or_default();
            if !known.contains(&archive) && !urls.contains(&url) {
                urls.push(url);
            }
        }
        Ok(mirrors)
    }

    /// The base URLs of an archive, without a trailing slash; at least one.
    ///
    /// # Errors
    /// Nobody says where it is; the remedy is what to write in the site file.
    pub fn of(&self, archive: &Word) -> Result<&[String]> {
        match self.urls.get(archive) {
            Some(urls) if !urls.is_empty() => Ok(urls),
            // Only these are looked for in apt's sources.
            _ if [MAIN, SECURITY].contains(&archive.as_str()) => {
                Err(Error::new(format!("no mirror of the archive `{archive}` is known: this machine's apt sources name none"))
                    .next(format!("write {archive} = \"URL\" below [mirror] in site.toml, or give --mirror URL")))
            }
            _ => Err(Error::new(format!("no mirror of the archive `{archive}` is known"))
                .next(format!("write {archive} = \"URL\" below [mirror] in site.toml"))),
        }
    }
}

/// Checks a base URL and takes its trailing slashes off.
fn base_url(text: &str) -> Result<String> {
    let url = text.trim().trim_end_matches('/');
    let plain = !url.chars().any(|c| c.is_whitespace() || c.is_control());
    match url.split_once("://") {
        Some(("http" | "https", rest)) if plain && !rest.is_empty() => Ok(url.to_string()),
        Some(("file", rest)) if plain && rest.starts_with('/') => Ok(url.to_string()),
        // apt's sources also write local archives as file:/path.
        None if plain && url.starts_with("file:/") => Ok(url.replacen("file:", "file://", 1)),
        _ => Err(Error::new(format!("`{text}` is no mirror's URL")).next("write http://…, https://… or file:///…")),
    }
}

/// One suite of one `deb` source.
#[derive(Debug)]
struct AptSource {
    uri: String,
    suite: String,
}

impl AptSource {
    fn archive(&self) -> Option<&'static str> {
        let last = self.uri.trim_end_matches('/').rsplit('/').next()?;
        match last {
            SECURITY => Some(SECURITY),
            // Derivatives name their suites alike but keep security updates in their main archive.
            _ if self.suite.ends_with("-security") && last.contains(MAIN) => Some(SECURITY),
            _ if self.suite.ends_with("-security") && last.contains("security") => Some(SECURITY),
            MAIN => Some(MAIN),
            _ => None,
        }
    }
}

/// Every `deb` source below an apt configuration folder, in apt's order.
fn sources(etc_apt: &Path) -> Result<Vec<AptSource>> {
    let mut found = Vec::new();
    let list = etc_apt.join("sources.list");
    if list.exists() {
        found.extend(one_line_sources(&fs::read_text(&list)?));
    }
    for path in fs::sorted_dir(&etc_apt.join("sources.list.d"))? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => found.extend(one_line_sources(&fs::read_text(&path)?)),
            Some("sources") => found.extend(stanza_sources(&fs::read_text(&path)?)),
            _ => {}
        }
    }
    Ok(found)
}

/// `deb [options] URI suite components…`
fn one_line_sources(text: &str) -> Vec<AptSource> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => match options.split_once(']') {
                Some((_, rest)) => rest,
                None => continue,
            },
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            found.push(AptSource { uri: uri.to_string(), suite: suite.to_string() });
        }
    }
    found
}

/// deb822: stanzas of `Key: value` with continuation lines; every URI goes with every suite.
fn stanza_sources(text: &str) -> Vec<AptSource> {
    let mut found = Vec::new();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')).chain([""]) {
        if line.trim().is_empty() {
            found.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            fields.entry(last.clone()).or_default().push_str(line);
        } else if let Some((key, value)) = line.split_once(':') {
            last = key.trim().to_ascii_lowercase();
            fields.insert(last.clone(), value.to_string());
        }
    }
    found
}

fn stanza(fields: &BTreeMap<String, String>) -> Vec<AptSource> {
    let words = |key: &str| fields.get(key).map(|value| value.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let off = words("enabled").first().is_some_and(|value| ["no", "false", "0", "off", "without", "disable"].contains(value));
    if off || !words("types").contains(&"deb") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for uri in words("uris") {
        for suite in words("suites") {
            found.push(AptSource { uri: uri.to_string(), suite: suite.to_string() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::word;
    use super::*;

    fn found(files: &[(&str, &str)], explicit: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        let explicit = explicit.iter().map(|(name, url)| (word(name), (*url).to_string())).collect();
        let mirrors = Mirrors::find(&explicit, folder.path()).unwrap();
        mirrors.urls.into_iter().map(|(name, urls)| (name.to_string(), urls)).collect()
    }

    fn said(archives: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |urls: &[&str]| urls.iter().map(|url| (*url).to_string()).collect();
        archives.iter().map(|(name, urls)| ((*name).to_string(), owned(urls))).collect()
    }

    #[test]
    fn one_line_sources_say_where_the_archives_are() {
        let list = "# deb http://commented.example/debian stable main\n\
                    deb-src http://source.example/debian stable main\n\
                    deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/debian/ stable main # the nearest\n\
                    deb\thttp://mirror.example/debian stable-updates main\n\
                    deb http://mirror.example/debian-security stable-security main\n\
                    deb http://mirror.example/security-mirror stable-security main\n\
                    deb http://other.example/tools stable main\n\
                    deb http://mirror.example/ubuntu noble-security main\n\
                    deb [broken http://broken.example/debian stable main\n";
        assert_eq!(
            found(&[("sources.list", list)], &[]),
            said(&[
                ("debian", &["http://mirror.example/debian"]),
                ("debian-security", &["http://mirror.example/debian-security", "http://mirror.example/security-mirror"]),
            ])
        );
    }

    #[test]
    fn stanza_sources_say_where_the_archives_are() {
        let sources = "Types: deb deb-src\n# a comment between fields\nURIs: http://a.example/debian\n  http://b.example/debian/\n\
                       Suites: stable stable-updates\nComponents: main\n\n\
                       Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: stable\n\n\
                       types: deb\nuris: file:/srv/debian-security\nsuites: stable-security\n\n\
                       Types: deb-src\nURIs: http://source.example/debian\nSuites: stable";
        assert_eq!(
            found(&[("sources.list.d/debian.sources", sources)], &[]),
            said(&[
                ("debian", &["http://a.example/debian", "http://b.example/debian"]),
                ("debian-security", &["file:///srv/debian-security"]),
            ])
        );
    }

    #[test]
    fn only_files_that_apt_reads_count_and_the_main_file_comes_first() {
        let files = [
            ("sources.list.d/a.list", "deb http://second.example/debian stable main"),
            ("sources.list.d/b.list.disabled", "deb http://off.example/debian stable main"),
            ("sources.list", "deb http://first.example/debian stable main"),
        ];
        assert_eq!(found(&files, &[]), said(&[("debian", &["http://first.example/debian", "http://second.example/debian"])]));
    }

    #[test]
    fn an_explicit_mirror_replaces_the_machines_and_implies_security_beside_it() {
        let files = [(
            "sources.list",
            "deb http://host.example/debian stable main\ndeb http://host.example/debian-security stable-security main",
        )];
        assert_eq!(
            found(&files, &[("debian", "http://site.example/pub/debian/")]),
            said(&[
                ("debian", &["http://site.example/pub/debian"]),
                ("debian-security", &["http://site.example/pub/debian-security"]),
            ])
        );
        assert_eq!(
            found(&files, &[("debian-security", "https://site.example/s")]),
            said(&[("debian", &["http://host.example/debian"]), ("debian-security", &["https://site.example/s"])])
        );
    }

    #[test]
    fn an_unknown_archive_is_an_error_that_says_what_to_write() {
        assert_eq!(
            Mirrors::default().of(&word("debian")).unwrap_err().to_string(),
            "no mirror of the archive `debian` is known: this machine's apt sources name none\n  \
             next: write debian = \"URL\" below [mirror] in site.toml, or give --mirror URL"
        );
        assert_eq!(
            Mirrors::default().of(&word("vault")).unwrap_err().to_string(),
            "no mirror of the archive `vault` is known\n  next: write vault = \"URL\" below [mirror] in site.toml"
        );
    }

    #[test]
    fn an_explicit_mirror_must_be_a_url() {
        for bad in ["", "mirror.example/debian", "ftp://mirror.example/debian", "file://relative", "http://a b", "http://"] {
            let explicit = BTreeMap::from([(word("debian"), bad.to_string())]);
            let error = Mirrors::find(&explicit, Path::new("no-such-folder")).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "reading the mirror of debian: `{bad}` is no mirror's URL\n  next: write http://…, https://… or file:///…"
                )
            );
        }
    }
}
