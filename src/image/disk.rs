//! The boot disk: where everything lies, and the extents that say so.
//!
//! ```text
//! 0       1 MiB        2 MiB                                                          end
//! +-------+------------+------------+---------------------------+---------------+-------+
//! | GPT,  | 1          | 2          | 3 ostack-system           | free: the     | GPT   |
//! | boot  | ostack-bios| ostack-esp | index, layers             | first boot    | backup|
//! | code  | core.img   | FAT32      | (see base::bundle)        | makes p4 here |       |
//! +-------+------------+------------+---------------------------+---------------+-------+
//! ```
//!
//! The disk starts by BIOS and by UEFI. The disk's and the partitions' GUIDs are derived from the image's digest and
//! `disk` or the partition's name (see [`Guid::derived`]), the ESP's volume id likewise: no two builds differ.

use crate::base::bundle::{ALIGNMENT as LAYER_ALIGNMENT, BootIndex, BootLayer, BootState, INDEX_SIZE, SYSTEM_PARTITION};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::gpt::{self, Guid, Partition, SECTOR, Table};
use crate::image::esp::{self, EspFile};
use crate::image::extent::Extent;
use crate::image::grub::{self, Grub, MkImage};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The size of a disk when nobody says another: 10 GiB, nearly all of it a hole.
pub const DEFAULT_SIZE: u64 = 10 << 30;
/// The first sector of the BIOS boot partition.
pub const BIOS_FIRST: u64 = gpt::ALIGNMENT;

const MIB: u64 = 1 << 20;
/// The BIOS boot partition's size in bytes.
const BIOS_SIZE: u64 = MIB;

/// A layer as it is stored.
#[derive(Debug, Clone)]
pub struct Layer {
    /// For people.
    pub name: String,
    /// The sha256 of the file.
    pub digest: Digest,
    /// The filesystem image.
    pub path: PathBuf,
    /// The file's length in bytes.
    pub size: u64,
}

/// Everything that goes onto a disk.
pub struct Disk<'a> {
    /// The digest of the image's manifest.
    pub image: Digest,
    /// The image's role.
    pub role: &'a str,
    /// The image's release.
    pub release: &'a str,
    /// The layers, the bottom one first.
    pub layers: &'a [Layer],
    /// What outlives a reboot.
    pub state: &'a [BootState],
    /// The kernel.
    pub kernel: &'a [u8],
    /// The initrd, see `initrd`.
    pub initrd: &'a [u8],
    /// The kernel's command line; it must name the image.
    pub cmdline: &'a str,
    /// How long GRUB waits, in seconds.
    pub timeout: u32,
    /// GRUB's `i386-pc/boot.img`.
    pub boot_img: &'a [u8],
    /// Runs `grub-mkimage`.
    pub mkimage: &'a dyn Fn(&MkImage) -> Result<Vec<u8>>,
    /// The least size of the system partition in bytes. The state begins behind it, so what is reserved here is what a
    /// later, larger image may grow by without moving the state; holes cost nothing in a file.
    pub reserve: u64,
    /// The disk's size in bytes; `None` for the smallest that holds the content.
    pub size: Option<u64>,
}

/// Where everything lies: a pure function of sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// The disk's size in bytes.
    pub size: u64,
    /// The ESP: first byte and length.
    pub esp: (u64, u64),
    /// The system partition: first byte and length.
    pub system: (u64, u64),
    /// The layers' first bytes, counted from the system partition's.
    pub layers: Vec<u64>,
}

impl DiskPlan {
    /// Lays out an ESP of `esp` bytes and layers of these sizes, in a system partition of `reserve` bytes or more, on a
    /// disk of `size` bytes, or the smallest one.
    ///
    /// # Errors
    /// `size` is too small or not whole sectors.
    pub fn new(esp: u64, layers: &[u64], reserve: u64, size: Option<u64>) -> Result<Self> {
        let mut end = INDEX_SIZE;
        let mut offsets = Vec::new();
        for layer in layers {
            let offset = end.next_multiple_of(LAYER_ALIGNMENT);
            offsets.push(offset);
            end = offset + layer;
        }
        let esp = (BIOS_FIRST * SECTOR + BIOS_SIZE, esp.next_multiple_of(MIB));
        let system = (esp.0 + esp.1, end.max(reserve).next_multiple_of(MIB));
        // Room for the backup table; a whole MiB, as tools round disks.
        let least = system.0 + system.1 + MIB;
        let size = size.unwrap_or(least);
        if size < least || !size.is_multiple_of(SECTOR) {
            return Err(Error::new(format!("a disk of {size} bytes cannot hold this image, which needs {least}"))
                .next(format!("make the disk {} MiB or larger", least / MIB)));
        }
        Ok(Self { size, esp, system, layers: offsets })
    }

