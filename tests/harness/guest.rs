//! What a server of the test boots: the kernel of the images, and an initrd that says on its console what it finds.

use super::cloud::{CONTROLLERS, Cloud, output};
use super::table::until;
use std::process::Command;
use std::time::Duration;

/// The files of an image: `/root/guest/{vmlinuz,initrd,disk}` on the first controller.
pub struct Guest;

impl Guest {
    /// Uploads them as the image `guest`.
    pub fn upload(cloud: &Cloud) -> Result<(), String> {
        Self::make(cloud)?;
        let load = |file: &str, format: &str, name: &str, more: &str| {
            let container = if format == "raw" { "bare" } else { format };
            let words = format!("--file /root/guest/{file} --disk-format {format} --container-format {container}{more} {name}");
            cloud.openstack(&format!("image create {words}")).map(|image| image["id"].as_str().unwrap_or_default().to_string())
        };
        let (kernel, initrd) = (load("vmlinuz", "aki", "guest-kernel", "")?, load("initrd", "ari", "guest-initrd", "")?);
        load("disk", "raw", "guest", &format!(" --property kernel_id={kernel} --property ramdisk_id={initrd}")).map(|_| ())
    }

    /// A server `first` of it in a network of its own; gives its address.
    pub fn serve(cloud: &Cloud) -> Result<String, String> {
        if cloud.openstack("server show first").is_err() {
            Self::upload(cloud)?;
            let script = "set -e; export OS_CLOUD=admin; openstack network create inner; \
                openstack subnet create --network inner --subnet-range 10.77.0.0/24 inner; \
                openstack flavor create --ram 192 --disk 1 --vcpus 1 small; \
                openstack server create --wait --image guest --flavor small --network inner first";
            cloud.on(CONTROLLERS[0], script)?;
        }
        Self::says(cloud, "GUEST address 10.77.0.")
    }

    /// Waits until the server's console has a line with these words; gives the line.
    pub fn says(cloud: &Cloud, wanted: &str) -> Result<String, String> {
        until(Duration::from_secs(300), || {
            let log = cloud.on(CONTROLLERS[0], "openstack --os-cloud admin console log show first")?;
            let said: Vec<&str> = log.lines().filter(|line| line.contains("GUEST ")).collect();
            let found = said.iter().find(|line| line.contains(wanted));
            found.map(|line| line.trim().to_string()).ok_or_else(|| format!("its console says: {said:?}"))
        })
    }

    /// Makes them.
    fn make(cloud: &Cloud) -> Result<(), String> {
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
