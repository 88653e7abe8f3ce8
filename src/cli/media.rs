//! What `build --format iso` and `netboot` share: the roots of loaders and tools, and the medium itself.

use super::build::Work;
use super::fetch;
use crate::base::digest::Blob;
use crate::base::error::Result;
use crate::deploy::describe::describe;
use crate::deploy::iso::Iso;
use crate::image::artifact::{Artifact, Maker};
use crate::image::step;
use crate::image::tools::{loaders, tools};
use crate::lock::ReleaseLock;
use crate::plan::{Package, RolePlan};
use std::path::PathBuf;

/// The roots of tools and of loaders, fetched and unpacked if need be.
pub(super) fn roots(work: &Work<'_>, plan: &RolePlan, lock: &mut ReleaseLock) -> Result<(PathBuf, PathBuf)> {
    let Work { session, store, write_lock, global, steps, .. } = work;
    let mut wanted: Vec<&Package> = Vec::new();
    for (key, packages) in [(&plan.tools, &plan.locked.tools), (&plan.loaders, &plan.locked.loaders)] {
        if !store.tools(&key.digest()).exists() {
            wanted.extend(packages);
        }
    }
    if !wanted.is_empty()
        && let Some(newer) = fetch::packages(session, store, lock, &wanted, global.offline, None)?
    {
        *lock = newer;
    }
    Ok((tools(store, write_lock, plan, *steps)?, loaders(store, write_lock, plan, *steps)?))
}

/// The archive with the drivers that an installer has besides those of the role's initrd.
pub(super) fn drivers(work: &Work<'_>, plan: &RolePlan) -> Result<Blob> {
    work.builder(plan, work.session.node_program()?, &work.store.scratch().join("installer")).installer()
}

/// Writes the role's medium.
pub(super) fn iso(work: &Work<'_>, plan: &RolePlan, maker: &Maker<'_>, lock: &mut ReleaseLock) -> Result<Artifact> {
    let (tools, loaders) = roots(work, plan, lock)?;
    step::timed(work.steps, "iso", || {
        let spec = work.session.project.iso()?;
        let described = &describe(maker, &tools)?;
        let drivers = drivers(work, plan)?;
        let path = work.session.out.join(format!("{}.iso", plan.role));
        let iso = Iso { site: &work.session.site, spec: &spec, maker, described, drivers, tools: &tools, loaders: &loaders };
        let (digest, size) = iso.write(&path)?;
        Ok(Artifact { format: "iso".to_string(), path, digest, size })
    })
}
