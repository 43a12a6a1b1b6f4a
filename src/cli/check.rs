//! `fogbeat check`

use super::{Common, Failure, output};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    if options.json {
        return output::print_json(&config);
    }
    output::print(&config.to_toml().map_err(Failure::defect)?)
}
