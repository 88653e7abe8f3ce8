//! `images/disk.toml`: the disk that qcow2 and raw images are.

use super::Source;
use crate::base::error::{Error, Result};
use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    size: Spanned<String>,
    system: Spanned<String>,
    menu_timeout: u32,
}

/// The disk's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// The disk's size in bytes, a multiple of 1 MiB.
    pub size: u64,
    /// The least size of the system partition in bytes: room for a later, larger image in front of the state.
    pub system: u64,
    /// How long the boot menu waits, in seconds.
    pub menu_timeout: u32,
}

/// Reads the settings.
///
/// # Errors
/// With file and line.
pub fn parse(source: &Source<'_>) -> Result<DiskSpec> {
    let written: Written = source.toml()?;
    let bytes =
        |value: &Spanned<String>| bytes(value.get_ref()).map_err(|error| error.at(source.file, source.line(&value.span())));
    let (size, system) = (bytes(&written.size)?, bytes(&written.system)?);
    if system >= size {
        return Err(source
            .error(&written.system.span(), "the system partition is as large as the disk")
            .next("leave room for the state partition"));
    }
    Ok(DiskSpec { size, system, menu_timeout: written.menu_timeout })
}

/// A size in whole MiB: "512 MiB", "10 GiB", "20G" (binary units, as QEMU reads them).
///
/// # Errors
/// Anything else.
pub fn bytes(text: &str) -> Result<u64> {
    let bad = || Error::new(format!("`{text}` is no size")).next("write a number and MiB, GiB or TiB, such as \"10 GiB\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let shift = match text[digits..].trim() {
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_mebibytes() {
        assert_eq!(bytes("10 GiB").unwrap(), 10 << 30);
        assert_eq!(bytes("20G").unwrap(), 20 << 30);
        for bad in ["", "10", "x", "-1G", "1.5 GiB", "0 MiB", "10 GB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
