//! `cargo run --release -p local`: the local stack.

use std::process::ExitCode;

use clap::Parser;
use local::{maintenance, options::Options, process};
use shared::logging;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = logging::init(logging::Format::Text) {
        return process::refuse(&error);
    }
    match &options.command {
        Some(command) => maintenance::run(command, &options.data_dir_of_command()),
        None => process::run(&options),
    }
}
