//! GRUB for BIOS and UEFI, put where firmware looks without its installer.
//!
//! ```text
//! sector 0            first sector of p1                       EFI/BOOT/BOOTX64.EFI in p2
//! +----------------+  +-----------------------+-------------+  +------------------------+
//! | boot.img       |->| core.img sector 0     |->| the rest |  | grub x86_64-efi        |
//! | 0x5c: LBA u64  |  | 0x1f4: LBA u64,       |  |          |  |                        |
//! | 0x66: NOP NOP  |  | sectors u16, seg. u16 |  |          |  |                        |
//! +----------------+  +-----------------------+-------------+  +------------------------+
//! ```
//!
//! The patches are those of `grub-bios-setup` (util/setup.c, include/grub/i386/pc/boot.h), which itself wants a mounted
//! disk. Both platforms then find the ESP by its label and read `/grub/grub.cfg` from it. The images are made by
//! `grub-mkimage`, which the caller runs: its version is an input of the image.

use crate::base::error::{Error, Result};
use crate::base::gpt::SECTOR;
use crate::image::esp;

/// What `grub-mkimage` shall make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MkImage {
    /// Its `--format`: `i386-pc` or `x86_64-efi`.
    pub format: String,
    /// Its `--prefix`.
    pub prefix: String,
    /// The content of its `--config` file.
    pub config: String,
    /// The modules to build in.
    pub modules: Vec<String>,
}

/// The boot loader, ready to be laid on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grub {
    /// The MBR's boot code.
    pub boot: [u8; 440],
    /// The BIOS boot partition's content.
    pub core: Vec<u8>,
    /// `EFI/BOOT/BOOTX64.EFI`.
    pub efi: Vec<u8>,
}

const MODULES: [&str; 9] = ["part_gpt", "fat", "search", "search_label", "normal", "configfile", "linux", "echo", "test"];

/// boot.img: where it finds the first sector of core.img.
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// boot.img: a jump that decides by the drive's number whether to trust it; two NOPs trust the firmware.
const BOOT_DRIVE_CHECK: usize = 0x66;
/// core.img: the last block list entry of its first sector.
const CORE_BLOCKLIST: usize = 0x1f4;
/// Where the rest of core.img is loaded: GRUB_BOOT_MACHINE_KERNEL_SEG + (512 >> 4).
const CORE_SEGMENT: u16 = 0x820;

/// What to ask of `grub-mkimage` for BIOS and for UEFI.
pub fn requests() -> [MkImage; 2] {
    // The partition that the firmware started from comes first, so that a second disk with the same label (an
    // installer's, a mirror's) does not take over.
    let config = format!(
        "search --no-floppy --label --set=root --hint=$root {}\nset prefix=($root)/grub\nconfigfile ($root)/grub/grub.cfg\n",
        esp::LABEL
    );
    let with = |more: &[&str]| MODULES.iter().chain(more).map(|module| (*module).to_string()).collect();
    [
        MkImage {
            format: "i386-pc".into(),
            prefix: "(,gpt2)/grub".into(),
            config: config.clone(),
            modules: with(&["biosdisk", "serial", "terminal"]),
        },
        MkImage {
            format: "x86_64-efi".into(),
            prefix: "/grub".into(),
            config,
            modules: with(&["efi_gop", "efi_uga", "all_video"]),
        },
    ]
}

