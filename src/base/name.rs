//! Names that are checked once, where they enter, and trusted afterwards.

use crate::base::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_string()))
                } else {
                    Err(Error::new(format!(concat!("`{}` is no ", $what), text)).next(concat!("write ", $rule)))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(|error: Error| {
                    serde::de::Error::custom(format!("{}; {}", error.cause(), error.remedy().unwrap_or_default()))
                })
            }
        }
    };
}

name!(
    /// A node's host name: one DNS label (RFC 1123), lower case.
    NodeName, "host name", "1 to 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
    |text| (1..=63).contains(&text.len())
        && !text.starts_with('-') && !text.ends_with('-')
        && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
);
name!(
    /// A binary package's name (Debian policy 5.6.7; RPM names fit with their capitals and underscores).
    PackageName, "package name", "letters, digits and + - . _, at least two characters",
    |text| text.len() >= 2
        && text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.' | b'_'))
);
name!(
    /// The name of an overlay, a recipe's parameter, a release or a site: what may be a file name everywhere.
    Word, "name", "lower-case letters, digits and - _ ., beginning with a letter",
    |text| text.bytes().next().is_some_and(|c| c.is_ascii_lowercase())
        && text.len() <= 64
        && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
);
name!(
    /// A systemd unit's file name.
    UnitName, "unit name", "a unit's file name with its suffix, such as haproxy.service",
    |text| {
        let suffixes = ["service", "socket", "timer", "target", "mount", "path", "slice", "automount"];
        text.len() <= 255
            && text.rsplit_once('.').is_some_and(|(stem, suffix)| !stem.is_empty() && suffixes.contains(&suffix))
            && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b':' | b'_' | b'.' | b'-' | b'@' | b'\\'))
    }
);

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// APIs, databases, queues and the cluster manager.
    Controller,
    /// Virtual machines and, in the guide, the network agents.
    Compute,
    /// Ceph monitors, managers and OSDs.
    Storage,
}

impl Role {
    /// Every role, in the order in which a site is built.
    pub const ALL: [Self; 3] = [Self::Controller, Self::Compute, Self::Storage];

    /// The role's name as written in recipes and sites.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Compute => "compute",
            Self::Storage => "storage",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Error::new(format!("`{text}` is no role")).next("write controller, compute or storage"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_one_lower_case_dns_label() {
        for good in ["controller01", "a", "c-1"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "Controller01", "-a", "a-", "a.b", "a_b", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unit_name_has_a_suffix_that_systemd_knows() {
        assert!("ceph-mon@a.service".parse::<UnitName>().is_ok());
        for bad in ["haproxy", "haproxy.conf", ".service", "a/b.service"] {
            assert!(bad.parse::<UnitName>().is_err(), "{bad}");
        }
    }
}
