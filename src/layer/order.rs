//! In which order packages are unpacked and configured: Debian policy 7.2, as apt does it.
//!
//! A package may be unpacked once everything it pre-depends on is configured; all else waits until everything
//! is unpacked, and dpkg itself then finds the order of configuration.

use super::deb::{Control, relations};
use std::collections::{BTreeMap, BTreeSet};

/// One call of dpkg; the numbers are positions in the list of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `dpkg --unpack` of these.
    Unpack(Vec<usize>),
    /// `dpkg --configure` of these, because others pre-depend on them.
    Configure(Vec<usize>),
}

/// The calls of dpkg that unpack `packages`; configuring what is pending comes after them.
/// What a relationship names outside the list is taken to be configured already.
pub fn actions(packages: &[Control]) -> Vec<Action> {
    let graph = Graph::new(packages);
    let mut unpacked: BTreeSet<usize> = BTreeSet::new();
    let mut configured: BTreeSet<usize> = BTreeSet::new();
    let mut actions = Vec::new();
    loop {
        let ready: Vec<usize> =
            (0..packages.len()).filter(|one| !unpacked.contains(one) && graph.before[*one].is_subset(&configured)).collect();
        if !ready.is_empty() {
            unpacked.extend(&ready);
            actions.push(Action::Unpack(ready));
        }
        let waiting: Vec<usize> = (0..packages.len()).filter(|one| !unpacked.contains(one)).collect();
        if waiting.is_empty() {
            return actions;
        }
        // What has its whole closure unpacked can be configured; the rest waits for a later round.
        let before: BTreeSet<usize> = waiting.iter().flat_map(|one| graph.before[*one].iter().copied()).collect();
        let mut next: Vec<usize> = Vec::new();
        for one in before {
            let mut closure = BTreeSet::from([one]);
            graph.close(&mut closure);
            if closure.is_subset(&unpacked) {
                next.extend(closure.difference(&configured));
            }
        }
        next.sort_unstable();
        next.dedup();
        if next.is_empty() {
            // A cycle of pre-dependencies, which policy forbids: let dpkg say so.
            actions.push(Action::Unpack(waiting));
            return actions;
        }
        configured.extend(&next);
        actions.push(Action::Configure(next));
    }
}

/// The packages whose closure of dependencies must be there before dpkg can run: positions of the essential ones.
pub fn essential(packages: &[Control]) -> Vec<usize> {
    let is = |control: &Control| control.get("essential").is_some_and(|value| value == "yes");
    let mut set: BTreeSet<usize> = (0..packages.len()).filter(|one| is(&packages[*one])).collect();
    Graph::new(packages).close(&mut set);
    set.into_iter().collect()
}

/// The positions reachable from the named packages.
pub fn closure(packages: &[Control], roots: &[&str]) -> Vec<usize> {
    let named = |control: &Control| control.get("package").is_some_and(|name| roots.contains(&name.as_str()));
    let mut set: BTreeSet<usize> = (0..packages.len()).filter(|one| named(&packages[*one])).collect();
    Graph::new(packages).close(&mut set);
    set.into_iter().collect()
}

struct Graph {
    /// Per package: what it pre-depends on, within the list.
    before: Vec<BTreeSet<usize>>,
    /// Per package: what it depends or pre-depends on, within the list.
    with: Vec<BTreeSet<usize>>,
}

impl Graph {
    fn new(packages: &[Control]) -> Self {
        let mut providers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let provided: Vec<Vec<Vec<String>>> =
            packages.iter().map(|control| relations(control.get("provides").map_or("", String::as_str))).collect();
        for (position, control) in packages.iter().enumerate() {
            if let Some(name) = control.get("package") {
                providers.entry(name).or_default().push(position);
            }
        }
        for (position, names) in provided.iter().enumerate() {
            for name in names.iter().flatten() {
                providers.entry(name).or_default().push(position);
            }
        }
        let targets = |control: &Control, field: &str| -> BTreeSet<usize> {
            relations(control.get(field).map_or("", String::as_str))
                .iter()
                .filter_map(|group| group.iter().find_map(|name| providers.get(name.as_str())?.first().copied()))
                .collect()
        };
        let before: Vec<BTreeSet<usize>> = packages.iter().map(|control| targets(control, "pre-depends")).collect();
        let with = packages.iter().zip(&before).map(|(control, before)| &targets(control, "depends") | before).collect();
        Self { before, with }
    }

    fn close(&self, set: &mut BTreeSet<usize>) {
        let mut open: Vec<usize> = set.iter().copied().collect();
        while let Some(one) = open.pop() {
            for next in &self.with[one] {
                if set.insert(*next) {
                    open.push(*next);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, pre: &str, depends: &str) -> Control {
        [("package", name), ("pre-depends", pre), ("depends", depends)].into_iter().map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn without_pre_dependencies_everything_is_unpacked_at_once() {
        assert_eq!(actions(&[package("a", "", "b"), package("b", "", "a")]), [Action::Unpack(vec![0, 1])]);
    }

    #[test]
    fn a_pre_dependency_and_what_it_depends_on_are_configured_first() {
        let list = [package("a", "b", ""), package("b", "", "c"), package("c", "", ""), package("d", "", "")];
        assert_eq!(actions(&list), [Action::Unpack(vec![1, 2, 3]), Action::Configure(vec![1, 2]), Action::Unpack(vec![0])]);
    }

    #[test]
    fn a_pre_dependency_whose_own_dependencies_wait_is_configured_in_a_later_round() {
        // ceph-osd and ceph-common, python3 and python3-minimal in Debian 13.
        let list = [
            package("osd", "common", ""),
            package("common", "", "python"),
            package("python", "minimal", ""),
            package("minimal", "", ""),
        ];
        let expected = [
            Action::Unpack(vec![1, 3]),
            Action::Configure(vec![3]),
            Action::Unpack(vec![2]),
            Action::Configure(vec![1, 2]),
            Action::Unpack(vec![0]),
        ];
        assert_eq!(actions(&list), expected);
    }

    #[test]
    fn a_pre_dependency_outside_the_list_is_there_already() {
        assert_eq!(actions(&[package("a", "libc6 (>= 2.38)", "")]), [Action::Unpack(vec![0])]);
    }

    #[test]
    fn a_provided_name_counts() {
        let mut provider = package("mawk", "", "");
        provider.insert("provides".into(), "awk".into());
        let list = [package("a", "awk", ""), provider];
        assert_eq!(actions(&list), [Action::Unpack(vec![1]), Action::Configure(vec![1]), Action::Unpack(vec![0])]);
    }
}
