//! What a server of the test boots: the kernel of the images, and an initrd that says on its console what it finds.

use super::cloud::{CONTROLLERS, Cloud, output};
use std::process::Command;

/// The files of an image: `/root/guest/{vmlinuz,initrd,disk}` on the first controller.
pub struct Guest;

impl Guest {
    /// Makes them.
    pub fn make(cloud: &Cloud) -> Result<(), String> {
        let folder = cloud.folder().join("guest");
        let text = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(folder.join("root/bin")).map_err(text)?;
        std::fs::create_dir_all(folder.join("root/lib")).map_err(text)?;
        std::fs::copy("/usr/bin/busybox", folder.join("root/bin/busybox")).map_err(text)?;
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cluster/guest-init"), folder.join("root/init"))
            .map_err(text)?;
        for module in ["net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net", "drivers/block/virtio_blk"] {
            let name = module.rsplit('/').next().unwrap_or_default();
            let unpacked = cloud.bytes(CONTROLLERS[0], &format!("cd /usr/lib/modules/*/kernel; xz -d -c {module}.ko.xz"))?;
            std::fs::write(folder.join(format!("root/lib/{name}.ko")), unpacked).map_err(text)?;
        }
        let pack = "chmod 755 init; find . | sort | cpio --quiet -o -H newc | gzip -1 > ../initrd";
        output(Command::new("sh").args(["-c", pack]).current_dir(folder.join("root")))?;
        let initrd = std::fs::File::open(folder.join("initrd")).map_err(text)?;
        let place = "mkdir -p /root/guest; cd /root/guest; cp /boot/vmlinuz-* vmlinuz; truncate -s 4M disk; cat > initrd";
        cloud.feed(CONTROLLERS[0], place, initrd).map(|_| ())
    }
}
