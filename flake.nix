# The program, and a shell with what working on it takes.
#
# This file is evaluated by parsing only; building needs a Nix installation. There is no flake.lock yet:
# `nix flake lock` writes one.
{
  description = "Turns one site.toml into the bootable images of a high-availability OpenStack";

  # A release whose rustc is 1.88 or later.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs = { self, nixpkgs }:
    let
      # The target that .cargo/config.toml names, and the only one that images are made for.
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      lib = pkgs.lib;
      manifest = lib.importTOML ./Cargo.toml;

      # Both programs are linked statically: ostack-node runs in an initrd, and ostack-image executes itself
      # inside foreign roots. .cargo/config.toml asks for it, but nixpkgs hands cargo flags of its own, and
      # RUSTFLAGS is what overrides both. With a named target it does not reach build scripts.
      static = {
        RUSTFLAGS = "-C target-feature=+crt-static";
        CARGO_BUILD_TARGET = "x86_64-unknown-linux-gnu";
      };

      ostack-image = pkgs.rustPlatform.buildRustPackage {
        pname = manifest.package.name;
        version = manifest.package.version;
        src = lib.cleanSource ./.;
        cargoLock.lockFile = ./Cargo.lock;

        # libc.a for +crt-static; the C code of crates (zstd, liblzma) is compiled with stdenv's compiler.
        buildInputs = [ pkgs.glibc.static ];
        env = static;

        # The tests want root, apt and QEMU: `make test` on Debian runs them.
        doCheck = false;

        # Both binaries are in bin/, side by side as they must be. The data is a project folder to copy:
        # cp -r --no-preserve=mode $out/share/ostack-image mysite && ostack-image -C mysite plan controller
        postInstall = ''
          mkdir -p $out/share/ostack-image
          cp -r recipes overlays images site.toml ostack.lock $out/share/ostack-image/
        '';

        meta = {
          description = manifest.package.description;
          license = lib.licenses.asl20;
          mainProgram = "ostack-image";
          platforms = [ system ];
        };
      };
    in
    {
      packages.${system} = {
        inherit ostack-image;
        default = ostack-image;
      };

      # Locking and building take nothing of this shell: their tools are in the lock. QEMU and the rest are for `boot` and tests.
      devShells.${system}.default = pkgs.mkShell {
        packages = with pkgs; [
          cargo
          rustc
          clippy
          rustfmt
          gnumake
          qemu
          OVMF
          skopeo
          nix
        ];
        buildInputs = [ pkgs.glibc.static ];
        env = static;
      };

      checks.${system} = {
        build = ostack-image;

        # Without the hooks after building and installing: they look for finished programs.
        clippy = ostack-image.overrideAttrs (old: {
          pname = "${old.pname}-clippy";
          nativeBuildInputs = old.nativeBuildInputs ++ [ pkgs.clippy ];
          buildPhase = ''
            runHook preBuild
            cargo clippy --offline --all-targets -- --deny warnings
          '';
          installPhase = "touch $out";
        });

        format = pkgs.runCommand "ostack-image-format" { nativeBuildInputs = [ pkgs.cargo pkgs.rustfmt ]; } ''
          cd ${self}
          cargo fmt --check
          touch $out
        '';
      };
    };
}