/// Makes the boot loader. `boot_img` is GRUB's `i386-pc/boot.img`, `first` the first sector of the BIOS boot partition.
///
/// # Errors
/// `mkimage` fails, or its images or `boot_img` are none.
pub fn build(mkimage: &dyn Fn(&MkImage) -> Result<Vec<u8>>, boot_img: &[u8], first: u64) -> Result<Grub> {
    let [bios, uefi] = requests();
    let make = |request: &MkImage| mkimage(request).map_err(|error| error.doing(format!("making GRUB for {}", request.format)));
    let mut core = make(&bios)?;
    let efi = make(&uefi)?;
    if boot_img.len() != 512 || boot_img[510..] != [0x55, 0xaa] {
        return Err(Error::new("GRUB's boot.img is no boot sector").next("take i386-pc/boot.img of the grub-pc-bin package"));
    }
    if core.len() < 1024 || !efi.starts_with(b"MZ") {
        return Err(Error::new("grub-mkimage made no core image").next("use grub-mkimage of GRUB 2.06 or later"));
    }
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let sectors = u16::try_from(core.len() as u64 / SECTOR - 1)
        .map_err(|_| Error::new("GRUB's core image has more than 32 MiB").next("name fewer modules"))?;
    core[CORE_BLOCKLIST..CORE_BLOCKLIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
    core[CORE_BLOCKLIST + 8..CORE_BLOCKLIST + 10].copy_from_slice(&sectors.to_le_bytes());
    core[CORE_BLOCKLIST + 10..CORE_BLOCKLIST + 12].copy_from_slice(&CORE_SEGMENT.to_le_bytes());
    let mut boot = [0; 440];
    boot.copy_from_slice(&boot_img[..440]);
    boot[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    boot[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].fill(0x90);
    Ok(Grub { boot, core, efi })
}

/// The text of `/grub/grub.cfg` with one entry. `folder` is the folder in the ESP that has `vmlinuz` and `initrd`.
///
/// # Errors
/// An argument of the command line has a single quote or a line break, which GRUB's script cannot quote.
pub fn config(title: &str, folder: &str, cmdline: &str, timeout: u32) -> Result<String> {
    let args: Vec<String> = cmdline.split_whitespace().map(quoted).collect::<Result<_>>()?;
    Ok(format!(
        "set timeout={timeout}\n\
         set default=0\n\
         # UEFI firmware shows its console on serial lines by itself.\n\
         if [ \"$grub_platform\" = pc ]; then\n\
         \x20 if serial --unit=0 --speed=115200; then\n\
         \x20   terminal_input console serial\n\
         \x20   terminal_output console serial\n\
         \x20 fi\n\
         fi\n\
         menuentry {} {{\n\
         \x20 linux /{folder}/vmlinuz {}\n\
         \x20 initrd /{folder}/initrd\n\
         }}\n",
        quoted(title)?,
        args.join(" "),
    ))
}

fn quoted(word: &str) -> Result<String> {
    if word.contains(['\'', '\n']) {
        return Err(Error::new(format!("GRUB cannot take `{word}` on a kernel command line")).next("leave out quotes"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    Ok(if word.chars().all(plain) { word.to_string() } else { format!("'{word}'") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_and_the_core_image_name_their_next_sectors() {
        let mut boot_img = vec![0xee; 512];
        boot_img[510..].copy_from_slice(&[0x55, 0xaa]);
        let make = |request: &MkImage| Ok(if request.format == "i386-pc" { vec![0xcc; 2000] } else { b"MZ".to_vec() });
        let grub = build(&make, &boot_img, 2048).unwrap();
        assert_eq!(grub.boot[0x5b..0x69], [0xee, 0, 8, 0, 0, 0, 0, 0, 0, 0xee, 0xee, 0x90, 0x90, 0xee]);
        assert_eq!(grub.core.len(), 2048);
        assert_eq!(grub.core[0x1f3..0x201], [0xcc, 1, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0x20, 8, 0xcc]);
    }

    #[test]
    fn the_menu_boots_one_kernel_with_its_command_line() {
        let text = config("controller 0123456789ab", "ostack/0123456789ab", "quiet a=b;c", 1).unwrap();
        let entry = text.split("fi\nfi\n").nth(1).unwrap();
        assert_eq!(
            entry,
            "menuentry 'controller 0123456789ab' {\n  linux /ostack/0123456789ab/vmlinuz quiet 'a=b;c'\n  \
             initrd /ostack/0123456789ab/initrd\n}\n"
        );
        assert!(config("t", "f", "a='b'", 1).is_err());
    }
}
