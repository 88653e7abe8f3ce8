//! The image's manifest: an OCI image manifest whose layers are the read-only filesystems that boot.
//!
//! ```text
//! manifest  layers: base, packages, overlays … (application/vnd.ostack.layer.v1.erofs), bottom first,
//!           then kernel and initrd; annotations of each: dev.ostack.name, dev.ostack.kind, dev.ostack.diff-id
//! config    an OCI image config; its label dev.ostack.boot has the state paths and the command line
//! ```
//!
//! The manifest's digest is the image's name: hosts show it, seeds and disks refer to it.

use crate::base::bundle::BootState;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::lock::date::Moment;
use crate::plan::RolePlan;
use crate::store::{Blob, PREVIOUS, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The media type of a layer in its stored form.
pub const EROFS_LAYER: &str = "application/vnd.ostack.layer.v1.erofs";
const KERNEL: &str = "application/vnd.ostack.kernel.v1";
const INITRD: &str = "application/vnd.ostack.initrd.v1";

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// `system`, `packages`, `ostack-node`, or the overlay's; no two layers of an image share one.
    pub name: String,
    /// `base`, `packages`, `overlay` or `agent`.
    pub kind: String,
    /// Its identity: sha256 of its canonical tar stream.
    pub diff_id: Digest,
    /// Its stored form.
    pub blob: Blob,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The manifest: its digest is the image's.
    pub manifest: Blob,
    /// What the image is for.
    pub role: String,
    /// The release it was built from.
    pub release: String,
    /// Layers, the bottom one first.
    pub layers: Vec<Layer>,
    /// The kernel.
    pub kernel: Blob,
    /// The initrd.
    pub initrd: Blob,
    /// The kernel command line, without the image's digest.
    pub command_line: String,
    /// What outlives a reboot.
    pub state: Vec<BootState>,
    /// Packages by name with their versions.
    pub packages: BTreeMap<String, String>,
    /// The build's time, seconds since 1970.
    pub epoch: i64,
}

#[derive(Serialize, Deserialize)]
struct Boot {
    role: String,
    release: String,
    command_line: String,
    state: Vec<BootState>,
    packages: BTreeMap<String, String>,
    epoch: i64,
}

/// Writes config and manifest of an image and names it.
///
/// # Errors
/// The store cannot be written.
pub fn write(store: &Store, plan: &RolePlan, layers: Vec<Layer>, kernel: Blob, initrd: Blob) -> Result<Image> {
    let state: Vec<BootState> = plan
        .state
        .iter()
        .map(|state| BootState {
            path: state.path.clone(),
            class: serde_json::to_value(state.class)
                .ok()
                .and_then(|class| class.as_str().map(str::to_string))
                .unwrap_or_default(),
            uid: state.uid,
            gid: state.gid,
            mode: state.mode,
        })
        .collect();
    let locked = plan.locked.base.iter().chain(&plan.locked.role);
    let boot = Boot {
        role: plan.role.to_string(),
        release: plan.release.to_string(),
        command_line: plan.command_line.clone(),
        state,
        packages: locked.map(|package| (package.name.to_string(), package.version.clone())).collect(),
        epoch: plan.epoch,
    };
    let created = humane(plan.epoch);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": { "Labels": { "dev.ostack.boot": serde_json::to_string(&boot).doing(|| "writing the image's config")? } },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>() },
        "history": layers.iter().map(|layer| json!({ "created": created, "created_by": format!("ostack-image: {} {}", layer.kind, layer.name) })).collect::<Vec<_>>(),
    });
    let config = store.put_bytes(config.to_string().as_bytes())?;
    let mut entries: Vec<Value> = layers
        .iter()
        .map(|layer| {
            entry(
                EROFS_LAYER,
                layer.blob,
                &[
                    ("dev.ostack.name", &layer.name),
                    ("dev.ostack.kind", &layer.kind),
                    ("dev.ostack.diff-id", &layer.diff_id.to_string()),
                ],
            )
        })
        .collect();
    entries.push(entry(KERNEL, kernel, &[("dev.ostack.kind", "kernel")]));
    entries.push(entry(INITRD, initrd, &[("dev.ostack.kind", "initrd")]));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size },
        "layers": entries,
        "annotations": { "dev.ostack.role": boot.role, "dev.ostack.release": boot.release, "org.opencontainers.image.created": created },
    });
    let manifest = store.put_bytes(manifest.to_string().as_bytes())?;
    store.set_reference(&plan.role.to_string(), &manifest)?;
    Ok(Image {
        manifest,
        role: boot.role,
        release: boot.release,
        layers,
        kernel,
        initrd,
        command_line: boot.command_line,
        state: boot.state,
        packages: boot.packages,
        epoch: boot.epoch,
    })
}

