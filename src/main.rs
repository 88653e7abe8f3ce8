//! The command line: parse, dispatch, print the error, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    ostack_image::cli::main()
}
