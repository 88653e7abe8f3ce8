//! A medium with installer and image: one file for CD drives and for sticks, by BIOS and by UEFI.
//!
//! ```text
//! sector 0        ISO 9660
//! +------------+  +----------------------------------------------------------------------------+
//! | GRUB's     |->| boot/grub/bios.img: GRUB for BIOS     boot/efi.img: FAT, EFI/BOOT/BOOTX64.EFI|
//! | hybrid MBR |  | boot/grub/grub.cfg, blobs/sha256/…    (a partition of the GPT, too)          |
//! +------------+  +----------------------------------------------------------------------------+
//! ```
//!
//! It has no secret: the node's seed comes on a volume of its own, which the installer copies to the disk. xorriso writes the
//! filesystem; all its dates are the image's.

use super::describe::Described;
use super::netboot::blob_path;
use crate::base::digest::{Blob, Digest};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::image::artifact::{Maker, mkimage};
use crate::image::esp::{self, EspFile};
use crate::image::grub::MkImage;
use crate::image::initrd;
use crate::image::{copy, extent};
use crate::layer::sandbox::Sandbox;
use crate::model::install::{FORMAT, INSTALL_ARGUMENT, Kind, MEDIUM_VOLUME, Machine, ORDERS, Orders, Source};
use crate::model::iso::IsoSpec;
use crate::model::load::ISO_TEMPLATES;
use crate::model::site::Site;
use crate::plan::context::Values;
use crate::plan::render::Templates;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// The template of the boot menu.
const MENU: &str = "grub.cfg.tera";
const ORDERS_ARCHIVE: &str = "boot/orders.img";

/// What a medium is made of.
pub struct Iso<'a> {
    /// The site.
    pub site: &'a Site,
    /// How it starts.
    pub spec: &'a IsoSpec,
    /// The image and its store.
    pub maker: &'a Maker<'a>,
    /// How the image lies on a disk.
    pub described: &'a Described,
    /// The archive with drivers of network cards: a machine is known by its card even where none is used.
    pub drivers: Blob,
    /// The root that has GRUB.
    pub tools: &'a Path,
    /// The root that has xorriso.
    pub loaders: &'a Path,
}

