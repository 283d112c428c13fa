//! `culvert`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_cli::main()
}
