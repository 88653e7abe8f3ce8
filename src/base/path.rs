//! Paths inside a root tree.

use crate::base::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A path inside a root: relative, without `.`, `..`, empty parts or NUL; the root itself is empty.
///
/// Compared part by part, so that a directory comes right before what is in it. Written with a leading `/`
/// wherever a person reads it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(String);

impl RelPath {
    /// The path as text without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        match self.0.rsplit_once('/') {
            Some((parent, _)) => Some(Self(parent.to_string())),
            None if self.0.is_empty() => None,
            None => Some(Self::root()),
        }
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The entry `name` in this directory.
    ///
    /// # Errors
    /// `name` is no single part.
    pub fn join(&self, name: &str) -> Result<Self> {
        if self.is_root() { name.parse() } else { format!("{}/{name}", self.0).parse() }
    }

    /// Where this path lies below `root` on the build machine.
    pub fn under(&self, root: &Path) -> PathBuf {
        if self.is_root() { root.to_path_buf() } else { root.join(&self.0) }
    }

    /// Whether this is `other` or something in it.
    pub fn is_in(&self, other: &Self) -> bool {
        other.is_root() || self.0.strip_prefix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for RelPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let path = text.trim_matches('/');
        let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 255 || part.contains('\0');
        if !path.is_empty() && path.split('/').any(bad) {
            return Err(Error::new(format!("`{text}` is no path inside a root"))
                .next("write an absolute path without `.`, `..` or empty parts"));
        }
        Ok(Self(path.to_string()))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.split('/').cmp(other.0.split('/'))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if !text.starts_with('/') {
            return Err(serde::de::Error::custom(format!("`{text}` is not absolute; write a path that begins with /")));
        }
        text.parse().map_err(|error: Error| {
            serde::de::Error::custom(format!("{}; {}", error.cause(), error.remedy().unwrap_or_default()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_root() {
        for bad in ["/a/../b", "..", "a//b", "./a", "a/\0"] {
            assert!(bad.parse::<RelPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_sorts_right_before_what_is_in_it() {
        let mut paths: Vec<RelPath> = ["etc-x", "etc/a", "etc", "etc.d"].iter().map(|p| p.parse().unwrap()).collect();
        paths.sort();
        assert_eq!(format!("{paths:?}"), "[/etc, /etc/a, /etc-x, /etc.d]");
    }

    #[test]
    fn being_inside_goes_by_whole_parts() {
        let etc: RelPath = "/etc".parse().unwrap();
        assert!("/etc/a".parse::<RelPath>().unwrap().is_in(&etc));
        assert!(!"/etcd".parse::<RelPath>().unwrap().is_in(&etc));
    }
}
