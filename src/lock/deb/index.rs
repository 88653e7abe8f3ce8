//! The archives' verified `Packages` lists, as far as locking needs them.

use crate::base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// One version of a package in one suite. Borrows from the list's text; values are as written there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stanza<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub arch: &'a str,
    pub path: &'a str,
    pub size: &'a str,
    pub sha256: &'a str,
    /// The source package that it was built from.
    pub source: &'a str,
    pub essential: bool,
    /// Index of the suite in the release.
    pub suite: usize,
    depends: &'a str,
    pre_depends: &'a str,
    provides: &'a str,
}

impl<'a> Stanza<'a> {
    /// The names of every package that may satisfy a dependency, over all alternatives.
    fn needs(&self) -> impl Iterator<Item = &'a str> {
        [self.pre_depends, self.depends].into_iter().flat_map(names)
    }

    /// The same as the alternatives of each dependency.
    pub fn groups(&self) -> impl Iterator<Item = Vec<&'a str>> {
        let groups = [self.pre_depends, self.depends].into_iter().flat_map(|field| field.split(','));
        groups.map(|group| names(group).collect::<Vec<_>>()).filter(|group| !group.is_empty())
    }

    /// The virtual packages that it provides.
    pub fn provided(&self) -> impl Iterator<Item = &'a str> {
        names(self.provides)
    }
}

/// The package names in a relation field, without versions, architectures and grouping.
fn names(field: &str) -> impl Iterator<Item = &str> {
    let name = |relation: &'_ str| relation.find([' ', '(', ':', '[', '\t', '\n']).unwrap_or(relation.len());
    field.split([',', '|']).map(str::trim).map(move |relation| &relation[..name(relation)]).filter(|name| !name.is_empty())
}

/// Every package of every suite, by name.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    packages: BTreeMap<&'a str, Vec<Stanza<'a>>>,
}

impl<'a> Index<'a> {
    /// Adds the `Packages` list of a component of suite number `suite`.
    ///
    /// # Errors
    /// A package lacks what locking needs.
    pub fn add(&mut self, suite: usize, text: &'a str) -> Result<()> {
        let mut stanza = Stanza { suite, ..Stanza::default() };
        // The field that a continuation line would belong to, and where its value begins.
        let mut open: Option<(&'a str, usize)> = None;
        let mut position = 0;
        for line in text.split_inclusive('\n').chain(["\n"]) {
            if !line.starts_with([' ', '\t']) {
                if let Some((key, start)) = open.take() {
                    set(&mut stanza, key, text[start..position].trim());
                }
                match line.split_once(':') {
                    Some((key, _)) => open = Some((key, position + key.len() + 1)),
                    None => self.close(std::mem::replace(&mut stanza, Stanza { suite, ..Stanza::default() }))?,
                }
            }
            position += line.len();
        }
        Ok(())
    }

    fn close(&mut self, mut stanza: Stanza<'a>) -> Result<()> {
        if stanza.name.is_empty() {
            return Ok(());
        }
        let needed = [
            ("Version", stanza.version),
            ("Architecture", stanza.arch),
            ("Filename", stanza.path),
            ("Size", stanza.size),
            ("SHA256", stanza.sha256),
        ];
        if let Some((field, _)) = needed.iter().find(|(_, value)| value.is_empty()) {
            return Err(Error::new(format!("the archive's list has no {field} for the package `{}`", stanza.name))
                .next("use an archive whose lists have sha256 digests"));
        }
        stanza.source = match stanza.source.split_whitespace().next() {
            Some(source) => source,
            None => stanza.name,
        };
        self.packages.entry(stanza.name).or_default().push(stanza);
        Ok(())
    }

    /// Every version of a package, in the order of the suites; none when the archives lack it.
    pub fn versions(&self, name: &str) -> &[Stanza<'a>] {
        self.packages.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The packages that no system can be without.
    pub fn essential(&self) -> BTreeSet<&'a str> {
        self.packages.values().flatten().filter(|stanza| stanza.essential).map(|stanza| stanza.name).collect()
    }

    /// The packages that provide a virtual one.
    pub fn providers(&self, name: &str) -> BTreeSet<&'a str> {
        let provides = |stanza: &&Stanza<'a>| stanza.provided().any(|provided| provided == name);
        self.packages.values().flatten().filter(provides).map(|stanza| stanza.name).collect()
    }

    /// What the archives would allow `roots` to depend on, in any version, through any alternative.
    pub fn reach(&self, roots: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = roots.into_iter().collect();
        while let Some(name) = open.pop() {
            if reached.insert(name) {
                open.extend(self.versions(name).iter().flat_map(Stanza::needs));
            }
        }
        reached
    }
}

/// Those of `chosen` that `roots` depend on within it, directly or not, and the roots.
pub(super) fn closure<'a>(chosen: &BTreeMap<&'a str, Stanza<'a>>, roots: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut providers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for stanza in chosen.values() {
        for provided in stanza.provided().chain([stanza.name]) {
            providers.entry(provided).or_default().push(stanza.name);
        }
    }
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = roots.into_iter().collect();
    while let Some(name) = open.pop() {
        let Some(stanza) = chosen.get(name) else { continue };
        if reached.insert(stanza.name) {
            open.extend(stanza.needs().filter_map(|need| providers.get(need)).flatten().copied());
        }
    }
    reached
}

