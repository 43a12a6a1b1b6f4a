//! `fogbeat completions`

use clap::CommandFactory;

use super::{Cli, Failure, output};

#[derive(Debug, clap::Args)]
pub struct Options {
    shell: clap_complete::Shell,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "fogbeat", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