    /// The partition table of `image`'s disk.
    ///
    /// # Errors
    /// A partition does not fit; [`DiskPlan::new`] would have refused that.
    pub fn table(&self, image: &Digest) -> Result<Table> {
        let mut table = Table { disk: Guid::derived(image, "disk"), sectors: self.size / SECTOR, partitions: BTreeMap::new() };
        let bios = (BIOS_FIRST * SECTOR, BIOS_SIZE);
        for (name, kind, (start, length)) in [
            ("ostack-bios", Guid::BIOS_BOOT, bios),
            ("ostack-esp", Guid::ESP, self.esp),
            (SYSTEM_PARTITION, Guid::LINUX, self.system),
        ] {
            table.add(Partition {
                kind,
                id: Guid::derived(image, name),
                first: start / SECTOR,
                last: (start + length) / SECTOR - 1,
                attributes: 0,
                name: name.into(),
            })?;
        }
        Ok(table)
    }
}

/// What lies between a disk's tables.
pub struct Laid {
    /// Where everything is.
    pub plan: DiskPlan,
    /// The MBR's boot code.
    pub boot: [u8; 440],
    /// From the BIOS boot partition to the last layer.
    pub extents: Vec<Extent>,
}

/// Lays everything out that lies between the tables.
///
/// # Errors
/// As [`layout`].
pub fn lay(disk: &Disk) -> Result<Laid> {
    let named = format!("{}={}", crate::base::bundle::IMAGE_ARGUMENT, disk.image);
    if !disk.cmdline.split_whitespace().any(|word| word == named) {
        return Err(Error::new("the kernel command line does not name the image").next(format!("add `{named}` to it")));
    }
    let grub = grub::build(disk.mkimage, disk.boot_img, BIOS_FIRST)?;
    if grub.core.len() as u64 > BIOS_SIZE {
        return Err(Error::new("GRUB's core image is larger than its partition of 1 MiB").next("name fewer modules"));
    }
    let files = esp_files(disk, &grub)?;
    let sizes: Vec<u64> = disk.layers.iter().map(|layer| layer.size).collect();
    let plan = DiskPlan::new(esp::size(&files), &sizes, disk.reserve, disk.size)?;
    let id = Guid::derived(&disk.image, "esp-volume").0;
    let esp = esp::build(files, plan.esp.1, u32::from_le_bytes([id[0], id[1], id[2], id[3]]), plan.esp.0)?;
    let mut extents = vec![Extent::bytes(BIOS_FIRST * SECTOR, grub.core)];
    extents.extend(esp);
    extents.push(Extent::bytes(plan.system.0, index(disk, &plan).encode()?));
    for (layer, offset) in disk.layers.iter().zip(&plan.layers) {
        extents.push(Extent::file(plan.system.0 + offset, &layer.path, layer.size));
    }
    Ok(Laid { plan, boot: grub.boot, extents })
}

/// The disk as extents and its size in bytes: write them with [`crate::image::extent::write`] for a raw disk, or
/// through [`crate::image::qcow2::layout`].
///
/// # Errors
/// Something does not fit, the command line does not name the image, or GRUB cannot be made.
pub fn layout(disk: &Disk) -> Result<(Vec<Extent>, u64)> {
    let Laid { plan, boot, extents: between } = lay(disk)?;
    let table = plan.table(&disk.image)?;
    let mut extents = vec![Extent::bytes(0, table.front(&boot))];
    extents.extend(between);
    let back = table.back();
    extents.push(Extent::bytes(plan.size - back.len() as u64, back));
    Ok((extents, plan.size))
}

fn esp_files(disk: &Disk, grub: &Grub) -> Result<Vec<EspFile>> {
    let folder = format!("ostack/{}", disk.image.short());
    let title = format!("{} {}", disk.role, disk.image.short());
    let config = grub::config(&title, &folder, disk.cmdline, disk.timeout)?;
    let file = |path: String, bytes: Vec<u8>| EspFile { path, bytes };
    Ok(vec![
        file("EFI/BOOT/BOOTX64.EFI".into(), grub.efi.clone()),
        file("grub/grub.cfg".into(), config.into_bytes()),
        file(format!("{folder}/vmlinuz"), disk.kernel.to_vec()),
        file(format!("{folder}/initrd"), disk.initrd.to_vec()),
    ])
}

