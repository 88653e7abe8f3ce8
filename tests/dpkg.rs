//! Packages that are laid down side by side become what dpkg makes of them, one after the other.

mod harness;

use harness::Test;
use harness::role::role;

const RELEASE: &str = "recipes/releases/small.toml";

/// A table of the release that has dpkg unpack every package.
fn by_dpkg(test: Test) -> Test {
    test.append(RELEASE, "\n[configure]\ndpkg_unpacks = true\n")
}

#[test]
fn layers_have_every_byte_that_they_have_when_dpkg_unpacks_each_package() {
    let test = by_dpkg(role().unbuilt());
    let json = test.run(["build", "compute", "--json"]).json();
    // Both have done the step, and not found it.
    assert!(json["seconds"]["packages"].is_number() && role().json["seconds"]["packages"].is_number());
    assert_eq!([&json["layers"], &json["image"]], [&role().json["layers"], &role().json["image"]]);
}
