# shellcheck shell=bash disable=SC2154  # variables are of whoever reads this
# The peers that benches/controller.sh compares with, each in the quickest way that its own documentation knows, and with
# exactly the packages of the lock: from a repository of the bench's own, as Debian's archive moves on.
#
# To be read after measure.sh, by one that has set $work, $cache (a folder that stays), $suite, $work/locked (lines
# "NAME VERSION ARCH SHA256" of what the image is made of), $blobs (a folder where
# all of it is), $project and $edited (the file in it that is changed), and fail().

repo=$work/repo tools=$cache/tools
# Room for a controller, and no more, as mkosi copies all of a partition.
root_size=3584M
index=dists/$suite/main/binary-amd64/Packages

# The archive from which this machine's own apt takes Debian.
archive() {
    # shellcheck disable=SC2016  # the word is apt's
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        awk '/\/debian\/?$/ && !found++ { sub("/$", ""); print } END { exit !found }' || fail "this machine's apt has no source of Debian"
}
debian() { echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(archive) $suite main"; }
quiet() { "${@:2}" > "$logs/$1" 2>&1 || fail "$1 failed; its last words: $(tail -n 5 "$logs/$1")"; }

# mkosi and what it needs, as its own default tools tree has it for images such as these. Debian 12's is too old, so it is
# Debian 13's, with all its programs, in a root of its own.
tools_root() {
    [ ! -e "$tools/complete" ] || return 0
    echo "bench: collecting mkosi's tools; once" >&2
    mkdir -p "$cache"
    rm -rf "$tools"
    quiet tools mmdebstrap --mode=root --variant=apt --include="acl,attr,bash,ca-certificates,coreutils,cpio,debian-archive-keyring,\
diffutils,dosfstools,e2fsprogs,findutils,grep,kmod,libarchive13t64,mkosi,mtools,openssl,python3-cryptography,python3-pefile,qemu-utils,\
sed,systemd,systemd-boot-efi,systemd-container,systemd-repart,systemd-ukify,tar,udev,util-linux,xz-utils,zstd" \
        "$suite" "$tools" "$(debian)"
    : >> "$tools/etc/resolv.conf"  # mkosi refuses a tree without
    : > "$tools/complete"
}
# mkosi itself runs on this machine's python, and takes every program from the tools.
mkosi() { PYTHONPATH=$tools/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1 python3 -m mkosi --tools-tree "$tools" "$@"; }

# The repository: the locked packages, and those that only mkosi's initrd has.
repository() {
    local name version arch digest
    mkdir -p "$repo/pool" "$repo/${index%/*}"
    while read -r name version arch digest; do
        ln "$blobs/$digest" "$repo/pool/${name}_${version//:/%3a}_$arch.deb"
    done < "$work/locked"
    describe pool
    initrd_packages
    mkdir "$repo/initrd"
    cp "$cache"/initrd/*.deb "$repo/initrd/"
    describe initrd
}
describe() {
    (cd "$repo" && dpkg-scanpackages --multiversion "$1") >> "$repo/$index" 2> "$logs/scanpackages" ||
        fail "dpkg-scanpackages failed; its last words: $(tail -n 5 "$logs/scanpackages")"
    cat > "$repo/dists/$suite/Release" <<END
Label: locked
Suite: $suite
Codename: $suite
Components: main
Architectures: amd64
Date: $(date -u '+%a, %d %b %Y %T UTC')
SHA256:
 $(sha256sum < "$repo/$index" | cut -d ' ' -f 1) $(stat -c %s "$repo/$index") ${index#"dists/$suite/"}
END
}

# Fetches what mkosi's default initrd has and the lock has not. What fits the locked packages no more, because the archive has
# moved on, becomes a package of nothing: mkosi then has less to do, never more.
initrd_packages() {
    local apt state=$work/apt name names=() had=()
    [ "$(cat "$cache/initrd/of" 2> /dev/null)" != "$(sha256sum < "$work/locked")" ] || return 0
    rm -rf "$cache/initrd"
    mkdir -p "$cache/initrd/partial" "$state/lists/partial"
    { echo "deb [trusted=yes] file:$repo $suite main"; debian; } > "$state/sources.list"
    printf 'Package: *\nPin: release l=locked\nPin-Priority: 1001\n' > "$state/preferences"
    : > "$state/status"
    apt=(apt-get -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root
        -o Dir::Etc::Preferences="$state/preferences" -o Dir::Etc::PreferencesParts=/dev/null -o Dir::Cache="$state"
        -o Dir::Cache::Archives="$cache/initrd" -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status"
        -o APT::Install-Recommends=false -o APT::Architecture=amd64)
    quiet apt-update "${apt[@]}" update
    mapfile -t names < <(mkosi --directory= --distribution=debian --release="$suite" --include=mkosi-initrd --json summary |
        python3 -c 'import json, sys; print(*json.load(sys.stdin)["Images"][0]["Packages"], sep="\n")')
    for name in "${names[@]}"; do
        if "${apt[@]}" --simulate install "$name" > "$logs/apt-simulate" 2>&1; then
            had+=("$name")
        else
            echo "bench: the archive has no $name that fits the lock; mkosi goes without" >&2
            mkdir -p "$state/$name/DEBIAN"
            printf 'Package: %s\nVersion: 0\nArchitecture: all\nMaintainer: bench\nDescription: nothing\n' "$name" \
                > "$state/$name/DEBIAN/control"
            quiet dpkg-deb dpkg-deb --build "$state/$name" "$cache/initrd/"
        fi
    done
    quiet apt-download "${apt[@]}" --yes --download-only install "${had[@]}"
    rm -rf "$cache/initrd/partial" "$cache/initrd/lock"
    sha256sum < "$work/locked" > "$cache/initrd/of"
}
names() { if [ -n "${BENCH_PACKAGES-}" ]; then tr ' ' '\n' <<< "$BENCH_PACKAGES"; else awk '{ print $1 }' "$work/locked"; fi; }

# mmdebstrap: the packages to a tarball. They lie in apt's cache already, by hard links. Sets $wall and $cpu.
debstrap() {
    # shellcheck disable=SC2016  # $1 is for the hook's shell
    local hook='mkdir -p "$1/var/cache/apt/archives/partial"; cp -l '"$repo"'/pool/* "$1/var/cache/apt/archives/"'
    echo "deb [trusted=yes] copy:$repo $suite main" > "$work/locked.list"
    mkdir -p "$work/mmdebstrap/tmp"
    TMPDIR=$work/mmdebstrap/tmp measure mmdebstrap mmdebstrap --mode=root --variant=essential --verbose --skip=essential/unlink \
        --include="$(names | paste -sd,)" --setup-hook="$hook" "$suite" "$work/mmdebstrap/root.tar" "$work/locked.list"
    succeeded mmdebstrap
}

# The disk by hand: GPT, an ESP with systemd-boot and the kernel, an ext4 that mke2fs fills from the tarball, as qcow2.
disk() { measure disk disk_by_hand "$work/mmdebstrap"; succeeded disk; rm "$work"/mmdebstrap/{root.tar,disk.*}; }
disk_by_hand() (
    set -e
    cd "$1"
    # Debian 13's mke2fs reads tarballs, Debian 12's does not. Reading one is quicker than unpacking it first.
    mke2fs() { "$tools/lib64/ld-linux-x86-64.so.2" --library-path "$tools/usr/lib/x86_64-linux-gnu" "$tools/usr/sbin/mke2fs" "$@"; }
    truncate -s $((1 + 128 + ${root_size%M} + 1))M disk.raw
    printf 'label: gpt\nstart=1MiB, size=128MiB, type=uefi\nstart=129MiB, size=%siB, type=linux\n' "$root_size" | sfdisk --quiet disk.raw
    mkdir boot
    tar -C boot --strip-components=2 --wildcards -xf root.tar './boot/vmlinuz-*' './boot/initrd.img-*'
    part=$(sfdisk --part-uuid disk.raw 2)
    printf 'title Debian\nlinux /linux\ninitrd /initrd\noptions root=PARTUUID=%s rw console=ttyS0\n' "${part,,}" > boot/entry
    truncate -s 128M esp
    mkfs.fat -F 32 esp
    mmd -i esp ::EFI ::EFI/BOOT ::loader ::loader/entries
    mcopy -i esp boot/vmlinuz-* ::linux
    mcopy -i esp boot/initrd.img-* ::initrd
    mcopy -i esp boot/entry ::loader/entries/debian.conf
    mcopy -i esp "$tools/usr/lib/systemd/boot/efi/systemd-bootx64.efi" ::EFI/BOOT/BOOTX64.EFI
    dd if=esp of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
    mke2fs -q -t ext4 -d root.tar -E offset=$((129 << 20)) disk.raw "$root_size"
    qemu-img convert -m 2 -W -O qcow2 disk.raw disk.qcow2
)

# mkosi: a disk of the same packages. Partitions have fixed sizes, as it takes half a minute to find out the smallest, and its
# initrd has the modules that it takes for the usual ones instead of all of them. Without SectorSize= its ESP has sectors of
# 4096 bytes, from which no firmware starts.
mkosi_setup() { # name, whether incremental
    local folder=$work/mkosi-$1
    mkdir -p "$folder"/{mkosi.extra/etc/haproxy,mkosi.extra/usr/lib/systemd/boot/efi,mkosi.repart} \
        "$work"/mkosi-{"$1.out","$1.cache",packages}
    cp "$project/$edited" "$folder/mkosi.extra/etc/haproxy/haproxy.cfg"
    # It looks for this in the image, whose packages have none.
    cp "$tools/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$folder/mkosi.extra/usr/lib/systemd/boot/efi/"
    printf '[Partition]\nType=esp\nFormat=vfat\nCopyFiles=/boot:/\nCopyFiles=/efi:/\nSizeMinBytes=128M\nSizeMaxBytes=128M\n' \
        > "$folder/mkosi.repart/00-esp.conf"
    printf '[Partition]\nType=root\nFormat=ext4\nCopyFiles=/\nSizeMinBytes=%s\nSizeMaxBytes=%s\n' "$root_size" "$root_size" \
        > "$folder/mkosi.repart/10-root.conf"
    cat > "$folder/mkosi.conf" <<END
[Distribution]
Distribution=debian
Release=$suite
LocalMirror=file://$repo
RepositoryKeyCheck=no

[Output]
Format=disk
Output=image
OutputDirectory=$work/mkosi-$1.out
SectorSize=512
SplitArtifacts=

[Content]
Bootable=yes
Bootloader=uki
KernelCommandLine=console=ttyS0
KernelModulesInitrdExclude=.*
KernelModulesInitrdInclude=default
Packages=$(names | sed '2,$s/^/    /')

[Build]
BuildSources=
CacheDirectory=$work/mkosi-$1.cache
Incremental=$2
PackageCacheDirectory=$work/mkosi-packages
END
}
mkosi_build() { # name of the measurement, of the setup, options
    # A workspace of the run's own: see chattr in controller.sh. mkosi refuses one inside the project.
    mkdir "$work/$1.workspace"
    measure "$1" mkosi --directory "$work/mkosi-$2" --workspace-directory "$work/$1.workspace" "${@:3}" build
    succeeded "$1"
    [ -s "$work/mkosi-$2.out/image.raw" ] || fail "mkosi made no image; its last words: $(tail -n 5 "$logs/$1")"
    rm "$work/mkosi-$2.out/image.raw"
}
succeeded() { [ "$status" = 0 ] || fail "$1 failed; its last words: $(tail -n 5 "$logs/$1")"; }