fn entry(media_type: &str, blob: Blob, annotations: &[(&str, &str)]) -> Value {
    let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size, "annotations": annotations })
}

/// Reads an image by name (`controller`) or by digest (`sha256:…`, or its first digits).
///
/// # Errors
/// There is none, or a blob of it is damaged.
pub fn read(store: &Store, name: &str) -> Result<Image> {
    let manifest = find(store, name)?;
    let doing = || format!("reading the image {name}");
    let value: Value = serde_json::from_slice(&store.read(&manifest.digest)?).doing(doing)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let config: Value = serde_json::from_slice(&store.read(&text(&value["config"]["digest"]).parse()?)?).doing(doing)?;
    let boot: Boot = serde_json::from_str(&text(&config["config"]["Labels"]["dev.ostack.boot"])).doing(doing)?;
    let mut layers = Vec::new();
    let (mut kernel, mut initrd) = (None, None);
    for entry in value["layers"].as_array().into_iter().flatten() {
        let blob = Blob { digest: text(&entry["digest"]).parse()?, size: entry["size"].as_u64().unwrap_or(0) };
        let note = |name: &str| text(&entry["annotations"][name]);
        match text(&entry["mediaType"]).as_str() {
            KERNEL => kernel = Some(blob),
            INITRD => initrd = Some(blob),
            _ => layers.push(Layer {
                name: note("dev.ostack.name"),
                kind: note("dev.ostack.kind"),
                diff_id: note("dev.ostack.diff-id").parse()?,
                blob,
            }),
        }
    }
    let missing = || Error::new("the manifest has no kernel or no initrd").doing(doing());
    Ok(Image {
        manifest,
        role: boot.role,
        release: boot.release,
        layers,
        kernel: kernel.ok_or_else(missing)?,
        initrd: initrd.ok_or_else(missing)?,
        command_line: boot.command_line,
        state: boot.state,
        packages: boot.packages,
        epoch: boot.epoch,
    })
}

/// The digest of a manifest's config.
///
/// # Errors
/// The manifest is absent or damaged.
pub fn config(store: &Store, manifest: &Digest) -> Result<Digest> {
    let value: Value = serde_json::from_slice(&store.read(manifest)?).doing(|| format!("reading the manifest {manifest}"))?;
    value["config"]["digest"].as_str().unwrap_or_default().parse()
}

fn find(store: &Store, name: &str) -> Result<Blob> {
    if let Some(blob) = store.reference(name)? {
        return Ok(blob);
    }
    let none = || Error::new(format!("the store {} has no image `{name}`", store.root().display()));
    if let Some(digits) = name.strip_prefix("sha256:").filter(|digits| digits.len() >= 8) {
        let mut found: Vec<Digest> = Vec::new();
        for path in crate::base::fs::sorted_dir(&store.pool())? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(digits)
                && let Ok(digest) = Digest::from_hex(&name)
            {
                found.push(digest);
            }
        }
        return match found[..] {
            [digest] => Ok(Blob { digest, size: store.read(&digest)?.len() as u64 }),
            [] => Err(none().next("build it, or name another store with --store")),
            _ => Err(Error::new(format!("`{name}` begins several digests")).next("write more digits")),
        };
    }
    let known = store.references()?;
    if let Some(now) = name.strip_suffix(PREVIOUS)
        && known.iter().any(|known| known == now)
    {
        return Err(Error::new(format!("`{now}` was built once only: there is no image before it"))
            .next("name the two images to compare"));
    }
    let next = if known.is_empty() {
        format!("run: ostack-image build {}", name.strip_suffix(PREVIOUS).unwrap_or(name))
    } else {
        format!("use one of: {}", known.join(", "))
    };
    Err(none().next(next))
}

/// Seconds since 1970 as RFC 3339 in UTC.
pub fn humane(seconds: i64) -> String {
    Moment::at(u64::try_from(seconds).unwrap_or(0)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_in_utc() {
        assert_eq!(humane(0), "1970-01-01T00:00:00Z");
        assert_eq!(humane(1_709_210_096), "2024-02-29T12:34:56Z");
    }
}
