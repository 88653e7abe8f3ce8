//! What an installer has besides a role's initrd: drivers of network cards, and their firmware.
//!
//! A machine that is to be installed starts the role's own kernel and initrd, so that both are served once; the rest comes as a
//! second and a third archive behind it. The third is the site's orders, which `deploy` makes.

use super::build::{Builder, kernel_of};
use super::initrd::{self, Initrd};
use super::step::output;
use crate::base::error::Result;
use crate::base::fs;
use crate::layer::erofs;
use crate::store::{Blob, Record};
use std::collections::BTreeMap;

impl Builder<'_> {
    /// The archive with the drivers of network cards. The base layer must be in the store.
    ///
    /// # Errors
    /// A module that the release names does not exist, or the base is damaged.
    pub fn installer(&self) -> Result<Blob> {
        let key = &self.plan.installer;
        let record = match self.found(key) {
            Some(record) => record,
            None => self.step(key, || {
                let base = self.found(&self.plan.base).map(|record| output(&record, "layer")).transpose()?;
                let base = base.ok_or_else(|| crate::base::error::Error::new("the base is not built yet"))?;
                self.store.verify(&base.digest)?;
                let root = self.scratch.join("base");
                fs::create_dir_all(&root)?;
                erofs::tree(&self.store.path(&base.digest))?.write_to(&root)?;
                let bytes = initrd::extension(
                    &Initrd {
                        node: &[],
                        root: &root,
                        kernel: &kernel_of(&root)?,
                        modules: &self.plan.modules,
                        load: &[],
                        epoch: u64::try_from(self.plan.epoch).unwrap_or(0),
                    },
                    &self.plan.network,
                )?;
                fs::remove_tree(&root)?;
                Ok(Record {
                    outputs: BTreeMap::from([("archive".to_string(), self.store.put_bytes(&bytes)?)]),
                    ..Record::default()
                })
            })?,
        };
        output(&record, "archive")
    }
}
