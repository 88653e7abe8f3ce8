//! The program on a node: init of the initrd, and `report`.

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    std::process::exit(ostack_image::node::main(&args));
}