impl Iso<'_> {
    /// Writes the medium to a file, which appears whole or not at all. Gives its sha256 and size.
    ///
    /// # Errors
    /// A template is wrong, a tool fails, or the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(Digest, u64)> {
        let store = self.maker.store;
        let scratch = tempfile::tempdir_in(store.scratch()).doing(|| "creating a scratch folder")?;
        let out = scratch.path();
        let mut grafts = self.small_files(out)?;
        let image = &self.described.description;
        for blob in image.pieces[1..].iter().map(|piece| piece.blob).chain([image.kernel, image.initrd, self.drivers]) {
            store.verify(&blob.digest)?;
            grafts.push(format!("{}=/run/ostack/pool/{}", blob_path(&blob), blob.digest.hex()));
        }
        let epoch = u64::try_from(self.maker.image.epoch).unwrap_or(0);
        let id = image.image.hex();
        let mut command: Vec<String> = vec!["xorriso".into(), "-as".into(), "mkisofs".into(), "-graft-points".into()];
        let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_string()));
        add(&["-quiet", "-volid", MEDIUM_VOLUME, "-rational-rock", "-iso-level", "3"]);
        // Owners and modes of whoever builds are none of the medium's.
        add(&["-uid", "0", "-gid", "0", "-file-mode", "0444", "-dir-mode", "0555"]);
        add(&["--grub2-mbr", "/run/ostack/tools/boot_hybrid.img", "-b", "boot/grub/bios.img", "-no-emul-boot"]);
        add(&["-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"]);
        // In the filesystem, not behind it: its size is more than El Torito's field holds, and UEFI then takes all up to the
        // filesystem's end.
        add(&["--efi-boot", "boot/efi.img", "-efi-boot-part", "--efi-boot-image", "--protective-msdos-label"]);
        // Files' own times are those of now, and so are those of folders that only paths name.
        add(&["--set_all_file_dates", &format!("={epoch}")]);
        add(&["--gpt_disk_guid", &id[..32], "-o", "/run/ostack/out/medium.iso"]);
        command.extend(grafts);
        Sandbox::new(self.loaders)
            .bind(&store.pool(), "/run/ostack/pool")
            .bind(&self.tools.join("usr/lib/grub/i386-pc"), "/run/ostack/tools")
            .bind_writable(out, "/run/ostack/out")
            .env("SOURCE_DATE_EPOCH", &epoch.to_string())
            .run(command, b"")
            .map_err(|error| error.doing("writing the medium"))?;
        let made = out.join("medium.iso");
        let (digest, size) = Digest::of_file(&made)?;
        let new = fs::temporary_beside(file)?;
        copy::copy_range(&fs::open(&made)?, 0, new.as_file(), 0, size)?;
        fs::persist(new, file, 0o644)?;
        Ok((digest, size))
    }

    /// Everything that is in no store, in a folder: what xorriso shall put where.
    fn small_files(&self, out: &Path) -> Result<Vec<String>> {
        let image = &self.described.description;
        let epoch = u64::try_from(self.maker.image.epoch).unwrap_or(0);
        let text = serde_json::to_vec(image).doing(|| "writing the description")?;
        let description = Blob { digest: Digest::of(&text), size: text.len() as u64 };
        let roles = BTreeMap::from([(image.role.clone(), description)]);
        let machines = self.site.nodes.iter().filter(|node| node.role.as_str() == image.role);
        let orders = Orders {
            format: FORMAT,
            site: self.site.name.to_string(),
            source: Source::Medium,
            machines: machines.map(|node| Machine::of(self.site, node)).collect(),
            roles,
        };
        let orders = serde_json::to_vec(&orders).doing(|| "writing the installer's orders")?;
        let search = format!(
            "search --no-floppy --label --set=root {MEDIUM_VOLUME}\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"
        );
        let grub = |target: &crate::model::iso::Target| {
            let request = MkImage {
                format: target.format.clone(),
                prefix: "/boot/grub".into(),
                config: search.clone(),
                modules: target.modules.clone(),
            };
            mkimage(self.tools, &self.maker.store.scratch(), &request)
        };
        let files = [
            ("description", blob_path(&description), text),
            ("boot", blob_path(&image.pieces[0].blob), self.described.boot.clone()),
            ("orders.img", ORDERS_ARCHIVE.to_string(), initrd::file(ORDERS, orders, epoch)),
            ("grub.cfg", "boot/grub/grub.cfg".to_string(), self.menu()?.into_bytes()),
            ("bios.img", "boot/grub/bios.img".to_string(), grub(&self.spec.bios)?),
        ];
        let mut grafts = Vec::new();
        for (name, path, bytes) in files {
            std::fs::write(out.join(name), bytes).doing(|| format!("writing {name}"))?;
            grafts.push(format!("{path}=/run/ostack/out/{name}"));
        }
        let files = vec![EspFile { path: "EFI/BOOT/BOOTX64.EFI".into(), bytes: grub(&self.spec.uefi)? }];
        let size = esp::size(&files);
        let id = image.image.bytes();
        let extents = esp::build(files, size, u32::from_le_bytes([id[0], id[1], id[2], id[3]]), 0)?;
        extent::write(&out.join("efi.img"), &extents, size)?;
        grafts.push("boot/efi.img=/run/ostack/out/efi.img".to_string());
        Ok(grafts)
    }

    fn menu(&self) -> Result<String> {
        let image = &self.described.description;
        let words = format!("{} {INSTALL_ARGUMENT}={}", self.maker.image.command_line, Kind::Missing.as_str());
        let nodes: Vec<&str> =
            self.site.nodes.iter().filter(|node| node.role.as_str() == image.role).map(|node| node.name.as_str()).collect();
        let table = json!({
            "site": { "name": self.site.name }, "role": image.role, "image": image.image,
            "kernel": blob_path(&image.kernel), "initrds": [blob_path(&image.initrd), blob_path(&self.drivers), ORDERS_ARCHIVE.to_string()],
            "command_line": words.trim(), "nodes": nodes,
        });
        let values = Values::of(table);
        if !self.spec.texts.contains_key(MENU) {
            return Err(Error::new(format!("there is no {ISO_TEMPLATES}/{MENU}")).next("write it, or run where images/ is"));
        }
        Templates::parse(&self.spec.texts, Path::new(ISO_TEMPLATES))?.render(MENU, &values)
    }
}
