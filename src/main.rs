//! The command line: parse, dispatch, print the error, exit.

use ostack_image::layer::sandbox;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(sandbox::VERB) {
        return match sandbox::enter(std::path::Path::new(&args[2])) {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(e) => { eprintln!("error: {e}"); ExitCode::FAILURE }
        };
    }
    ExitCode::SUCCESS
}