fn set<'a>(stanza: &mut Stanza<'a>, key: &str, value: &'a str) {
    let field = match key {
        "Package" => &mut stanza.name,
        "Version" => &mut stanza.version,
        "Architecture" => &mut stanza.arch,
        "Filename" => &mut stanza.path,
        "Size" => &mut stanza.size,
        "SHA256" => &mut stanza.sha256,
        "Source" => &mut stanza.source,
        "Depends" => &mut stanza.depends,
        "Pre-Depends" => &mut stanza.pre_depends,
        "Provides" => &mut stanza.provides,
        "Essential" => {
            stanza.essential = value == "yes";
            return;
        }
        _ => return,
    };
    *field = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Package: proxy\nSource: proxy-src (3.0)\nVersion: 3.0-1\nArchitecture: amd64\n\
        Depends: libproxy (= 3.0-1), init | launcher:any (>= 2),\n mail\nDescription: forwards\n what it gets\n\
        Filename: pool/proxy.deb\nSize: 5\nSHA256: 00\n\n\n\
        Package: postfix\nVersion: 1\nArchitecture: all\nEssential: yes\nProvides: mail (= 1), other\n\
        Pre-Depends: libc\nFilename: pool/postfix.deb\nSize: 6\nSHA256: 11";

    fn index() -> Index<'static> {
        let mut index = Index::default();
        index.add(7, LIST).unwrap();
        index
    }

    #[test]
    fn a_list_is_read_with_continued_lines_and_without_a_last_empty_one() {
        let index = index();
        let said = |name: &str| {
            let [one] = index.versions(name) else { panic!("{name}") };
            let needs: Vec<&str> = one.needs().collect();
            format!(
                "{} {} {} {} {} {} {} {} {} {needs:?}",
                one.name, one.version, one.arch, one.path, one.size, one.sha256, one.source, one.essential, one.suite
            )
        };
        assert_eq!(
            said("proxy"),
            r#"proxy 3.0-1 amd64 pool/proxy.deb 5 00 proxy-src false 7 ["libproxy", "init", "launcher", "mail"]"#
        );
        assert_eq!(said("postfix"), r#"postfix 1 all pool/postfix.deb 6 11 postfix true 7 ["libc"]"#);
    }

    #[test]
    fn virtual_packages_are_found_by_who_provides_them() {
        let index = index();
        let found = (index.versions("mail").len(), index.providers("mail"), index.providers("proxy"), index.essential());
        assert_eq!(found, (0, BTreeSet::from(["postfix"]), BTreeSet::new(), BTreeSet::from(["postfix"])));
    }

    #[test]
    fn a_closure_follows_providers_within_what_was_chosen() {
        let index = index();
        let chosen = ["proxy", "postfix"].map(|name| (name, index.versions(name)[0])).into();
        assert_eq!(closure(&chosen, ["proxy"]), BTreeSet::from(["postfix", "proxy"]));
        assert_eq!(closure(&chosen, ["postfix"]), BTreeSet::from(["postfix"]));
    }

    #[test]
    fn a_list_without_digests_is_refused() {
        let text = LIST.replace("SHA256: 11", "MD5sum: 11");
        assert_eq!(
            Index::default().add(0, &text).unwrap_err().to_string(),
            "the archive's list has no SHA256 for the package `postfix`\n  next: use an archive whose lists have sha256 digests"
        );
    }
}
