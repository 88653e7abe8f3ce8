# `make controller` leaves out/controller.qcow2; `make test` runs every test. Both install what they lack (as root).

cargo := cargo
program := target/x86_64-unknown-linux-gnu/release/ostack-image

.PHONY: controller test bench program clean

controller: program ; $(program) build controller --relock
test: controller ; scripts/setup test && $(cargo) test --release --locked
bench: program ; scripts/setup bench && benches/run
program: ; scripts/setup build && $(cargo) build --release --locked
clean: ; rm -rf out target
