//! A config drive with a node's seed: what OpenStack's bare metal service takes for a machine that it deploys an image to.
//!
//! ```text
//! ISO 9660, volume label config-2
//! ├── ostack/seed.img                       the seed, as ostack-image seed writes it
//! └── openstack/latest/meta_data.json       name and hostname, for those who look for them there
//! ```

use crate::base::bundle::{CONFIG_DRIVE, CONFIG_DRIVE_SEED};
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::base::gpt::Guid;
use crate::layer::sandbox::Sandbox;
use serde_json::json;
use std::path::Path;

/// Writes a config drive. `loaders` is the root that has xorriso, `seed` the node's seed; time is in seconds since 1970.
///
/// # Errors
/// xorriso fails, or the file cannot be written.
pub fn write(loaders: &Path, node: &str, seed: &Path, file: &Path, epoch: i64) -> Result<u64> {
    let scratch = tempfile::tempdir().doing(|| "creating a temporary folder")?;
    let out = scratch.path();
    let id = Guid::derived(&crate::base::digest::Digest::of(node), "instance").to_string().to_lowercase();
    let meta = json!({ "uuid": id, "name": node, "hostname": node });
    std::fs::write(out.join("meta_data.json"), meta.to_string()).doing(|| "writing the metadata")?;
    std::fs::write(out.join("seed.img"), fs::read(seed)?).doing(|| "writing the seed")?;
    let words = ["xorriso", "-as", "mkisofs", "-graft-points", "-quiet", "-volid", CONFIG_DRIVE, "-rational-rock"];
    let mut command: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
    command.extend(["-uid", "0", "-gid", "0", "-o", "/run/ostack/out/drive.iso"].map(str::to_string));
    command.extend(["--set_all_file_dates".to_string(), format!("={epoch}")]);
    command.push(format!("{CONFIG_DRIVE_SEED}=/run/ostack/out/seed.img"));
    command.push("openstack/latest/meta_data.json=/run/ostack/out/meta_data.json".to_string());
    Sandbox::new(loaders)
        .bind_writable(out, "/run/ostack/out")
        .env("SOURCE_DATE_EPOCH", &epoch.to_string())
        .run(command, b"")
        .map_err(|error| error.doing("writing the config drive"))?;
    let bytes = fs::read(&out.join("drive.iso"))?;
    let size = bytes.len() as u64;
    let new = fs::temporary_beside(file)?;
    std::io::Write::write_all(&mut new.as_file(), &bytes).doing(|| format!("writing {}", file.display()))?;
    // It carries secrets.
    fs::persist(new, file, 0o600)?;
    Ok(size)
}
