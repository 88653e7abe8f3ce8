# `make controller` leaves out/controller.qcow2; `make test` runs every test of the program and of single nodes, `make test-cluster`
# the acceptance of a whole cloud, `make test-faults` all that it must survive, `make test-provision` what makes blank machines
# nodes, `make test-reproducible` that a controller has the same bytes wherever it is built, `make test-dpkg` that they are those which
# dpkg alone leaves. They install what they lack (as root).

cargo := cargo
program := target/x86_64-unknown-linux-gnu/release/ostack-image

# test-provision is not part of test: with it and test-cluster, a pipeline of 90 minutes on two slow cores would be too short.
.PHONY: controller test test-cluster test-faults test-provision test-reproducible test-dpkg bench program clean

controller: program ; $(program) build controller --relock
test: controller ; scripts/setup test && $(cargo) test --release --locked
# Their tables are what matters, so they are shown.
test-cluster: ; scripts/setup cluster && $(cargo) test --release --locked --test cluster -- --nocapture
test-faults: ; scripts/setup cluster && $(cargo) test --release --locked --test faults -- --nocapture
test-provision: ; scripts/setup test && $(cargo) test --release --locked --test provision
test-reproducible: ; scripts/setup test && $(cargo) test --release --locked --test reproducible
test-dpkg: ; scripts/setup test && $(cargo) test --release --locked --test controller_dpkg
bench: program ; scripts/setup bench && benches/run
program: ; scripts/setup build && $(cargo) build --release --locked
clean: ; rm -rf out target