fn index(disk: &Disk, plan: &DiskPlan) -> BootIndex {
    let layers = disk.layers.iter().zip(&plan.layers);
    BootIndex {
        image: disk.image,
        role: disk.role.into(),
        release: disk.release.into(),
        layers: layers
            .map(|(layer, offset)| BootLayer {
                name: layer.name.clone(),
                digest: layer.digest,
                offset: *offset,
                size: layer.size,
            })
            .collect(),
        state: disk.state.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;
    use crate::image::{extent, qcow2};

    const IMAGE: &str = "image";

    fn with_disk<R>(size: Option<u64>, then: impl FnOnce(&Disk) -> R) -> R {
        let folder = tempfile::tempdir().unwrap();
        let layers: Vec<Layer> = [("base", 300_000), ("small", 4096)]
            .into_iter()
            .map(|(name, size)| {
                let path = folder.path().join(name);
                let bytes: Vec<u8> = (0..size).map(|at| (at % 253) as u8 | 1).collect();
                std::fs::write(&path, &bytes).unwrap();
                Layer { name: name.into(), digest: Digest::of(&bytes), path, size: size as u64 }
            })
            .collect();
        let mut boot_img = vec![0xee; 512];
        boot_img[510..].copy_from_slice(&[0x55, 0xaa]);
        let image = Digest::of(IMAGE);
        then(&Disk {
            image,
            role: "controller",
            release: "r",
            layers: &layers,
            state: &[],
            kernel: &[1; 100_000],
            initrd: &[2; 200_000],
            cmdline: &format!("quiet ostack.image={image}"),
            timeout: 1,
            boot_img: &boot_img,
            reserve: 0,
            mkimage: &|request| Ok(if request.format == "i386-pc" { vec![3; 40_000] } else { b"MZ4".to_vec() }),
            size,
        })
    }

    #[test]
    fn parts_follow_each_other_on_whole_mebibytes_and_layers_on_whole_clusters() {
        let plan = DiskPlan::new(64 << 20, &[300_000, 4096, 65_536, 1], 0, None).unwrap();
        assert_eq!(
            plan,
            DiskPlan {
                size: (2 + 64 + 2 + 1) << 20,
                esp: (2 << 20, 64 << 20),
                system: (66 << 20, 2 << 20),
                layers: vec![1 << 20, (1 << 20) + 5 * 65_536, (1 << 20) + 6 * 65_536, (1 << 20) + 7 * 65_536],
            }
        );
        assert!(DiskPlan::new(64 << 20, &[300_000], 0, Some(67 << 20)).is_err());
        assert_eq!(DiskPlan::new(64 << 20, &[300_000], 1 << 30, None).unwrap().system, (66 << 20, 1 << 30));
    }

    #[test]
    fn a_written_disk_is_sound_for_sgdisk_and_the_same_as_raw_and_qcow2() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, qcow2) = (folder.path().join("raw"), folder.path().join("qcow2"));
        with_disk(Some(DEFAULT_SIZE), |disk| {
            let (extents, size) = layout(disk).unwrap();
            extent::write(&raw, &extents, size).unwrap();
            let (extents, length) = qcow2::layout(&extents, size).unwrap();
            extent::write(&qcow2, &extents, length).unwrap();
            assert!(length < 8 << 20, "{length}");
        });
        let sgdisk = |arg: &str| Tool::new("sgdisk").package("gdisk").arg(arg).arg(&raw).run().unwrap().text();
        assert!(sgdisk("-v").contains("No problems found"), "{}", sgdisk("-v"));
        let table: Vec<String> =
            sgdisk("-p").lines().rev().take(3).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            table,
            [
                "3 135168 139263 2.0 MiB 8300 ostack-system",
                "2 4096 135167 64.0 MiB EF00 ostack-esp",
                "1 2048 4095 1024.0 KiB EF02 ostack-bios"
            ]
        );
        let compare =
            Tool::new("qemu-img").package("qemu-utils").args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&raw).arg(&qcow2);
        assert_eq!(compare.run().unwrap().text(), "Images are identical.\n");
        let bytes = std::fs::File::open(&raw).unwrap();
        let mut block = vec![0; INDEX_SIZE as usize];
        std::os::unix::fs::FileExt::read_exact_at(&bytes, &mut block, 66 << 20).unwrap();
        let index = BootIndex::decode(&block).unwrap();
        for layer in &index.layers {
            let mut stored = vec![0; layer.size as usize];
            std::os::unix::fs::FileExt::read_exact_at(&bytes, &mut stored, (66 << 20) + layer.offset).unwrap();
            assert_eq!(Digest::of(stored), layer.digest, "{}", layer.name);
        }
        assert_eq!((index.image, index.role.as_str(), index.layers.len()), (Digest::of(IMAGE), "controller", 2));
    }

    #[test]
    fn the_same_disk_twice_has_the_same_digest() {
        let once = || with_disk(None, |disk| layout(disk).and_then(|(extents, size)| extent::hash(&extents, size)).unwrap());
        assert_eq!(once(), once());
    }

    #[test]
    fn a_command_line_without_the_image_is_refused() {
        with_disk(None, |disk| {
            let error = layout(&Disk { cmdline: "quiet", layers: disk.layers, ..*disk }).err().unwrap();
            assert_eq!(error.remedy().unwrap(), format!("add `ostack.image={}` to it", Digest::of(IMAGE)));
        });
    }
}
